"""Classifiers in one file with torchvision's names and without a configuration: ResNets and ViTs."""

import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from gap_jax.models.resnet import IMAGENET_MEAN, IMAGENET_STD, ResNet
from gap_jax.models.vit import ViT
from gap_jax.weights.component import read_params
from gap_jax.weights.identify import identify
from gap_jax.weights.state_dicts import Sizes, load_pickle, rename, split_attention
from gap_jax.weights.tensors import Tensor, from_state_dict, open_safetensors

# keys under which pickles have a state dict: of Lightning, of training loops, and of ALIA (arXiv 2305.16289)
CONTAINERS = ("state_dict", "model_state_dict", "model", "net")
RESNET, VIT = "layer1.0.conv1.weight", "conv_proj.weight"  # tensors that only these networks have
EMBEDDER, LAYER = "resnet.embedder.embedder", r"vit.encoder.layer.\1"
ENCODER = r"encoder\.layers\.encoder_layer_(\d+)"
NAMES = {  # from torchvision's names to transformers'
    r"conv1\.": f"{EMBEDDER}.convolution.",
    r"bn1\.": f"{EMBEDDER}.normalization.",
    r"fc\.": "classifier.1.",
    r"class_token": "vit.embeddings.cls_token",
    r"encoder\.pos_embedding": "vit.embeddings.position_embeddings",
    r"conv_proj\.": "vit.embeddings.patch_embeddings.projection.",
    rf"{ENCODER}\.ln_1\.": f"{LAYER}.layernorm_before.",
    rf"{ENCODER}\.self_attention\.in_proj_(query|key|value)_": rf"{LAYER}.attention.attention.\2.",
    rf"{ENCODER}\.self_attention\.out_proj\.": f"{LAYER}.attention.output.dense.",
    rf"{ENCODER}\.ln_2\.": f"{LAYER}.layernorm_after.",
    rf"{ENCODER}\.mlp\.(?:0|linear_1)\.": f"{LAYER}.intermediate.dense.",  # linear_1 in early releases
    rf"{ENCODER}\.mlp\.(?:3|linear_2)\.": f"{LAYER}.output.dense.",
    r"encoder\.ln\.": "vit.layernorm.",
    r"heads\.(?:head\.)?": "classifier.",  # ALIA's names have no `head`
}
HEAD_WIDTH = 64  # features per attention head in all of torchvision's ViTs


def load_torchvision(path: Path, fields: Mapping[str, Any]) -> tuple[ResNet | ViT, dict]:
    """Return the classifier in a file and its parameters. Its sizes are read off the tensors' shapes.

    The file is a safetensors file or a torch pickle with a state dict, at the top or under one of
    `CONTAINERS`. All names may start alike, such as with `module.`, `_orig_mod.` or `model.`; tensors without
    that start, such as a loss's, are left out. It holds a ResNet or a ViT.

    `fields` are further fields of the network, from `network_dtypes` and for the normalisation of images;
    the default normalisation is torchvision's, with ImageNet's mean and standard deviation.

    Raises ImportError for a pickle without torch, ValueError for a file that is not readable, holds another
    model, or lacks a tensor.
    """
    tensors = _tensors(path)
    module: ResNet | ViT
    fields = {"image_mean": IMAGENET_MEAN, "image_std": IMAGENET_STD, **fields}
    if RESNET in tensors:
        module = _resnet(Sizes(tensors, path), fields)
        tensors = {_resnet_key(key): tensor for key, tensor in tensors.items()}
    elif VIT in tensors:
        head = "heads.weight" if "heads.weight" in tensors else "heads.head.weight"
        num_labels = Sizes(tensors, path).shape(head)[0]
        tensors = split_attention(tensors, ".in_proj_", ".in_proj_{}_")
        tensors = {rename(key, NAMES): tensor for key, tensor in tensors.items()}
        module = _vit(Sizes(tensors, path), {"num_labels": num_labels, **fields})
    else:
        raise ValueError(
            f"{path} must hold torchvision's ResNet ({RESNET}, …) or its ViT ({VIT}, …), found "
            f"{identify(tensors)}. For a classifier of transformers, give its folder"
        )
    return module, read_params(module, without_counts(tensors))


def holds_classifier(path: Path) -> bool:
    """Return True if a file has a classifier's tensors; raise as `load_torchvision` if it is unreadable."""
    names = open_safetensors(path) if path.suffix == ".safetensors" else _content(path)
    return isinstance(names, dict) and any(str(key).endswith((RESNET, VIT)) for key in names)


def without_counts(tensors: dict[str, Tensor]) -> dict[str, Tensor]:
    """Return tensors without torch's counts of batches, which only cumulative averages use."""
    return {key: tensor for key, tensor in tensors.items() if not key.endswith(".num_batches_tracked")}


def _content(path: Path) -> Any:
    content = load_pickle(path)
    while isinstance(content, dict):
        inner = next((content[key] for key in CONTAINERS if isinstance(content.get(key), dict)), None)
        if inner is None:
            break
        content = inner
    return content


def _tensors(path: Path) -> dict[str, Tensor]:
    if path.suffix == ".safetensors":
        tensors = open_safetensors(path)
    else:
        tensors = from_state_dict(_content(path), path)
    marks = [(key, mark) for key in tensors for mark in (RESNET, VIT) if key.endswith(mark)]
    start = marks[0][0].removesuffix(marks[0][1]) if marks else ""
    return {key.removeprefix(start): tensor for key, tensor in tensors.items() if key.startswith(start)}


def _resnet(sizes: Sizes, fields: Mapping[str, Any]) -> ResNet:
    is_basic = "layer1.0.conv3.weight" not in sizes.tensors
    last = "conv2" if is_basic else "conv3"
    stages: list[int] = []
    while depth := sizes.count(f"layer{len(stages) + 1}"):
        stages.append(depth)
    embedding_size, num_channels, *_ = sizes.shape("conv1.weight")
    return ResNet(
        embedding_size,
        tuple(sizes.shape(f"layer{i}.0.{last}.weight")[0] for i in range(1, len(stages) + 1)),
        tuple(stages),
        "basic" if is_basic else "bottleneck",
        num_channels,
        sizes.shape("fc.weight")[0],
        **fields,
    )


def _vit(sizes: Sizes, fields: Mapping[str, Any]) -> ViT:
    hidden_size, num_channels, patch_size, _ = sizes.shape(
        "vit.embeddings.patch_embeddings.projection.weight"
    )
    tokens = sizes.shape("vit.embeddings.position_embeddings")[1]
    if hidden_size % HEAD_WIDTH:
        raise ValueError(
            f"{sizes.path}: the ViT's hidden size must be a multiple of {HEAD_WIDTH}, found {hidden_size}: "
            "the file is not one of torchvision's ViTs"
        )
    return ViT(
        hidden_size,
        sizes.count("vit.encoder.layer"),
        hidden_size // HEAD_WIDTH,
        sizes.shape("vit.encoder.layer.0.intermediate.dense.weight")[0],
        layer_norm_eps=1e-6,
        image_size=patch_size * round((tokens - 1) ** 0.5),
        patch_size=patch_size,
        num_channels=num_channels,
        **fields,
    )


def _resnet_key(key: str) -> str:
    """Return transformers' name of a tensor of torchvision's ResNet."""
    match = re.match(r"layer(\d+)\.(\d+)\.(conv|bn|downsample\.)(\d)\.", key)
    if match is None:
        return rename(key, NAMES)
    stage, block, kind, i = int(match[1]) - 1, match[2], match[3], int(match[4])
    part = "shortcut" if kind == "downsample." else f"layer.{i - 1}"
    layer = "convolution" if kind == "conv" or (part == "shortcut" and i == 0) else "normalization"
    return f"resnet.encoder.stages.{stage}.layers.{block}.{part}.{layer}.{key[match.end() :]}"
