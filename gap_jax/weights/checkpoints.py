"""Depth checkpoints in one torch pickle, without a configuration: XTC's U-Net and Omnidata's DPT-hybrid."""

import re
from pathlib import Path
from typing import Any

from gap_jax.models.bit import BitConfig
from gap_jax.models.depth_unet import DepthUNet
from gap_jax.models.dpt import DPT, PATCH
from gap_jax.weights.component import read_params
from gap_jax.weights.tensors import Tensor, from_state_dict, load_torch

XTC = "('rgb', 'depth_zbuffer')"  # the task's key in XTC's files
BIT, LAYER = "dpt.embeddings.backbone.bit", r"dpt.encoder.layer.\1"
NAMES = {  # timm's and MiDaS's names in Omnidata's files: transformers'
    r"pretrained\.model\.cls_token": "dpt.embeddings.cls_token",
    r"pretrained\.model\.pos_embed": "dpt.embeddings.position_embeddings",
    r"pretrained\.model\.patch_embed\.proj\.": "dpt.embeddings.projection.",
    r"pretrained\.model\.patch_embed\.backbone\.stem\.conv\.": f"{BIT}.embedder.convolution.",
    r"pretrained\.model\.patch_embed\.backbone\.stem\.norm\.": f"{BIT}.embedder.norm.",
    r"pretrained\.model\.patch_embed\.backbone\.stages\.(\d+)\.blocks\.": rf"{BIT}.encoder.stages.\1.layers.",
    r"pretrained\.model\.blocks\.(\d+)\.norm1\.": f"{LAYER}.layernorm_before.",
    r"pretrained\.model\.blocks\.(\d+)\.norm2\.": f"{LAYER}.layernorm_after.",
    r"pretrained\.model\.blocks\.(\d+)\.attn\.(query|key|value)\.": rf"{LAYER}.attention.attention.\2.",
    r"pretrained\.model\.blocks\.(\d+)\.attn\.proj\.": f"{LAYER}.attention.output.dense.",
    r"pretrained\.model\.blocks\.(\d+)\.mlp\.fc1\.": f"{LAYER}.intermediate.dense.",
    r"pretrained\.model\.blocks\.(\d+)\.mlp\.fc2\.": f"{LAYER}.output.dense.",
    r"pretrained\.model\.norm\.": "dpt.layernorm.",
    r"scratch\.output_conv\.": "head.head.",
}
for i in range(4):
    NAMES |= {
        rf"pretrained\.act_postprocess{i + 1}\.0\.project\.": f"neck.reassemble_stage.readout_projects.{i}.",
        rf"pretrained\.act_postprocess{i + 1}\.3\.": f"neck.reassemble_stage.layers.{i}.projection.",
        rf"pretrained\.act_postprocess{i + 1}\.4\.": f"neck.reassemble_stage.layers.{i}.resize.",
        rf"scratch\.layer{i + 1}_rn\.": f"neck.convs.{i}.",
        rf"scratch\.refinenet{i + 1}\.out_conv\.": f"neck.fusion_stage.layers.{3 - i}.projection.",
        rf"scratch\.refinenet{i + 1}\.resConfUnit(\d)\.conv(\d)\.": (
            rf"neck.fusion_stage.layers.{3 - i}.residual_layer\1.convolution\2."
        ),
    }
CLASSIFIER = "pretrained.model.head."  # timm's, of ImageNet


class Inert:
    """Takes the place of whatever class a checkpoint mentions besides its tensors, and does nothing."""

    def __init__(self, *args: Any):
        pass

    def __setstate__(self, state: Any):
        pass


def load_checkpoint(path: Path, **dtypes: Any) -> tuple[DepthUNet | DPT, dict]:
    """The network in `path` and its parameters, its sizes read off the tensors' shapes.

    - XTC's: a state dict, or one under `XTC` whose names carry three leading dotted parts.
    - Omnidata's: a state dict, or a Lightning checkpoint with one under `state_dict`, names after `model.`;
      DPT-hybrid on timm's `vit_base_resnet50_384`: heads of 64 features, images in [-1,1].

    Raises ImportError without torch, ValueError for a file that is not readable, holds something else, or
    lacks a tensor.
    """
    content = load_pickle(path)
    if isinstance(content, dict):
        content = content.get("state_dict", content)
    if isinstance(content, dict) and XTC in content:
        content = {".".join(key.split(".")[3:]): value for key, value in content[XTC].items()}
    tensors = from_state_dict(content, path)
    if any(key.startswith("model.") for key in tensors):
        tensors = {key[6:]: tensor for key, tensor in tensors.items() if key.startswith("model.")}
    if "down1.conv1.weight" in tensors:
        module = _unet(Sizes(tensors, path), **dtypes)
    elif "pretrained.model.patch_embed.backbone.stem.conv.weight" in tensors:
        tensors = _rename(tensors)
        module = _dpt_hybrid(Sizes(tensors, path), **dtypes)
    else:
        raise ValueError(
            f"{path} holds neither XTC's U-Net (down1.conv1.weight, …) nor Omnidata's DPT-hybrid (model."
            f"pretrained.model.patch_embed.backbone.…): found {', '.join(list(tensors)[:3]) or 'nothing'}"
        )
    return module, read_params(module, tensors)


class Sizes:
    """What tensors' names and shapes tell; raises ValueError, naming the file, for a tensor it lacks."""

    def __init__(self, tensors: dict[str, Tensor], path: Path):
        self.tensors, self.path = tensors, path

    def shape(self, key: str) -> tuple[int, ...]:
        if key not in self.tensors:
            raise ValueError(f"{self.path} lacks {key}")
        return self.tensors[key].shape

    def count(self, prefix: str) -> int:
        """One more than the largest number that follows `prefix` in a name."""
        pattern = re.compile(re.escape(prefix) + r"\.(\d+)\.")
        return max((1 + int(found[1]) for key in self.tensors if (found := pattern.match(key))), default=0)


def _unet(sizes: Sizes, **dtypes: Any) -> DepthUNet:
    width, in_channels, *_ = sizes.shape("down1.conv1.weight")
    out_channels = sizes.shape("last_conv2.weight")[0]
    return DepthUNet(sizes.count("down_blocks"), width, in_channels, out_channels, **dtypes)


def _dpt_hybrid(sizes: Sizes, **dtypes: Any) -> DPT:
    _, tokens, hidden_size = sizes.shape("dpt.embeddings.position_embeddings")
    layers = sizes.count("dpt.encoder.layer")
    if layers == 0 or layers % 4:
        raise ValueError(f"{sizes.path}: the number of blocks must be a multiple of 4, found {layers}")
    stages = [f"{BIT}.encoder.stages.{i}.layers" for i in range(3)]
    embedding_size, num_channels, *_ = sizes.shape(f"{BIT}.embedder.convolution.weight")
    backbone = BitConfig(
        embedding_size,
        tuple(sizes.shape(f"{stage}.0.conv3.weight")[0] for stage in stages),
        tuple(sizes.count(stage) for stage in stages),
    )
    return DPT(
        hidden_size,
        num_hidden_layers=layers,
        num_attention_heads=hidden_size // 64,
        intermediate_size=sizes.shape("dpt.encoder.layer.0.intermediate.dense.weight")[0],
        layer_norm_eps=1e-6,
        image_size=PATCH * round((tokens - 1) ** 0.5),
        num_channels=num_channels,
        backbone_config=backbone,
        backbone_out_indices=tuple(layers * quarter // 4 - 1 for quarter in (1, 2, 3, 4)),
        neck_hidden_sizes=tuple(sizes.shape(f"neck.convs.{i}.weight")[1] for i in range(4)),
        fusion_hidden_size=sizes.shape("head.head.0.weight")[1],
        **dtypes,
    )


def _rename(tensors: dict[str, Tensor]) -> dict[str, Tensor]:
    """Omnidata's tensors under transformers' names, in its three parts where it has `qkv` in one."""
    parts = {}
    for key, tensor in tensors.items():
        if ".attn.qkv." in key:
            rows = tensor.shape[0] // 3
            for i, name in enumerate(("query", "key", "value")):
                part = slice(i * rows, (i + 1) * rows)
                parts[key.replace("qkv", name)] = Tensor(
                    tensor.path,
                    (rows, *tensor.shape[1:]),
                    lambda tensor=tensor, part=part: tensor.read()[part],
                )
        elif not key.startswith(CLASSIFIER):
            parts[key] = tensor
    renamed = {}
    for key, tensor in parts.items():
        for pattern, name in NAMES.items():
            if found := re.match(pattern, key):
                key = found.expand(name) + key[found.end() :]
                break
        renamed[key] = tensor
    return renamed


def load_pickle(path: Path) -> Any:
    """What a torch pickle holds; of Lightning's callbacks and settings, no code runs (`Inert`)."""
    try:
        return load_torch(path)
    except ValueError as error:
        from torch import serialization

        try:
            names = serialization.get_unsafe_globals_in_checkpoint(path)
        except Exception:
            raise error from None
        with serialization.safe_globals([(Inert, name) for name in names]):
            return load_torch(path)
