"""LoRAs change the weights as diffusers and peft do."""

import hashlib
import json
import math

import diffusers
import jax
import numpy as np
import pytest
import torch
from peft import LoraConfig, get_peft_model, get_peft_model_state_dict
from safetensors.torch import save_file

import gap_jax
from gap_jax.weights.convert import state_dict

ATTENTION = "down_blocks.0.attentions.0.transformer_blocks.0.attn1"
LAYERS = {  # layers of the UNet and of the text encoder, with their inputs and outputs
    "unet": (
        f"{ATTENTION}.to_q",
        f"{ATTENTION}.to_out.0",
        "mid_block.attentions.0.transformer_blocks.0.attn2.to_k",
    ),
    "text_encoder": ("text_model.encoder.layers.1.self_attn.v_proj", "text_model.encoder.layers.0.mlp.fc1"),
}
DISTILLED = (  # with attention, the kinds of layers that the LoRAs of LCM and Hyper-SD change
    "mid_block.attentions.0.proj_in",
    "mid_block.attentions.0.proj_out",
    "mid_block.attentions.0.transformer_blocks.0.ff.net.0.proj",
    "mid_block.attentions.0.transformer_blocks.0.ff.net.2",
    "mid_block.resnets.1.time_emb_proj",
    "up_blocks.1.resnets.0.conv1",
    "down_blocks.1.resnets.0.conv2",
    "up_blocks.1.resnets.0.conv_shortcut",
    "down_blocks.0.downsamplers.0.conv",
    "up_blocks.0.upsamplers.0.conv",
)
DISTILLED_MODULES = (  # ends of the names of the UNet's layers that the LoRAs of LCM and Hyper-SD change
    *("to_q", "to_k", "to_v", "to_out.0", "proj_in", "proj_out", "ff.net.0.proj", "ff.net.2"),
    *("conv1", "conv2", "conv_shortcut", "downsamplers.0.conv", "upsamplers.0.conv", "time_emb_proj"),
)
RANK = 3


def factors(theirs, layer, component, rank=RANK):
    """Return random `down` and `up` for a layer of a torch pipeline."""
    module = getattr(theirs, component)
    weight = module.state_dict()[f"{layer.removeprefix('text_model.')}.weight"]
    random = torch.Generator().manual_seed(len(layer))
    down = torch.randn(rank, *weight.shape[1:], generator=random)
    return down, torch.randn(weight.shape[0], rank, *([1] * (weight.ndim - 2)), generator=random)


def changes(theirs):
    layers = [(component, layer) for component, names in LAYERS.items() for layer in names]
    layers += [("unet", layer) for layer in DISTILLED]
    return {(component, layer): factors(theirs, layer, component) for component, layer in layers}


def peft(theirs):
    state = {}
    for (component, layer), (down, up) in changes(theirs).items():
        state |= {f"{component}.{layer}.lora_A.weight": down, f"{component}.{layer}.lora_B.weight": up}
    return state


def older(theirs):
    """The names of diffusers before it used peft."""
    state = {}
    for (component, layer), (down, up) in changes(theirs).items():
        part = "lora" if component == "unet" else "lora_linear_layer"
        state |= {
            f"{component}.{layer}.{part}.down.weight": down,
            f"{component}.{layer}.{part}.up.weight": up,
        }
    return state


def kohya(theirs):
    """The names of sd-scripts, with an alpha other than the rank; diffusers loses alphas that differ."""
    state = {}
    for (component, layer), (down, up) in changes(theirs).items():
        name = f"lora_{'te' if component == 'text_encoder' else component}_{layer.replace('.', '_')}"
        state |= {f"{name}.lora_down.weight": down, f"{name}.lora_up.weight": up}
        state[f"{name}.alpha"] = torch.tensor(2.0)
    return state


@pytest.fixture
def theirs(sd15):
    return diffusers.StableDiffusionControlNetPipeline.from_pretrained(sd15.folder)


def fused(module):
    return {
        key.replace(".base_layer", ""): value
        for key, value in module.state_dict().items()
        if "lora_" not in key
    }


@pytest.mark.parametrize("names", [peft, older, kohya])
def test_weights_are_those_that_diffusers_fuses(sd15, theirs, tmp_path, names):
    state = names(theirs)
    save_file({key: value.contiguous() for key, value in state.items()}, tmp_path / "lora.safetensors")
    before = {
        name: {key: value.clone() for key, value in getattr(theirs, name).state_dict().items()}
        for name in LAYERS
    }
    by_hand = {}
    if names is kohya:  # with transformers 5, diffusers reads these names of the text encoder wrongly
        for layer in LAYERS["text_encoder"]:
            down, up = factors(theirs, layer, "text_encoder")
            key = f"{layer.removeprefix('text_model.')}.weight"
            by_hand[key] = before["text_encoder"][key] + 0.8 * 2 / RANK * up @ down
    theirs.load_lora_weights(tmp_path / "lora.safetensors")
    theirs.fuse_lora(lora_scale=0.8)
    pipe, params = gap_jax.load_pipeline(sd15.folder, lora=[(tmp_path / "lora.safetensors", 0.8)])
    assert pipe == sd15.pipe
    changed = 0
    for component in LAYERS:
        expected, ours = fused(getattr(theirs, component)) | by_hand, state_dict(params[component])
        for key, value in ours.items():
            np.testing.assert_allclose(value, expected[key], rtol=1e-5, atol=1e-5, err_msg=key)
            changed += not np.array_equal(value, before[component][key])
    assert changed == 15
    jax.tree.map(np.testing.assert_array_equal, params["vae"], sd15.params["vae"])


def distilled(name):
    """The names of down, up and alpha in a file of LCM or Hyper-SD, for a layer of the UNet."""
    layer = f"lora_unet_{name.replace('.', '_')}"
    return f"{layer}.lora_down.weight", f"{layer}.lora_up.weight", f"{layer}.alpha"


def test_a_distilled_lora_changes_every_layer_as_peft_does(sd15, theirs, tmp_path):
    options = {"target_modules": list(DISTILLED_MODULES), "init_lora_weights": False}
    torch.manual_seed(0)
    adapted = get_peft_model(theirs.unet, LoraConfig(r=4, lora_alpha=3, **options))
    for name, factor in adapted.named_parameters():
        if "lora_" in name:
            factor.data = factor.data.half().float()
    factors = get_peft_model_state_dict(adapted)
    layers = {name.removeprefix("base_model.model.").rsplit(".", 2)[0] for name in factors}
    state = {}
    for layer in layers:
        down, up, alpha = distilled(layer)
        state[down] = factors[f"base_model.model.{layer}.lora_A.weight"].half()
        state[up] = factors[f"base_model.model.{layer}.lora_B.weight"].half()
        state[alpha] = torch.tensor(3.0).half()
    save_file(state, tmp_path / "pytorch_lora_weights.safetensors", {"format": "pt"})
    expected = adapted.merge_and_unload().state_dict()
    _, params = gap_jax.load_pipeline(sd15.folder, lora=[tmp_path])
    before = state_dict(sd15.params["unet"])
    changed = set()
    for name, value in state_dict(params["unet"]).items():
        reference = expected[name] if name.removesuffix(".weight") in layers else before[name]
        np.testing.assert_allclose(value, reference, rtol=1e-5, atol=1e-5, err_msg=name)
        if not np.array_equal(value, before[name]):
            changed.add(name.removesuffix(".weight"))
    assert changed == layers and {name.rsplit(".", 1)[-1] for name in layers} >= {"0", "2", "conv", "proj_in"}


def test_the_published_files_have_these_names_and_shapes():
    """The header of `latent-consistency/lcm-lora-sdv1-5` to the bit, and the size of Hyper-SD's files.

    Public repositories quote SHA-256 and length of the former, and the length 269,127,064 of the latter,
    `Hyper-SD15-8steps-lora.safetensors`. Both have rank 64 for Stable Diffusion 1.5.
    """
    with torch.device("meta"):
        unet = diffusers.UNet2DConditionModel(cross_attention_dim=768)
    shapes = {}
    for name, module in unet.named_modules():
        if name.endswith(DISTILLED_MODULES):
            down, up, alpha = distilled(name)
            rows, *columns = module.weight.shape
            shapes |= {down: [64, *columns], up: [rows, 64, *([1] * len(columns[1:]))], alpha: []}

    def header(dtype, width, metadata):
        content, end = dict(metadata), 0
        for name in sorted(shapes):
            start, end = end, end + width * math.prod(shapes[name])
            content[name] = {"dtype": dtype, "shape": shapes[name], "data_offsets": [start, end]}
        text = json.dumps(content, separators=(",", ":"))
        return (text + " " * (-len(text) % 8)).encode(), end

    lcm, size = header("F16", 2, {"__metadata__": {"format": "pt"}})
    assert 8 + len(lcm) + size == 134_621_556
    known = "3ca15dde66470e73c8d68dbb9ab64d6e7ad014f525b58193a9a3b161eb6cc263"
    assert hashlib.sha256(lcm).hexdigest() == known
    hyper, size = header("F32", 4, {})
    assert 8 + len(hyper) + size == 269_127_064


def test_two_loras_add_up_and_an_alpha_in_the_header_counts(sd15, theirs, tmp_path):
    down, up = factors(theirs, f"{ATTENTION}.to_q", "unet")
    header = {"unet.r": RANK, "unet.lora_alpha": 6}
    state = {f"unet.{ATTENTION}.to_q.lora_A.weight": down, f"unet.{ATTENTION}.to_q.lora_B.weight": up}
    save_file(state, tmp_path / "a.safetensors", {"lora_adapter_metadata": json.dumps(header)})
    save_file(state, tmp_path / "b.safetensors")
    loras = [tmp_path / "a.safetensors", (tmp_path / "b.safetensors", -0.5)]
    _, params = gap_jax.load_pipeline(sd15.folder, lora=loras)
    key = f"{ATTENTION}.to_q.weight"
    before = theirs.unet.state_dict()[key]
    expected = before + (6 / RANK - 0.5) * up @ down
    np.testing.assert_allclose(state_dict(params["unet"])[key], expected, rtol=1e-5, atol=1e-5)


def test_what_does_not_fit_is_refused(sd15, theirs, tmp_path):
    down, up = factors(theirs, f"{ATTENTION}.to_q", "unet")
    name, path = f"unet.{ATTENTION}.to_q", tmp_path / "lora.safetensors"
    for state, message in (
        (
            {"unet.elsewhere.lora_A.weight": down, "unet.elsewhere.lora_B.weight": up},
            "changes unet.elsewhere, which",
        ),
        (
            {f"{name}.lora_A.weight": down[:, :4].clone(), f"{name}.lora_B.weight": up},
            r"shape \[16, 16\], found \[16, 4\]",
        ),
        ({f"{name}.lora_A.weight": down}, "found one factor alone for unet.down"),
        ({f"{name}.lora_A.weight": down, f"{name}.dora_scale": up}, "LoHa, LoKr, DoRA or other variants"),
        ({"conv_proj.weight": down}, "found a ViT: read it with load_classifier"),
    ):
        save_file(state, path)
        with pytest.raises(ValueError, match=message) as error:
            gap_jax.load_pipeline(sd15.folder, lora=[path])
        assert len(str(error.value)) < 500
    with pytest.raises(FileNotFoundError, match="neither an existing folder nor a hub id"):
        gap_jax.load_pipeline(sd15.folder, lora=[tmp_path / "missing.safetensors"])
