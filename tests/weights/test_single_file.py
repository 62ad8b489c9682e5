"""Models in one file, under the names of the original code; diffusers' converters are the reference."""

import jax
import numpy as np
import pytest
import torch
from diffusers.loaders import single_file_utils as converters
from flax.traverse_util import flatten_dict
from safetensors.torch import save_file

import gap_jax
from gap_jax.models.controlnet import ControlNet
from gap_jax.weights import single_file
from gap_jax.weights.__main__ import main
from gap_jax.weights.component import parameter_shapes
from gap_jax.weights.configs import build
from gap_jax.weights.convert import torch_key


def keys(module):
    return map(torch_key, flatten_dict(parameter_shapes(module)))


def original_unet(pipe, theirs):
    state = theirs.unet.state_dict()
    return {
        single_file.UNET + single_file._backbone_name(pipe.unet, key): state[key] for key in keys(pipe.unet)
    }


def original_vae(pipe, theirs):
    """The autoencoder, whose attention has convolutions there."""
    state, named = theirs.vae.state_dict(), {}
    for key in keys(pipe.vae):
        is_convolution = ".attentions." in key and "norm" not in key and key.endswith("weight")
        value = state[key][:, :, None, None] if is_convolution else state[key]
        named[single_file.VAE + single_file._vae_name(pipe.vae, key)] = value
    return named


def original_clip(pipe, theirs):
    return {f"{single_file.CLIP}{key}": value for key, value in theirs.text_encoder.state_dict().items()}


def original_open_clip(pipe, theirs):
    """OpenCLIP's text encoder, which has query, key and value in one tensor, and one more layer."""
    state, named = theirs.text_encoder.state_dict(), {}
    for key, value in state.items():
        if ".q_proj." in key:
            value = torch.cat([state[key.replace("q_proj", f"{part}_proj")] for part in "qkv"])
            key = key.replace("self_attn.q_proj.", "self_attn.in_proj_")
        if ".k_proj." not in key and ".v_proj." not in key:
            named[single_file.OPEN_CLIP + single_file._replaced(key, single_file._OPEN_CLIP)] = value.clone()
    named[f"{single_file.OPEN_CLIP}text_projection"] = torch.zeros(48, 48)
    named[f"{single_file.OPEN_CLIP}transformer.resblocks.9.ln_1.weight"] = torch.zeros(48)
    return named


def original_controlnet(module, theirs, prefix=single_file.CONTROL):
    state = theirs.state_dict()
    return {prefix + single_file._control_name(module, key): state[key].clone() for key in keys(module)}


TEXT = {"sd15": original_clip, "inpaint": original_clip, "sd21": original_open_clip}


@pytest.fixture(params=["sd15", "sd21", "inpaint"])
def single(request, models, tmp_path):
    """A pipeline, and the file with all its weights but the ControlNet's, beside an average of them."""
    model = models(request.param)
    parts = original_unet, original_vae, TEXT[request.param]
    state = {key: value for part in parts for key, value in part(model.pipe, model.torch).items()}
    state |= {"model_ema.decay": torch.zeros(()), "betas": torch.zeros(1000)}
    save_file(state, tmp_path / "model.safetensors")
    return model, tmp_path / "model.safetensors", state


def same(ours, theirs):
    jax.tree.map(np.testing.assert_array_equal, ours, theirs)


def test_the_names_are_those_that_diffusers_reads(single):
    model, _, state = single
    unet = converters.convert_ldm_unet_checkpoint(dict(state), model.torch.unet.config)
    vae = converters.convert_ldm_vae_checkpoint(dict(state), model.torch.vae.config)
    if any(name.startswith(single_file.CLIP) for name in state):
        text = converters.convert_ldm_clip_checkpoint(dict(state))
    else:
        text = converters.convert_open_clip_checkpoint(model.torch.text_encoder, dict(state))
    text = {key.removeprefix("text_model."): value for key, value in text.items()}
    for converted, network in (
        (unet, model.torch.unet),
        (vae, model.torch.vae),
        (text, model.torch.text_encoder),
    ):
        expected = network.state_dict()
        for key, value in expected.items():
            if "position_ids" not in key:
                torch.testing.assert_close(
                    converted[key].reshape(value.shape), value, rtol=0, atol=0, msg=key
                )


def test_a_file_is_read_like_the_folder(single):
    model, file, _ = single
    pipe, params = gap_jax.load_pipeline(file, config=model.folder)
    assert pipe == pipe.__class__(**{**vars(model.pipe), "controlnet": None})
    same(params, {name: part for name, part in model.params.items() if name != "controlnet"})


def test_a_checkpoint_of_lightning_is_read_and_converted(sd15, tmp_path):
    parts = original_unet, original_vae, original_clip
    state = {key: value for part in parts for key, value in part(sd15.pipe, sd15.torch).items()}
    torch.save({"state_dict": state, "global_step": 840000, "epoch": 1}, tmp_path / "model.ckpt")
    main(["convert", str(tmp_path / "model.ckpt"), str(tmp_path / "folder"), "--config", str(sd15.folder)])
    _, params = gap_jax.load_pipeline(tmp_path / "folder")
    same(params, {name: part for name, part in sd15.params.items() if name != "controlnet"})


def test_the_names_of_a_controlnet_are_those_that_diffusers_reads(sd21):
    """diffusers knows the names of the published condition encoder alone, which has four widths."""
    config = dict(sd21.torch.controlnet.config) | {"conditioning_embedding_out_channels": (8, 8, 16, 16)}
    theirs = type(sd21.torch.controlnet).from_config(config)
    module = build(ControlNet, config | {"_class_name": "ControlNetModel"}, "config.json")
    state = original_controlnet(module, theirs)
    converted = converters.convert_controlnet_checkpoint(dict(state), theirs.config)
    for key, value in theirs.state_dict().items():
        torch.testing.assert_close(converted[key], value, rtol=0, atol=0, msg=key)


@pytest.mark.parametrize("prefix", [single_file.CONTROL, ""])
@pytest.mark.parametrize("kind", ["sd15", "sd21"])
def test_a_controlnet_is_read_from_a_file(models, kind, prefix, tmp_path):
    model = models(kind)
    torch.save(
        original_controlnet(model.pipe.controlnet, model.torch.controlnet, prefix), tmp_path / "control.pth"
    )
    pipe, params = gap_jax.load_pipeline(model.folder, controlnet=tmp_path / "control.pth")
    assert pipe == model.pipe
    same(params, model.params)


def test_a_controlnet_in_diffusers_names_is_read_from_a_file(sd15):
    file = sd15.folder / "controlnet" / "diffusion_pytorch_model.safetensors"
    pipe, params = gap_jax.load_pipeline(sd15.folder, controlnet=file)
    assert pipe == sd15.pipe
    same(params, sd15.params)


def test_the_configuration_is_told_by_the_shapes(single):
    _, file, state = single
    with pytest.raises(ValueError, match="no known Stable Diffusion has contexts of 48 features"):
        gap_jax.load_pipeline(file)
    for width, channels, name in ((768, 4, "v1-5"), (768, 9, "inpainting"), (1024, 4, "2-1")):
        tensors = dict.fromkeys(state)
        tensors[single_file.CONTEXT] = single_file.Tensor(file, (320, width), None)
        tensors[single_file.FIRST] = single_file.Tensor(file, (320, channels, 3, 3), None)
        assert single_file.configuration(tensors, file).endswith(name)


def other_files(sd15):
    return {
        "a LoRA: give it to load_pipeline": {"lora_unet_down_blocks_0.lora_up.weight": torch.zeros(2)},
        "a ControlNet: give it to load_pipeline": original_controlnet(
            sd15.pipe.controlnet, sd15.torch.controlnet
        ),
        "a UNet in diffusers' names": {key: x.clone() for key, x in sd15.torch.unet.state_dict().items()},
        "a CLIP encoder": {key: x.clone() for key, x in sd15.torch.text_encoder.state_dict().items()},
        "a LoRA": {"lora_unet_mid_block_attentions_0_proj_in.lora_up.weight": torch.zeros(2, 2)},
        "Stable Diffusion XL": {"conditioner.embedders.0.x": torch.zeros(1)},
        "a textual inversion": {"emb_params": torch.zeros(2, 48)},
    }


def test_another_file_is_named_for_what_it_is(sd15, tmp_path):
    for i, (kind, state) in enumerate(other_files(sd15).items()):
        save_file(state, tmp_path / f"{i}.safetensors")
        with pytest.raises(ValueError, match=kind) as error:
            gap_jax.load_pipeline(tmp_path / f"{i}.safetensors")
        assert len(str(error.value)) < 500
        for load in (gap_jax.load_depth, gap_jax.load_classifier):
            with pytest.raises(ValueError, match=f"must hold .*, found {kind}"):
                load(tmp_path / f"{i}.safetensors")
        with pytest.raises(SystemExit, match=rf"{i}.safetensors is not converted by itself: found {kind}"):
            main(["convert", str(tmp_path / f"{i}.safetensors"), str(tmp_path / "converted")])
        if "ControlNet" not in kind:
            with pytest.raises(ValueError, match=f"must hold a ControlNet, found {kind}"):
                gap_jax.load_pipeline(sd15.folder, controlnet=tmp_path / f"{i}.safetensors")


def test_a_file_without_a_part_is_refused(single):
    model, file, state = single
    del state[next(key for key in state if key.startswith(single_file.VAE))]
    save_file(state, file)
    with pytest.raises(ValueError, match=r"model.safetensors lacks first_stage_model\..*only a part"):
        gap_jax.load_pipeline(file, config=model.folder)
