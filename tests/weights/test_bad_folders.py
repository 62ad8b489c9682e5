"""Tests that errors of loading name the file, what was expected and what was found."""

import json
import pickle
import shutil
import sys
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file

import gap_jax
from gap_jax.weights.__main__ import main as convert

pytestmark = pytest.mark.usefixtures("no_compilation")

UNET = "unet/diffusion_pytorch_model.safetensors"
TEXT = "text_encoder/model.safetensors"
NORM = "final_layer_norm.weight"


@pytest.fixture
def folder(sd15, tmp_path):
    """A copy of the Stable Diffusion 1.5 folder, to be broken."""
    return Path(shutil.copytree(sd15.folder, tmp_path / "model"))


def set_json(name, **changes):
    def change(folder):
        path = folder / name
        path.write_text(json.dumps(json.loads(path.read_text()) | changes))

    return change


def write(name, content):
    return lambda folder: (folder / name).write_bytes(content)


def remove(*names):
    return lambda folder: [(folder / name).unlink() for name in names]


def cut(name, size):
    return lambda folder: (folder / name).write_bytes((folder / name).read_bytes()[:size])


def set_weights(name, change):
    def rewrite(folder):
        tensors = load_file(folder / name)
        change(tensors)
        save_file(tensors, folder / name)

    return rewrite


def shard(others):
    """Make the text encoder's weights a shard, with an index that lists other files or keys too."""

    def change(folder):
        keys = dict.fromkeys(load_file(folder / TEXT), "a.safetensors")
        (folder / TEXT).rename(folder / "text_encoder" / "a.safetensors")
        index = folder / "text_encoder" / "model.safetensors.index.json"
        index.write_text(json.dumps({"weight_map": keys | others} if others else {}))

    return change


def shard_beside(name):
    """Save a component in shards, as diffusers does for large ones, and leave its old file where it is."""

    def change(folder):
        keys = dict.fromkeys(load_file(folder / name), "new.safetensors")
        shutil.copy(folder / name, (folder / name).with_name("new.safetensors"))
        (folder / f"{name}.index.json").write_text(json.dumps({"weight_map": keys}))

    return change


def exchange(key, tensor):
    return lambda tensors: tensors.update({key: tensor})


class Evil:
    def __reduce__(self):
        return sys.exit, ("a pickle ran code",)


def pickled(content):
    def change(folder):
        (folder / TEXT).unlink()
        with (folder / "text_encoder" / "pytorch_model.bin").open("wb") as file:
            content(file)

    return change


MISSING = {
    "no index": (remove("model_index.json"), "model has no model_index.json"),
    "no configuration": (
        remove("unet/config.json"),
        "model has no unet/config.json. Check that this is the model's folder",
    ),
    "no scheduler": (
        remove("scheduler/scheduler_config.json"),
        "model has no scheduler/scheduler_config.json",
    ),
    "no weights": (
        remove(UNET),
        "model/unet has no weights: looked for diffusion_pytorch_model.safetensors, "
        "diffusion_pytorch_model.safetensors.index.json, diffusion_pytorch_model.bin, "
        'diffusion_pytorch_model.bin.index.json. If it only has half precision, try variant="fp16".',
    ),
    "no tokenizer": (
        lambda folder: shutil.rmtree(folder / "tokenizer"),
        "model/tokenizer/ has no tokenizer: it needs tokenizer.json, or vocab.json with merges.txt",
    ),
    "weights of Flax": (
        lambda folder: (folder / UNET).rename(folder / "unet" / "diffusion_flax_model.msgpack"),
        "Its .msgpack file is of diffusers' or transformers' old Flax classes: save the torch model.",
    ),
    "no shard": (shard({"extra": "b.safetensors"}), "model has no text_encoder/b.safetensors"),
}
UNFIT = {
    # files that are broken
    "index not JSON": (cut("model_index.json", 40), "model_index.json is not valid JSON"),
    "configuration not JSON": (cut("vae/config.json", 40), "vae/config.json is not valid JSON"),
    "configuration not text": (
        write("vae/config.json", b"\xff\xfe\x00"),
        "vae/config.json is not valid JSON",
    ),
    "configuration no object": (
        write("unet/config.json", b"[1]"),
        "unet/config.json must hold a JSON object, found list",
    ),
    "tokenizer not JSON": (
        cut("tokenizer/tokenizer.json", 999),
        "tokenizer/tokenizer.json is not valid JSON",
    ),
    "no weight map": (
        shard(None),
        "model.safetensors.index.json must be an index of shards with a weight_map",
    ),
    "promised weight": (
        shard({"extra.weight": "a.safetensors"}),
        "model.safetensors.index.json lists extra.weight in a.safetensors, which does not hold it",
    ),
    "new shards beside an old file": (
        shard_beside(TEXT),
        "text_encoder holds the weights twice: in model.safetensors, and in the shards that "
        "model.safetensors.index.json lists; delete the older ones",
    ),
    "truncated data": (
        cut(UNET, -1000),
        f"{UNET} (",
        ") is not a readable safetensors file, perhaps truncated",
    ),
    "truncated header": (cut(UNET, 1000), f"{UNET} (1000 bytes) is not a readable safetensors"),
    "empty weights": (cut(UNET, 0), f"{UNET} is empty: download or copy it again"),
    "no safetensors": (write(TEXT, b"something else"), f"{TEXT} (14 bytes) is not a readable"),
    "a web page": (write(TEXT, b"\n<!DOCTYPE html><html>404"), f"{TEXT} is a web page, not the weights"),
    "broken pickle": (
        pickled(lambda file: file.write(b"PK\x03\x04 cut off")),
        "pytorch_model.bin as weights",
    ),
    "pointer of git-lfs": (
        write(UNET, b"version https://git-lfs.github.com/spec/v1\noid sha256:4d7a\nsize 3438167534\n"),
        f"{UNET} is a pointer of git-lfs, not the weights: run `git lfs pull` in its folder",
    ),
    "weights in 8 bits": (
        set_weights(TEXT, lambda tensors: tensors.update({NORM: tensors[NORM].to(torch.float8_e4m3fn)})),
        f"{TEXT} holds {NORM} in 8 bits (F8_E4M3)",
    ),
    "evil pickle": (
        pickled(lambda file: pickle.dump(Evil(), file, protocol=2)),
        "pytorch_model.bin as weights (weights_only=True)",
    ),
    "pickle of no state dict": (
        pickled(lambda file: torch.save({"epoch": 3}, file)),
        "pytorch_model.bin must hold a state dict",
    ),
    # weights that do not fit
    "missing weight": (
        set_weights(TEXT, lambda tensors: tensors.pop("final_layer_norm.weight")),
        f"{TEXT} lacks final_layer_norm.weight: the file is damaged, or belongs to another config.json",
    ),
    "surplus weight": (
        set_weights(TEXT, exchange("extra", torch.zeros(1))),
        f"{TEXT} holds extra, for which the network has no place",
    ),
    "many surplus weights": (
        set_weights(TEXT, lambda tensors: tensors.update({f"x{i}": torch.zeros(1) for i in range(9)})),
        "x0, x1, x2 and 6 more",
    ),
    "linear of another shape": (
        set_weights(TEXT, exchange("encoder.layers.1.mlp.fc1.weight", torch.zeros(48, 96))),
        "encoder.layers.1.mlp.fc1.weight in ",
        f"{TEXT} must have shape [96, 48], found [48, 96]",
    ),
    "convolution of another shape": (
        set_weights(UNET, exchange("conv_in.weight", torch.zeros(16, 4, 1, 1))),
        "conv_in.weight in ",
        f"{UNET} must have shape [16, 4, 3, 3], found [16, 4, 1, 1]",
    ),
    "weights of another dimension": (
        set_json("vae/config.json", latent_channels=8),
        "the UNet must go from 8 channels (inpainting: 17) to 8, as the VAE has 8; found 4 to 4",
    ),
    # what is not supported
    "Stable Diffusion XL": (
        set_json("model_index.json", _class_name="StableDiffusionXLPipeline"),
        "model_index.json must be of Stable Diffusion 1.x or 2.x, found a StableDiffusionXLPipeline",
        "supported: StableDiffusionPipeline, ",
    ),
    "FLUX": (
        set_json("model_index.json", _class_name="FluxPipeline"),
        "must be of Stable Diffusion 1.x or 2.x, found a FluxPipeline",
    ),
    "a kind of ControlNet in the index": (
        set_json("model_index.json", controlnet=["diffusers", "ControlNetXSAdapter"]),
        "controlnet must be a ControlNetModel or a MultiControlNetModel, found a ControlNetXS",
    ),
    "another UNet": (
        set_json("unet/config.json", _class_name="UNet3DConditionModel"),
        "unet/config.json: _class_name must be 'UNet2DConditionModel', found 'UNet3DConditionModel'",
    ),
    "another VAE": (
        set_json("vae/config.json", _class_name="AutoencoderTiny"),
        "vae/config.json: _class_name must be 'AutoencoderKL', found 'AutoencoderTiny'",
    ),
    "the UNet of XL": (
        set_json("unet/config.json", addition_embed_type="text_time"),
        "unet/config.json: addition_embed_type must be None, found 'text_time'",
    ),
    "the blocks of another UNet": (
        set_json("unet/config.json", down_block_types=["CrossAttnDownBlock2D", "AttnDownBlock2D"]),
        "every entry of down_block_types must be 'CrossAttnDownBlock2D' or 'DownBlock2D', found 'AttnDown",
    ),
    "too few blocks": (
        set_json("unet/config.json", up_block_types=["UpBlock2D"]),
        "unet/config.json: up_block_types must have as many entries as block_out_channels, 2; found 1",
    ),
    "layers per block": (
        set_json("unet/config.json", layers_per_block=[2, 1]),
        "unet/config.json: layers_per_block must be an integer, found (2, 1)",
    ),
    "the blocks of another VAE": (
        set_json("vae/config.json", up_block_types=["AttnUpDecoderBlock2D"] * 3),
        "vae/config.json: every entry of up_block_types must be 'UpDecoderBlock2D', found 'AttnUpDecoder",
    ),
    "a text encoder that masks padding": (
        set_json("text_encoder/config.json", use_attention_mask=True),
        "text_encoder/config.json: use_attention_mask must be False or None, found True",
    ),
    "another activation": (
        set_json("text_encoder/config.json", hidden_act="relu"),
        "text_encoder/config.json: hidden_act must be 'gelu' or 'quick_gelu', found 'relu'",
    ),
    "a VAE with a shift": (
        set_json("vae/config.json", shift_factor=0.1),
        "vae/config.json: shift_factor must be None, found 0.1",
    ),
    "flow matching": (
        write("scheduler/scheduler_config.json", b'{"_class_name": "FlowMatchEulerDiscreteScheduler"}'),
        "scheduler/scheduler_config.json must have betas",
        "found a FlowMatchEulerDiscreteScheduler without any",
    ),
    "another prediction": (
        set_json("scheduler/scheduler_config.json", prediction_type="sample"),
        "scheduler/scheduler_config.json: prediction_type must be one of",
        "found 'sample'",
    ),
    "another text encoder": (
        set_json("unet/config.json", cross_attention_dim=64),
        "the UNet's cross_attention_dim must be the text encoder's hidden_size, 48, found 64",
    ),
    "another model's ControlNet": (
        set_json("controlnet/config.json", cross_attention_dim=1024),
        "controlnet/config.json: cross_attention_dim must be the UNet's, 48, found 1024",
    ),
    "another kind of ControlNet": (
        set_json("controlnet/config.json", _class_name="FluxControlNetModel"),
        "controlnet/config.json: _class_name must be 'ControlNetModel', found 'FluxControlNetModel'",
    ),
    "ControlNet of other latents": (
        set_json("controlnet/config.json", in_channels=9),
        "controlnet/config.json: in_channels must be the VAE's channels, 4, found 9",
    ),
    "ControlNet of another scale": (
        set_json("controlnet/config.json", conditioning_embedding_out_channels=[8, 16]),
        "must scale the condition down by 4, as the VAE does images, found 2",
    ),
}


@pytest.mark.parametrize(
    ("kind", "table", "name"),
    [
        (kind, table, name)
        for kind, table in ((FileNotFoundError, MISSING), (ValueError, UNFIT))
        for name in table
    ],
)
def test_broken_folder_is_explained(folder, kind, table, name):
    spoil, *messages = table[name]
    spoil(folder)
    with pytest.raises(kind) as caught:
        gap_jax.load_pipeline(folder)
    for message in messages:
        assert message in str(caught.value)
    assert len(str(caught.value).replace(str(folder), "model")) < 500


def test_a_variant_that_is_not_there_either_is_refused(folder):
    (folder / TEXT).unlink()
    with pytest.raises(FileNotFoundError, match=r"looked for model\.safetensors.*try variant=\"fp16\"\."):
        gap_jax.load_pipeline(folder, variant="fp16")


def test_pickled_weights_without_torch_ask_for_it(folder, monkeypatch):
    pickled(lambda file: torch.save({}, file))(folder)
    monkeypatch.setitem(sys.modules, "torch", None)
    with pytest.raises(
        ImportError, match=r"pytorch_model\.bin is a torch pickle.*pip install -e '\.\[torch\]'"
    ):
        gap_jax.load_pipeline(folder)


def test_path_that_is_no_model_folder_is_explained(folder, tmp_path):
    with pytest.raises(FileNotFoundError, match="nowhere' is neither an existing folder nor a hub id"):
        gap_jax.load_pipeline(tmp_path / "nowhere")
    with pytest.raises(FileNotFoundError, match=r"'models/a\.ckpt' is neither an existing fo"):
        gap_jax.load_pipeline("models/a.ckpt")
    with pytest.raises(FileNotFoundError, match=r"there is no local folder models/sd15.*: check the pa"):
        gap_jax.load_pipeline("models/sd15", local_files_only=True)
    (tmp_path / "empty").mkdir()
    with pytest.raises(FileNotFoundError, match="empty is empty: give the folder of the model, or delete"):
        gap_jax.load_pipeline(tmp_path / "empty")
    with pytest.raises(ValueError, match=r"model_index\.json is a file: give the folder of the model"):
        gap_jax.load_pipeline(folder / "model_index.json")
    with pytest.raises(FileNotFoundError, match=r"'https://hub/a/b' is neither .*: give its last two parts"):
        gap_jax.load_pipeline("https://hub/a/b")


def test_a_folder_of_another_model_is_named_for_what_it_is(folder, tmp_path):
    with pytest.raises(
        FileNotFoundError, match=r"unet has no model_index\.json. It holds UNet2DConditionModel, a s"
    ):
        gap_jax.load_pipeline(folder / "unet")
    for load in (gap_jax.load_clip, gap_jax.load_depth, gap_jax.load_classifier):
        with pytest.raises(
            FileNotFoundError, match=r"no config.json. It holds \w+Pipeline, .* with load_pipeline"
        ):
            load(folder)
    with pytest.raises(
        ValueError, match="must be of a ControlNetModel, found CLIPTextModel: give another folder"
    ):
        gap_jax.load_pipeline(folder, controlnet=folder / "text_encoder")
    for part, name in (("unet", "UNet2DConditionModel"), ("text_encoder", "CLIPTextModel")):
        with pytest.raises(SystemExit, match=f"{part} holds {name}, which is not converted by itself"):
            convert(["convert", str(folder / part), str(tmp_path / "converted")])
    with pytest.raises(
        ValueError,
        match=r"must be of a CLIPModel, with text_config and vision_config, found model_type 'clip_text",
    ):
        gap_jax.load_clip(folder / "text_encoder")


@pytest.mark.parametrize("load", [gap_jax.load_pipeline, gap_jax.load_clip])
def test_dtype_that_is_not_supported_is_named(sd15, clip, load):
    source = sd15.folder if load is gap_jax.load_pipeline else clip.folder
    with pytest.raises(ValueError, match="dtype must be float32, bfloat16 or float16, found int8"):
        load(source, dtype="int8")
