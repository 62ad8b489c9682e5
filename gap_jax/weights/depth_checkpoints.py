"""Checkpoints of depth models in one torch pickle without a configuration.

They are those of the U-Net of XTC (Cross-Task Consistency, arXiv 2006.04096) and of the DPT-hybrid of
Omnidata (arXiv 2110.04994).
"""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from gap_jax.models.bit import BitConfig
from gap_jax.models.depth_unet import DepthUNet
from gap_jax.models.dpt import DPT, PATCH
from gap_jax.models.layers import Recompute
from gap_jax.weights.component import read_params
from gap_jax.weights.identify import identify
from gap_jax.weights.state_dicts import Sizes, load_pickle, rename, split_attention
from gap_jax.weights.tensors import from_state_dict

XTC = "('rgb', 'depth_zbuffer')"  # the key of the depth task in XTC's files
BIT, LAYER = "dpt.embeddings.backbone.bit", r"dpt.encoder.layer.\1"
NAMES = {  # from the names in Omnidata's files, timm's and MiDaS's, to transformers'
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
CLASSIFIER = "pretrained.model.head."  # of ImageNet, which timm leaves in the file


def load_depth_checkpoint(
    path: Path, dtypes: Mapping[str, Any], recompute: Recompute
) -> tuple[DepthUNet | DPT, dict]:
    """Return the depth network in a torch pickle and its parameters. Its sizes are read off tensors' shapes.

    - XTC's U-Net, which may predict negative depth: a state dict, or one under `XTC` whose names have three
      more dotted parts in front.
    - Omnidata's DPT-hybrid on timm's `vit_base_resnet50_384` (attention heads of 64 features, images in
      [-1,1]): a state dict, or a Lightning checkpoint that has it under `state_dict`, with `model.` before
      names.

    `dtypes` are fields of the network, from `network_dtypes`; `recompute` is one of a DPT. Raises ImportError
    without torch, ValueError for a file that is not readable, holds another model, or lacks a tensor.
    """
    module: DepthUNet | DPT
    content = load_pickle(path)
    if isinstance(content, dict):
        content = content.get("state_dict", content)
    if isinstance(content, dict) and XTC in content:
        content = {".".join(key.split(".")[3:]): value for key, value in content[XTC].items()}
    tensors = from_state_dict(content, path)
    found = identify(tensors)
    if any(key.startswith("model.") for key in tensors):
        tensors = {key[6:]: tensor for key, tensor in tensors.items() if key.startswith("model.")}
    if "down1.conv1.weight" in tensors:
        module = _unet(Sizes(tensors, path), dtypes)
    elif "pretrained.model.patch_embed.backbone.stem.conv.weight" in tensors:
        tensors = split_attention(tensors, ".attn.qkv.", ".attn.{}.")
        tensors = {rename(key, NAMES): tensors[key] for key in tensors if not key.startswith(CLASSIFIER)}
        module = _dpt_hybrid(Sizes(tensors, path), {**dtypes, "recompute": recompute})
    else:
        raise ValueError(
            f"{path} must hold XTC's U-Net (down1.conv1.weight, …) or Omnidata's DPT-hybrid "
            f"(pretrained.model.patch_embed.backbone.…), found {found}. For another DPT, give its "
            "folder in transformers' layout"
        )
    return module, read_params(module, tensors)


def _unet(sizes: Sizes, dtypes: Mapping[str, Any]) -> DepthUNet:
    width, in_channels, *_ = sizes.shape("down1.conv1.weight")
    out_channels = sizes.shape("last_conv2.weight")[0]
    return DepthUNet(sizes.count("down_blocks"), width, in_channels, out_channels, **dtypes)


def _dpt_hybrid(sizes: Sizes, fields: Mapping[str, Any]) -> DPT:
    _, tokens, hidden_size = sizes.shape("dpt.embeddings.position_embeddings")
    layers = sizes.count("dpt.encoder.layer")
    if layers == 0 or layers % 4:
        raise ValueError(
            f"{sizes.path}: the number of transformer blocks must be a multiple of 4, found {layers}: the "
            "file is damaged or of another model"
        )
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
        **fields,
    )
