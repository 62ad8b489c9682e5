"""Reading classifiers from folders and files, and writing them as `config.json` and `model.safetensors`."""

import dataclasses
from pathlib import Path
from typing import Any

import numpy as np

from gap_jax.models.resnet import ResNet
from gap_jax.models.torch_modules.module import TorchModule
from gap_jax.models.vit import ViT
from gap_jax.weights.component import (
    TRANSFORMERS,
    current_names,
    network_dtypes,
    read_config,
    read_normalisation,
    read_params,
    replace_folder,
    write_component,
    write_json,
)
from gap_jax.weights.configs import describe, unsupported
from gap_jax.weights.repo import Repo, shipped
from gap_jax.weights.tensors import find_tensors
from gap_jax.weights.torch_models.loading import fits, is_factory, load_torch, save_torch
from gap_jax.weights.torchvision import load_torchvision, without_counts

KINDS = {"resnet": ResNet, "vit": ViT}  # from transformers' model_type
ARCHITECTURES = {"resnet": "ResNetForImageClassification", "vit": "ViTForImageClassification"}
FIXED = {  # options of the torch classes for which gap_jax has this one value
    "resnet": {
        "hidden_act": "relu",
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
    size: int | None = None,
    image_mean: tuple[float, ...] | None = None,
    image_std: tuple[float, ...] | None = None,
    revision: str | None = None,
    variant: str | None = None,
    local_files_only: bool = False,
) -> tuple[ResNet | ViT | TorchModule, dict]:
    """Load a classifier and its parameters.

    `model` is one of these:

    - a folder that `save_classifier` wrote;
    - a folder in transformers' layout, or a hub id, of a `ResNetForImageClassification`
      (`"microsoft/resnet-50"`) or a `ViTForImageClassification` (`"google/vit-base-patch16-224"`);
      `revision`, `variant` and `local_files_only` are those of `load_pipeline`;
    - such a folder or hub id of any other `…ForImageClassification`, or `"module:factory"`, a function of
      yours that returns a torch module: see `load_torch`. These need the extra `torch-models`;
    - a file with torchvision's names, safetensors or a torch pickle, as training loops, Lightning and ALIA
      (arXiv 2305.16289) save it. Pickles need torch, which reads only their weights and runs no code;
    - `"wildlife"`, the small world. Its `part` is `"waterbirds"` or `"iwildcam"`, trained on the pictures of
      that experiment, or `"waterbirds_critic"` or `"iwildcam_critic"`, stronger and trained on all pictures.

    `dtype`, of parameters and computation, is `float32`, `bfloat16` or `float16`. `size` is the side of the
    images that a factory's module takes, in pixels; None: any. `image_mean` and
    `image_std` normalise images in [0,1], one value per channel. Their default is what the folder says or,
    for a file, ImageNet's. For a network trained on images in [0,1], such as ALIA's for iWildCam, give
    `(0, 0, 0)` and `(1, 1, 1)`.

    Raises as `load_pipeline`, and ImportError for a pickle without torch.
    """
    normalisation = {"image_mean": image_mean, "image_std": image_std}
    normalisation = {key: tuple(value) for key, value in normalisation.items() if value is not None}
    fields = normalisation | network_dtypes(dtype)
    if (path := Path(model).expanduser()).is_file():
        return load_torchvision(path, fields)
    options: dict[str, Any] = {"variant": variant, "revision": revision, "local_files_only": local_files_only}
    if is_factory(model):
        return _normalising(*load_torch(model, "classification", dtype, size=size, **options), normalisation)
    repo = Repo(shipped(model, part), revision=revision, local_files_only=local_files_only)
    config, source = read_config(repo, "")
    if config.get("model_type") not in KINDS and fits(config, "classification"):
        return _normalising(*load_torch(model, "classification", dtype, **options), normalisation)
    module = _build(config, source, read_normalisation(repo) | fields)
    tensors = without_counts(find_tensors(repo, "", TRANSFORMERS, variant))
    return module, read_params(module, current_names(module, tensors))


def label_names(model: str | Path) -> tuple[str, ...]:
    """Return the names of a classifier's labels in their order, as `id2label` in its `config.json` has them.

    They are none for a file, for `module:factory`, and for a folder that calls them LABEL_0, LABEL_1, …
    Raises the errors of `load_classifier` for a folder or hub id that cannot be read.
    """
    if Path(model).expanduser().is_file() or is_factory(model):
        return ()
    config, _ = read_config(Repo(shipped(model, "waterbirds")), "")
    names = config.get("id2label") or {}
    found = tuple(str(names.get(str(i))) for i in range(len(names)))
    return () if found == tuple(f"LABEL_{i}" for i in range(len(names))) else found


def save_classifier(module: ResNet | ViT | TorchModule, params: dict, folder: str | Path) -> None:
    """Write a folder that `load_classifier` and transformers read.

    The classes get the module's `label_names`, or `LABEL_0`, `LABEL_1` and so on. An existing model is
    replaced, and any other folder refused, as by `save_pipeline`. A torch module is written by `save_torch`.
    Raises ValueError unless there is one name per class.
    """
    if isinstance(module, TorchModule):
        save_torch(module, params, folder)
        return
    kind = "resnet" if isinstance(module, ResNet) else "vit"
    config = describe(module)
    names = module.label_names or [f"LABEL_{i}" for i in range(module.num_labels)]
    if len(names) != config.pop("num_labels"):
        raise ValueError(f"label_names must name all {module.num_labels} classes, found {len(names)} names")
    config |= {"id2label": dict(enumerate(names)), "label2id": {name: i for i, name in enumerate(names)}}
    config |= {"architectures": [ARCHITECTURES[kind]], "model_type": kind} | FIXED[kind]
    side = getattr(module, "image_size", 224)  # a ResNet takes any size
    normalise = {
        "image_processor_type": "ViTImageProcessor",  # it resizes and normalises only
        "image_mean": module.image_mean,
        "image_std": module.image_std,
        "size": {"height": side, "width": side},
    }
    with replace_folder(Path(folder), "config.json") as target:
        write_component(target, config, _with_counts(params), TRANSFORMERS[0])
        write_json(target / "preprocessor_config.json", normalise)


def _normalising(
    module: TorchModule, params: dict, normalisation: dict[str, Any]
) -> tuple[TorchModule, dict]:
    """Return a torch module that normalises images with the given mean and deviation in place of its own."""
    preprocessing = module.preprocessing._replace(**normalisation)
    return dataclasses.replace(module, preprocessing=preprocessing), params


def _build(config: dict[str, Any], source: str, fields: dict[str, Any]) -> ResNet | ViT:
    """Return the network of a configuration read from `source`; `fields` are further fields of it.

    Raises ValueError naming `source` and the key for an option that gap_jax does not have.
    """
    kind = config.get("model_type")
    if kind not in KINDS or config.get("architectures") not in (None, [ARCHITECTURES[kind]]):
        raise ValueError(
            f"{source} must be of a {' or '.join(ARCHITECTURES.values())}, found model_type {kind!r} and "
            f"architectures {config.get('architectures')}; other classes for image classification need the "
            "extra torch-models: choose another model, or give your own torch module as module:factory"
        )
    for key, supported in FIXED[kind].items():
        if config.get(key, supported) != supported:
            raise unsupported(source, key, config[key], (supported,))
    cls = KINDS[kind]
    names = config.get("id2label", {"0": "LABEL_0", "1": "LABEL_1"})  # transformers' default
    try:
        label_names = tuple(str(names[str(i)]) for i in range(len(names)))
    except (KeyError, TypeError) as error:
        raise ValueError(
            f"{source}: id2label must map the numbers from 0 on to names, found {str(names)[:80]}: correct "
            "the file"
        ) from error
    values: dict[str, Any] = {"num_labels": len(names)}
    if label_names != tuple(f"LABEL_{i}" for i in range(len(names))):
        values["label_names"] = label_names
    for name, default in describe(cls()).items():
        if name not in config:
            continue
        value = tuple(config[name]) if isinstance(config[name], list) else config[name]
        if not isinstance(value, type(default)):
            raise ValueError(
                f"{source}: {name} must be of the type of {default!r}, found {value!r}: correct the file"
            )
        values[name] = value
    if values.get("layer_type", "basic") not in ("bottleneck", "basic"):
        raise unsupported(source, "layer_type", values["layer_type"], ("bottleneck", "basic"))
    module = cls(**values, **fields)
    if kind == "resnet" and len(module.depths) != (stages := len(module.hidden_sizes)):
        raise ValueError(
            f"{source}: depths must have as many entries as hidden_sizes, {stages}; found "
            f"{len(module.depths)}"
        )
    return module


def _with_counts(params: dict) -> dict:
    """Return parameters with the counts of batches that torch's batch norm expects and does not use."""
    counted = {key: _with_counts(part) if isinstance(part, dict) else part for key, part in params.items()}
    return counted | {"num_batches_tracked": np.int64(0)} if "running_var" in counted else counted
