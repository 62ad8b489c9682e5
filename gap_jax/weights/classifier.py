"""Classifiers, from folders and files of others, to folders: `config.json` and `model.safetensors`."""

from pathlib import Path
from typing import Any

import numpy as np

from gap_jax.models.resnet import ResNet
from gap_jax.models.vit import ViT
from gap_jax.weights.component import (
    TRANSFORMERS,
    network_dtypes,
    read_config,
    read_normalisation,
    read_params,
    replacing,
    write,
    write_json,
)
from gap_jax.weights.configs import describe
from gap_jax.weights.repo import Repo, shipped
from gap_jax.weights.tensors import find_tensors
from gap_jax.weights.torchvision import load_checkpoint, without_counts

KINDS = {"resnet": ResNet, "vit": ViT}  # by transformers' model_type
ARCHITECTURES = {"resnet": "ResNetForImageClassification", "vit": "ViTForImageClassification"}
FIXED = {  # options of the torch classes that we do not have
    "resnet": {
        "hidden_act": "relu",
        "layer_type": "bottleneck",
        "downsample_in_first_stage": False,
        "downsample_in_bottleneck": False,
    },
    "vit": {"hidden_act": "gelu", "qkv_bias": True},
}


def load_classifier(
    model: str | Path,
    dtype: Any = "float32",
    *,
    part: str = "waterbirds",
    image_mean: tuple[float, ...] | None = None,
    image_std: tuple[float, ...] | None = None,
    revision: str | None = None,
    variant: str | None = None,
    local_files_only: bool = False,
) -> tuple[ResNet | ViT, dict]:
    """A classifier and its parameters.

    `model` is one of
    - a folder that `save_classifier` wrote;
    - a folder or hub id in transformers' layout of a `ResNetForImageClassification`
      (`"microsoft/resnet-50"`) or a `ViTForImageClassification` (`"google/vit-base-patch16-224"`), with
      `revision`, `variant` and `local_files_only` as `load_pipeline`'s;
    - a file in torchvision's names, safetensors or a torch pickle, ALIA's included; of pickles torch, if it
      is installed, reads the weights only;
    - `"wildlife"`, the small world's, of which `part` is `"waterbirds"` or `"iwildcam"` (trained on these
      experiments' pictures), or `"waterbirds_critic"` or `"iwildcam_critic"` (stronger, trained on all).

    `image_mean` and `image_std`: what images are normalised with, if not what the folder says, or ImageNet's
    for a file, which does not say: for one trained on images in [0,1], as ALIA's of iWildCam, give
    `(0, 0, 0)` and `(1, 1, 1)`.

    Raises as `load_pipeline`, and ImportError for a pickle without torch.
    """
    given = {"image_mean": image_mean, "image_std": image_std}
    given = {key: tuple(value) for key, value in given.items() if value is not None} | network_dtypes(dtype)
    if (path := Path(model).expanduser()).is_file():
        return load_checkpoint(path, **given)
    repo = Repo(shipped(model, part), revision=revision, local_files_only=local_files_only)
    config, source = read_config(repo, "")
    module = _build(config, source, **(read_normalisation(repo) | given))
    return module, read_params(module, without_counts(find_tensors(repo, "", TRANSFORMERS, variant)))


def save_classifier(module: ResNet | ViT, params: dict, folder: str | Path) -> None:
    """Write a folder that `load_classifier` and transformers read; replaces as `save_pipeline`."""
    kind = "resnet" if isinstance(module, ResNet) else "vit"
    config = describe(module)
    names = [f"LABEL_{i}" for i in range(config.pop("num_labels"))]
    config |= {"id2label": dict(enumerate(names)), "label2id": {name: i for i, name in enumerate(names)}}
    config |= {"architectures": [ARCHITECTURES[kind]], "model_type": kind} | FIXED[kind]
    side = getattr(module, "image_size", 224)  # a ResNet takes any
    normalise = {
        "image_processor_type": "ViTImageProcessor",  # it resizes and normalises, no more
        "image_mean": module.image_mean,
        "image_std": module.image_std,
        "size": {"height": side, "width": side},
    }
    with replacing(Path(folder), "config.json") as target:
        write(target, config, _with_counts(params), TRANSFORMERS[0])
        write_json(target / "preprocessor_config.json", normalise)


def _build(config: dict[str, Any], source: str, **given: Any) -> ResNet | ViT:
    """The module of a configuration; raises ValueError, naming file and key, for what we do not have."""
    kind = config.get("model_type")
    if kind not in KINDS or config.get("architectures") not in (None, [ARCHITECTURES[kind]]):
        raise ValueError(
            f"{source}: model_type is {kind!r} and architectures {config.get('architectures')}, "
            f"supported: {' or '.join(ARCHITECTURES.values())}"
        )
    for key, supported in FIXED[kind].items():
        if config.get(key, supported) != supported:
            raise ValueError(f"{source}: {key} is {config[key]!r}, supported: {supported!r}")
    cls = KINDS[kind]
    values: dict[str, Any] = {"num_labels": len(config.get("id2label", (0, 1)))}  # transformers' default: 2
    for name, value in describe(cls()).items():
        if name not in config:
            continue
        found = tuple(config[name]) if isinstance(config[name], list) else config[name]
        if not isinstance(found, float if isinstance(value, float) else type(value)):
            raise ValueError(f"{source}: {name} must be like {value!r}, found {found!r}")
        values[name] = found
    module = cls(**values, **given)
    if kind == "resnet" and len(module.depths) != (stages := len(module.hidden_sizes)):
        raise ValueError(f"{source}: depths has {len(module.depths)} entries, hidden_sizes {stages}")
    return module


def _with_counts(params: dict) -> dict:
    """Parameters with the counts of batches that torch's batch norm has, of no use to it or to us."""
    counted = {key: _with_counts(part) if isinstance(part, dict) else part for key, part in params.items()}
    return counted | {"num_batches_tracked": np.int64(0)} if "running_var" in counted else counted
