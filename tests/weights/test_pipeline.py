"""Tests that gap_jax reads all that torch's libraries write, and that they read what it writes."""

import copy
import dataclasses
import json
import os
import shutil
from pathlib import Path

import diffusers
import jax
import numpy as np
import pytest
import safetensors.numpy
import torch
import transformers
from safetensors.torch import load_file, save_file

import gap_jax
from gap_jax.diffusion.schedule import Schedule
from gap_jax.weights.pipeline import open_clip, open_pipeline
from tests.torch_references.folders import torch_pipeline

COMPONENTS = ("text_encoder", "vae", "unet", "controlnet")


@pytest.fixture
def folder(sd15, tmp_path):
    """A copy of the Stable Diffusion 1.5 folder, to be changed."""
    return Path(shutil.copytree(sd15.folder, tmp_path / "model"))


def edit_json(path, **changes):
    path.write_text(json.dumps(json.loads(path.read_text()) | changes))


def assert_equal(ours, theirs):
    """Assert that two trees have the same paths, dtypes and bits."""
    assert jax.tree.structure(ours) == jax.tree.structure(theirs)
    for (path, a), b in zip(jax.tree.leaves_with_path(ours), jax.tree.leaves(theirs), strict=True):
        assert a.dtype == b.dtype, path
        np.testing.assert_array_equal(np.asarray(a), np.asarray(b), err_msg=str(path))


def rounded(params, dtype):
    return jax.tree.map(lambda leaf: np.asarray(leaf).astype(dtype), params)


def as_pickle(folder, **options):
    """Replace the only safetensors file of a component by a torch pickle of the same tensors."""
    [weights] = folder.glob("*.safetensors")
    pickled = weights.with_name(weights.name.replace("model.safetensors", "model.bin"))
    if pickled.name == "model.bin":
        pickled = folder / "pytorch_model.bin"
    torch.save(load_file(weights), pickled, **options)
    weights.unlink()


def as_pickle_shards(folder):
    as_pickle(folder)
    [weights] = folder.glob("*.bin")
    tensors = torch.load(weights, weights_only=True)
    shard_of = {key: f"{weights.stem}-0000{i % 2 + 1}-of-00002.bin" for i, key in enumerate(tensors)}
    for shard in set(shard_of.values()):
        torch.save({key: tensors[key] for key in tensors if shard_of[key] == shard}, folder / shard)
    (folder / f"{weights.name}.index.json").write_text(json.dumps({"weight_map": shard_of}))
    weights.unlink()


@pytest.mark.parametrize("variant", [None, "fp16"])
def test_shards_load_like_one_file(sd15, tmp_path, variant):
    sd15.torch.save_pretrained(tmp_path, max_shard_size="50KB", variant=variant)
    for component in COMPONENTS:
        assert len(list((tmp_path / component).glob("*.safetensors"))) > 1
    assert_equal(gap_jax.load_pipeline(tmp_path, variant=variant)[1], sd15.params)


def test_transformers_shards_load_like_one_file(clip, tmp_path):
    folder = Path(shutil.copytree(clip.folder, tmp_path / "model"))
    (folder / "model.safetensors").unlink()
    clip.torch.save_pretrained(folder, max_shard_size="50KB")
    assert len(list(folder.glob("*.safetensors"))) > 1
    assert_equal(gap_jax.load_clip(folder)[1], clip.params)


@pytest.mark.parametrize(
    "convert",
    [
        as_pickle,
        as_pickle_shards,
        lambda folder: as_pickle(folder, _use_new_zipfile_serialization=False),
    ],
    ids=["one file", "shards", "torch < 1.6"],
)
def test_pickled_weights_load_like_safetensors(sd15, folder, convert):
    for component in COMPONENTS:
        convert(folder / component)
    assert_equal(gap_jax.load_pipeline(folder)[1], sd15.params)


def test_pickled_weights_are_no_view_of_their_file(sd15, folder):
    as_pickle(folder / "vae")
    _, params = gap_jax.load_pipeline(folder)
    [file] = (folder / "vae").glob("*.bin")
    with file.open("r+b") as stream:
        stream.write(bytes(file.stat().st_size))
    assert_equal(params, sd15.params)


def test_safetensors_come_first(sd15, folder):
    (folder / "vae" / "diffusion_pytorch_model.bin").write_bytes(b"never read")
    assert_equal(gap_jax.load_pipeline(folder)[1], sd15.params)


def test_variant_reads_its_own_files(sd15, folder):
    half = copy.deepcopy(sd15.torch)
    for component in COMPONENTS:
        getattr(half, component).half()
    half.save_pretrained(folder, variant="fp16")  # beside the float32 files
    assert_equal(gap_jax.load_pipeline(folder)[1], sd15.params)
    expected = rounded(rounded(sd15.params, np.float16), np.float32)
    assert_equal(gap_jax.load_pipeline(folder, variant="fp16")[1], expected)
    pipe, params = gap_jax.load_pipeline(folder)
    params = gap_jax.add_controlnet(pipe, params, folder / "controlnet", variant="fp16")[1]
    assert_equal(params, sd15.params | {"controlnet": expected["controlnet"]})


@pytest.mark.parametrize("stored", ["bfloat16", "float16"])
@pytest.mark.parametrize("extension", ["safetensors", "bin"])
def test_half_precision_files_load_as_float32(sd15, folder, stored, extension):
    file = folder / "vae" / "diffusion_pytorch_model.safetensors"
    save_file({key: tensor.to(getattr(torch, stored)) for key, tensor in load_file(file).items()}, file)
    if extension == "bin":
        as_pickle(folder / "vae")
    _, params = gap_jax.load_pipeline(folder)
    assert_equal(params["vae"], rounded(rounded(sd15.params["vae"], stored), np.float32))


@pytest.mark.parametrize("dtype", ["bfloat16", "float16"])
def test_parameters_get_the_dtype_asked_for(sd15, dtype):
    pipe, params = gap_jax.load_pipeline(sd15.folder, dtype=dtype)
    assert_equal(params, rounded(sd15.params, dtype))
    assert {pipe.unet.dtype, pipe.vae.dtype, pipe.text_encoder.dtype, pipe.controlnet.dtype} == {
        np.dtype(dtype)
    }


def test_names_of_the_published_weights_are_understood(sd15, folder):
    """Stable Diffusion 1.5 has older names in its VAE, and a prefix and a buffer in its text encoder."""
    file = folder / "vae" / "diffusion_pytorch_model.safetensors"
    older = {"to_q": "query", "to_k": "key", "to_v": "value", "to_out.0": "proj_attn"}
    tensors = load_file(file)
    for key in list(tensors):
        for new, old in older.items():
            if f".attentions.0.{new}." in key:
                tensors[key.replace(new, old)] = tensors.pop(key)
    assert "decoder.mid_block.attentions.0.proj_attn.weight" in tensors
    save_file(tensors, file)
    file = folder / "text_encoder" / "model.safetensors"
    tensors = {f"text_model.{key}": tensor for key, tensor in load_file(file).items()}
    save_file(tensors | {"text_model.embeddings.position_ids": torch.arange(77)[None]}, file)
    assert_equal(gap_jax.load_pipeline(folder)[1], sd15.params)


def test_published_pndm_file_gives_ddim_its_betas_and_offset(folder):
    config = {  # the whole scheduler_config.json of Stable Diffusion 1.5
        "_class_name": "PNDMScheduler",
        "_diffusers_version": "0.6.0",
        "beta_end": 0.012,
        "beta_schedule": "scaled_linear",
        "beta_start": 0.00085,
        "num_train_timesteps": 1000,
        "set_alpha_to_one": False,
        "skip_prk_steps": True,
        "steps_offset": 1,
        "trained_betas": None,
        "clip_sample": False,
    }
    (folder / "scheduler" / "scheduler_config.json").write_text(json.dumps(config))
    schedule = gap_jax.load_pipeline(folder)[0].schedule
    assert schedule == Schedule(
        num_train_timesteps=1000,
        beta_start=0.00085,
        beta_end=0.012,
        beta_schedule="scaled_linear",
        steps_offset=1,
        set_alpha_to_one=False,
        timestep_spacing="leading",
        prediction_type="epsilon",
    )
    reference = diffusers.DDIMScheduler.from_config(config)
    reference.set_timesteps(20)
    coefficients = gap_jax.ddim(schedule, 20)
    np.testing.assert_array_equal(coefficients.timestep, reference.timesteps)
    np.testing.assert_allclose(
        coefficients.alpha**2, reference.alphas_cumprod[reference.timesteps], rtol=1e-5
    )


def without_controlnet(folder):
    shutil.rmtree(folder / "controlnet")
    index = json.loads((folder / "model_index.json").read_text()) | {"_class_name": "StableDiffusionPipeline"}
    del index["controlnet"]
    (folder / "model_index.json").write_text(json.dumps(index))


def test_a_component_without_the_variant_is_read_without_it(sd15, folder):
    [weights] = (folder / "unet").glob("*.safetensors")
    weights.rename(weights.with_name("diffusion_pytorch_model.fp16.safetensors"))
    with pytest.warns(UserWarning, match="has no weights of the variant 'fp16': others are read") as warned:
        _, params = gap_jax.load_pipeline(folder, variant="fp16")
    assert len([warning for warning in warned if "variant" in str(warning.message)]) == 3
    assert_equal(params, sd15.params)


def test_another_autoencoder_is_taken_from_its_own_folder(sd15, sd21):
    pipe, params = gap_jax.load_pipeline(sd15.folder, vae=sd21.folder / "vae")
    assert pipe == sd15.pipe
    assert_equal(params["vae"], sd21.params["vae"])
    assert_equal(params["unet"], sd15.params["unet"])


def test_parts_that_torch_ignores_are_ignored_with_a_line(sd15, folder):
    """Some folders hold a whole CLIP in `text_encoder/`."""
    [weights] = (folder / "text_encoder").glob("*.safetensors")
    names = ("text_projection.weight", "vision_model.post_layernorm.weight", "logit_scale")
    surplus = {name: torch.ones(2) for name in names}
    tensors = {f"text_model.{name}": tensor for name, tensor in load_file(weights).items()}
    save_file(tensors | surplus, weights)
    with pytest.warns(UserWarning, match="3 tensors of other parts, such as .*, are not used"):
        _, params = gap_jax.load_pipeline(folder)
    assert_equal(params, sd15.params)


def test_controlnet_comes_with_the_pipeline_or_later(sd15, folder):
    without_controlnet(folder)
    pipe, params = gap_jax.load_pipeline(folder)
    assert pipe.controlnet is None
    assert set(params) == {"text_encoder", "vae", "unet"}
    later = gap_jax.add_controlnet(pipe, params, sd15.folder / "controlnet")
    at_once = gap_jax.load_pipeline(folder, controlnet=str(sd15.folder / "controlnet"))
    for pipe, params in (later, at_once):
        assert pipe == sd15.pipe
        assert_equal(params, sd15.params)


def test_controlnet_given_replaces_the_pipelines_own(sd15, sd21, tmp_path):
    other = torch_pipeline("sd15", tmp_path / "tokenizer", channel_order="bgr").controlnet
    torch.nn.init.ones_(other.conv_in.bias)
    other.save_pretrained(tmp_path / "other")
    pipe, params = gap_jax.load_pipeline(sd15.folder, controlnet=tmp_path / "other", dtype="bfloat16")
    assert pipe.controlnet.controlnet_conditioning_channel_order == "bgr"
    assert pipe.controlnet.dtype == "bfloat16"
    assert_equal(params["controlnet"]["conv_in"]["bias"], np.ones(other.conv_in.bias.shape, "bfloat16"))


@pytest.mark.parametrize("kind", ["sd15", "sd21", "inpaint", "plain"])
def test_torch_loads_what_is_saved(models, tmp_path, kind):
    model = models("sd15" if kind == "plain" else kind)
    pipe, params, original = model.pipe, model.params, model.torch
    if kind == "plain":
        pipe = dataclasses.replace(pipe, controlnet=None)
        parts = {name: part for name, part in original.components.items() if name != "controlnet"}
        original = diffusers.StableDiffusionPipeline(**parts, requires_safety_checker=False)
    gap_jax.save_pipeline(pipe, params, tmp_path / "saved")
    reloaded = diffusers.DiffusionPipeline.from_pretrained(tmp_path / "saved")
    assert type(reloaded) is type(original)
    assert set(reloaded.components) == set(original.components)
    for name in (name for name in COMPONENTS if hasattr(original, name)):
        ours, theirs = getattr(reloaded, name), getattr(original, name)
        assert type(ours) is type(theirs)
        assert settings(ours) == settings(theirs)
        expected = theirs.state_dict()
        assert set(ours.state_dict()) == set(expected)
        assert all(torch.equal(tensor, expected[key]) for key, tensor in ours.state_dict().items())
    assert settings(reloaded.scheduler) == settings(original.scheduler)


def settings(component):
    """Return the part of a component's configuration on which its computation depends."""
    config = component.config if isinstance(component.config, dict) else component.config.to_dict()
    config = json.loads(json.dumps(config))  # tuples and lists alike
    ignored = {"architectures", "bos_token_id", "dtype", "model_type", "transformers_version"}
    return {key: value for key, value in config.items() if key[0] != "_" and key not in ignored}


@pytest.mark.parametrize("kind", ["sd15", "sd21"])
def test_torch_makes_the_same_image_from_what_is_saved(models, tmp_path, kind):
    model = models(kind)
    gap_jax.save_pipeline(model.pipe, model.params, tmp_path / "saved")
    reloaded = diffusers.DiffusionPipeline.from_pretrained(tmp_path / "saved")
    reloaded.set_progress_bar_config(disable=True)

    def image(pipe):
        return pipe(
            "a room, photo",
            torch.linspace(0, 1, 3 * 32 * 48).reshape(1, 3, 32, 48),
            num_inference_steps=2,
            generator=torch.Generator().manual_seed(0),
            output_type="np",
        ).images

    expected = image(model.torch)
    assert expected.std() > 0.01
    np.testing.assert_allclose(image(reloaded), expected, atol=2e-5)  # sums depend on the weights' alignment


@pytest.mark.parametrize("dtype", ["float32", "bfloat16", "float16"])
def test_what_is_saved_loads_back(sd15, tmp_path, dtype):
    pipe, params = gap_jax.load_pipeline(sd15.folder, dtype=dtype)
    gap_jax.save_pipeline(pipe, params, tmp_path / "saved")
    again, its_params = gap_jax.load_pipeline(tmp_path / "saved", dtype=dtype)
    assert (again, hash(again)) == (pipe, hash(pipe))
    assert_equal(its_params, params)


def test_saving_replaces_a_pipeline_and_nothing_else(sd15, folder, tmp_path):
    (folder / "unet" / "stale.bin").touch()
    gap_jax.save_pipeline(sd15.pipe, sd15.params, folder)
    assert not (folder / "unet" / "stale.bin").exists()
    assert_equal(gap_jax.load_pipeline(folder)[1], sd15.params)
    (tmp_path / "thesis").mkdir()
    (tmp_path / "thesis" / "chapter.tex").touch()
    with pytest.raises(FileExistsError, match="thesis must be empty or hold a model to replace"):
        gap_jax.save_pipeline(sd15.pipe, sd15.params, tmp_path / "thesis")
    assert contents(tmp_path / "thesis") == {"chapter.tex": b""}


@pytest.mark.parametrize("fails", ["writing", "replacing"])
def test_failed_save_leaves_the_old_pipeline_and_no_scratch(sd15, folder, monkeypatch, fails):
    def fail(*_, **__):
        raise OSError(28, "No space left on device")

    if fails == "writing":
        save, calls = safetensors.numpy.save_file, iter([None, fail])
        monkeypatch.setattr(safetensors.numpy, "save_file", lambda *a, **k: (next(calls) or save)(*a, **k))
    else:
        move, calls = os.replace, iter([None, fail, None])
        monkeypatch.setattr(os, "replace", lambda *a: (next(calls) or move)(*a))
    before = contents(folder)
    with pytest.raises(OSError, match="No space left"):
        gap_jax.save_pipeline(sd15.pipe, sd15.params, folder)
    assert contents(folder) == before
    assert list(folder.parent.iterdir()) == [folder]


def contents(folder):
    return {str(file.relative_to(folder)): file.read_bytes() for file in folder.rglob("*") if file.is_file()}


def test_transformers_loads_the_clip_that_is_saved(clip, tmp_path):
    gap_jax.save_clip(clip.clip, clip.params, tmp_path / "saved")
    reloaded = transformers.CLIPModel.from_pretrained(tmp_path / "saved")
    expected = clip.torch.state_dict()
    assert set(reloaded.state_dict()) == set(expected)
    assert all(torch.equal(tensor, expected[key]) for key, tensor in reloaded.state_dict().items())
    for model in (lambda clip: clip, lambda clip: clip.text_model, lambda clip: clip.vision_model):
        ours, theirs = settings(model(reloaded)), settings(model(clip.torch))
        for config in (ours, theirs):
            config.pop("text_config", None), config.pop("vision_config", None)
        assert ours == theirs
    again, params = gap_jax.load_clip(tmp_path / "saved")
    assert again == clip.clip
    assert_equal(params, clip.params)


def test_a_pipeline_is_opened_without_its_weights(sd15, clip, tmp_path):
    ignore = shutil.ignore_patterns("*.safetensors")
    for opened, known, made in ((open_pipeline, sd15.pipe, sd15), (open_clip, clip.clip, clip)):
        bare = shutil.copytree(made.folder, tmp_path / opened.__name__, ignore=ignore)
        module, load = opened(bare)
        assert module == known
        with pytest.raises(FileNotFoundError, match="has no weights"):
            load()
    (bare := tmp_path / "open_pipeline" / "controlnet" / "config.json").write_text(
        bare.read_text().replace('"cross_attention_dim": 48', '"cross_attention_dim": 64')
    )
    with pytest.raises(ValueError, match="cross_attention_dim must be the UNet's, 48, found 64"):
        gap_jax.load_pipeline(tmp_path / "open_pipeline")
