"""Classifiers in one file, in torchvision's names and without a configuration: ResNets and ViTs."""

import re
from pathlib import Path
from typing import Any

from gap_jax.models.resnet import IMAGENET_MEAN, IMAGENET_STD, ResNet
from gap_jax.models.vit import ViT
from gap_jax.weights.checkpoints import Sizes, load_pickle
from gap_jax.weights.component import read_params
from gap_jax.weights.tensors import Tensor, from_state_dict, open_safetensors

ALIA = "net"  # where its pickles hold the state dict
RESNET, VIT = "layer1.0.conv1.weight", "conv_proj.weight"  # what tells them
EMBEDDER, LAYER = "resnet.embedder.embedder", r"vit.encoder.layer.\1"
ENCODER = r"encoder\.layers\.encoder_layer_(\d+)"
NAMES = {  # torchvision's: transformers'
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
    rf"{ENCODER}\.mlp\.(?:0|linear_1)\.": f"{LAYER}.intermediate.dense.",  # linear_1 in its first releases
    rf"{ENCODER}\.mlp\.(?:3|linear_2)\.": f"{LAYER}.output.dense.",
    r"encoder\.ln\.": "vit.layernorm.",
    r"heads\.(?:head\.)?": "classifier.",  # ALIA's has no `head`
}
HEAD_WIDTH = 64  # of attention, in every ViT of torchvision's


def load_checkpoint(path: Path, **given: Any) -> tuple[ResNet | ViT, dict]:
    """The classifier in `path` and its parameters, its sizes read off the tensors' shapes.

    A safetensors file or a torch pickle, of a state dict or of one under `net`; names may be prefixed by
    `module.`. ResNets of bottlenecks (ResNet-50, -101, -152), and ViTs. `given` are further fields of the
    module; it normalises as torchvision does, with ImageNet's mean and standard deviation, unless they say
    otherwise.

    Raises ImportError for a pickle without torch, ValueError for a file that is not readable, holds something
    else, or lacks a tensor.
    """
    tensors = _tensors(path)
    given = {"image_mean": IMAGENET_MEAN, "image_std": IMAGENET_STD} | given
    if RESNET in tensors:
        module = _resnet(Sizes(tensors, path), **given)
        tensors = {_resnet_key(key): tensor for key, tensor in tensors.items()}
    elif VIT in tensors:
        head = "heads.weight" if "heads.weight" in tensors else "heads.head.weight"
        num_labels = Sizes(tensors, path).shape(head)[0]
        tensors = {_key(key): tensor for key, tensor in _split(tensors).items()}
        module = _vit(Sizes(tensors, path), num_labels=num_labels, **given)
    else:
        raise ValueError(
            f"{path} holds neither torchvision's ResNet ({RESNET}, …) nor its ViT ({VIT}, …): "
            f"found {', '.join(list(tensors)[:3]) or 'nothing'}"
        )
    return module, read_params(module, without_counts(tensors))


def holds_classifier(path: Path) -> bool:
    """Whether `path` names what `load_checkpoint` reads; raises as it does for what is not readable."""
    names = open_safetensors(path) if path.suffix == ".safetensors" else _content(path)
    return isinstance(names, dict) and any(str(key).endswith((RESNET, VIT)) for key in names)


def without_counts(tensors: dict[str, Tensor]) -> dict[str, Tensor]:
    """Tensors but for torch's counts of batches, which matter only to averages of another kind."""
    return {key: tensor for key, tensor in tensors.items() if not key.endswith(".num_batches_tracked")}


def _content(path: Path) -> Any:
    content = load_pickle(path)
    return content.get(ALIA, content) if isinstance(content, dict) else content


def _tensors(path: Path) -> dict[str, Tensor]:
    if path.suffix == ".safetensors":
        tensors = open_safetensors(path)
    else:
        tensors = from_state_dict(_content(path), path)
    return {key.removeprefix("module."): tensor for key, tensor in tensors.items()}


def _resnet(sizes: Sizes, **given: Any) -> ResNet:
    if "layer1.0.conv3.weight" not in sizes.tensors:
        raise ValueError(
            f"{sizes.path} holds a ResNet of basic blocks (it lacks layer1.0.conv3.weight), as ResNet-18 and "
            "-34 are; supported are those of bottlenecks, as ResNet-50"
        )
    stages = []
    while depth := sizes.count(f"layer{len(stages) + 1}"):
        stages.append(depth)
    embedding_size, num_channels, *_ = sizes.shape("conv1.weight")
    return ResNet(
        embedding_size,
        tuple(sizes.shape(f"layer{i}.0.conv3.weight")[0] for i in range(1, len(stages) + 1)),
        tuple(stages),
        num_channels,
        sizes.shape("fc.weight")[0],
        **given,
    )


def _vit(sizes: Sizes, **given: Any) -> ViT:
    hidden_size, num_channels, patch_size, _ = sizes.shape(
        "vit.embeddings.patch_embeddings.projection.weight"
    )
    tokens = sizes.shape("vit.embeddings.position_embeddings")[1]
    if hidden_size % HEAD_WIDTH:
        raise ValueError(f"{sizes.path}: the width must be a multiple of {HEAD_WIDTH}, found {hidden_size}")
    return ViT(
        hidden_size,
        sizes.count("vit.encoder.layer"),
        hidden_size // HEAD_WIDTH,
        sizes.shape("vit.encoder.layer.0.intermediate.dense.weight")[0],
        layer_norm_eps=1e-6,
        image_size=patch_size * round((tokens - 1) ** 0.5),
        patch_size=patch_size,
        num_channels=num_channels,
        **given,
    )


def _resnet_key(key: str) -> str:
    found = re.match(r"layer(\d+)\.(\d+)\.(conv|bn|downsample\.)(\d)\.", key)
    if found is None:
        return _key(key)
    stage, block, kind, i = int(found[1]) - 1, found[2], found[3], int(found[4])
    part = "shortcut" if kind == "downsample." else f"layer.{i - 1}"
    layer = "convolution" if kind == "conv" or (part == "shortcut" and i == 0) else "normalization"
    return f"resnet.encoder.stages.{stage}.layers.{block}.{part}.{layer}.{key[found.end() :]}"


def _key(key: str) -> str:
    for pattern, name in NAMES.items():
        if found := re.match(pattern, key):
            return found.expand(name) + key[found.end() :]
    return key


def _split(tensors: dict[str, Tensor]) -> dict[str, Tensor]:
    """Tensors with query, key and value apart, where torchvision has them in one."""
    parts = {}
    for key, tensor in tensors.items():
        if ".in_proj_" not in key:
            parts[key] = tensor
            continue
        rows = tensor.shape[0] // 3
        for i, name in enumerate(("query", "key", "value")):
            part = slice(i * rows, (i + 1) * rows)
            parts[key.replace("in_proj_", f"in_proj_{name}_")] = Tensor(
                tensor.path,
                (rows, *tensor.shape[1:]),
                lambda tensor=tensor, part=part: tensor.read()[part],
            )
    return parts
