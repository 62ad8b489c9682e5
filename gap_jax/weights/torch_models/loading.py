"""Torch modules as vision models: transformers' classes, and your own by `module:factory`."""

import importlib
import sys
import traceback
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import jax
import jax.numpy as jnp

from gap_jax.errors import how_to_install
from gap_jax.models.torch_modules.module import (
    PROBED_SIZE,
    TorchModule,
    first_prediction,
    to_torch,
    wrap,
)
from gap_jax.models.torch_modules.preprocessing import Preprocessing
from gap_jax.weights.component import replace_folder, write_json, writing_tensors
from gap_jax.weights.repo import Repo

if TYPE_CHECKING:
    import torch

TaskName = Literal["classification", "depth", "segmentation"]
CLASSES = {  # the ends of transformers' class names
    "classification": ("ForImageClassification", "ForImageClassificationWithTeacher"),
    "depth": ("ForDepthEstimation",),
    "segmentation": ("ForSemanticSegmentation",),
}
AXES = {"classification": "[B,K]", "depth": "[B,1,H,W] or [B,H,W]", "segmentation": "[B,K,H,W]"}
STATE_DICT = "model.safetensors"
PROCESSORS = ("preprocessor_config.json", "processor_config.json")


def is_factory(model: str | Path) -> bool:
    """Return True if `model` is of the form `module:factory`, and no file or folder has that name."""
    module, _, factory = str(model).partition(":")
    return (
        factory.isidentifier() and all(map(str.isidentifier, module.split("."))) and not Path(model).exists()
    )


def fits(config: dict[str, Any], task: TaskName) -> bool:
    """Return True if transformers' `config.json` names a torch class for the task."""
    return _class_name(config, task) is not None


def load_torch(
    model: str | Path,
    task: TaskName,
    dtype: Any = "float32",
    *,
    preprocessing: Preprocessing | None = None,
    size: int | None = None,
    revision: str | None = None,
    variant: str | None = None,
    local_files_only: bool = False,
) -> tuple[TorchModule, dict]:
    """Load a torch module for a task and return it with Flax's `apply`, and its parameters.

    `model` is one of these:

    - a folder in transformers' layout, or a hub id, of any class for image classification, depth estimation
      or semantic segmentation; `revision`, `variant` and `local_files_only` are those of `load_pipeline`;
    - `"module:factory"`: a function without arguments, in a Python module of yours, that returns the torch
      module. Its images are `[B,3,H,W]`, and its prediction is `[B,K]` for classification, `[B,1,H,W]` or
      `[B,H,W]` for depth, `[B,K,H,W]` for segmentation; an output of transformers will do, too.

    `dtype`, of parameters and computation, is `float32`, `bfloat16` or `float16`. `preprocessing`: how images
    become the module's; None: as the folder's processor says or, for a factory, images in [0,1] of `size` ×
    `size` pixels, or of any size if that is None.

    Raises ImportError without torch, torchax or transformers; ValueError for a model of another task, one
    whose prediction has another shape, and for a factory or a module that raises an error.
    """
    try:
        import torch
    except ImportError as error:
        raise ImportError(
            f"{model} is a torch module, and torch is not installed: {how_to_install('torch-models')}"
        ) from error

    if is_factory(model):
        module, source = _made_by_factory(str(model)), f"the module of {model}"
        preprocessing = preprocessing or Preprocessing(size=None if size is None else (size, size))
    else:
        repo = Repo(model, revision=revision, local_files_only=local_files_only)
        module, source = _from_transformers(repo, task, variant), repo.model
        preprocessing = preprocessing or _processor(repo)
    module = module.to(getattr(torch, jnp.dtype(dtype).name)).eval()
    try:
        wrapped, params = wrap(module, preprocessing, _depth_map if task == "depth" else None)
    except ImportError:
        raise
    except Exception as error:  # torch, torchax and the module raise errors of many types
        seen = size or PROBED_SIZE[0]
        raise ValueError(
            f"{source} cannot predict anything for images of {seen}x{seen} pixels: {_reason(error)}. Correct "
            "it, or give the size of the images that it takes"
        ) from error
    _check_prediction(wrapped, params, task, source)
    return wrapped, params


def save_torch(module: TorchModule, params: dict, folder: str | Path) -> None:
    """Write a torch module with these parameters as a folder.

    A module of transformers is written in its layout, which `load_torch` and transformers read. Of any other,
    `model.safetensors` has the state dict. An existing model is replaced, and any other folder refused, as by
    `save_pipeline`.
    """
    inner: Any = module.module
    if not hasattr(inner, "save_pretrained"):
        from safetensors.torch import save_file

        with replace_folder(Path(folder), STATE_DICT) as target:
            state = {name: tensor.contiguous() for name, tensor in to_torch(inner, params).items()}
            with writing_tensors(target / STATE_DICT):
                save_file(state, target / STATE_DICT)
        return
    with replace_folder(Path(folder), "config.json") as target, writing_tensors(target):
        inner.save_pretrained(target, state_dict=to_torch(inner, params))
        write_json(target / PROCESSORS[0], module.preprocessing.to_processor())


def _made_by_factory(model: str) -> "torch.nn.Module":
    import torch

    name, _, factory = model.partition(":")
    if "" not in sys.path:
        sys.path.insert(0, "")  # modules in the current folder, also for commands that are scripts
    try:
        found = getattr(importlib.import_module(name), factory, None)
    except ModuleNotFoundError as error:
        if error.name != name:
            raise
        raise ValueError(
            f"{model}: there is no Python module {name}; give a module in the current folder or one that is "
            "installed"
        ) from error
    except Exception as error:  # whatever the user's code raises
        raise ValueError(
            f"{model}: the Python module {name} cannot be imported: {_reason(error)}: correct it"
        ) from error
    if not callable(found):
        raise ValueError(f"{model}: the module {name} has no function {factory}: check the name")
    try:
        module = found()
    except Exception as error:  # whatever the user's code raises
        raise ValueError(
            f"{model} must return a torch module when it is called without arguments, but it raises "
            f"{_reason(error)}: correct it"
        ) from error
    if not isinstance(module, torch.nn.Module):
        raise ValueError(
            f"{model} must return a torch.nn.Module, found {type(module).__name__}: return the module itself"
        )
    return module


def _reason(error: Exception) -> str:
    """Return the type of an error, the first line of its message and the place where it was raised."""
    place = traceback.extract_tb(error.__traceback__)[-1]
    first = str(error).strip().partition("\n")[0]
    return f"{type(error).__name__}: {first[:200]} ({Path(place.filename).name}, line {place.lineno})"


def _from_transformers(repo: Repo, task: TaskName, variant: str | None) -> "torch.nn.Module":
    import transformers

    config = repo.read_json("config.json")
    name = _class_name(config, task)
    if name is None:
        raise ValueError(
            f"{repo.model}/config.json must be of a class for {task} ({' or '.join(CLASSES[task])}), found "
            f"model_type {config.get('model_type')!r} and architectures {config.get('architectures')}: "
            "choose another model, or give your own as module:factory"
        )
    return getattr(transformers, name).from_pretrained(
        repo.model if repo.folder is None else repo.folder,
        revision=repo.revision or "main",
        variant=variant,
        local_files_only=repo.local_files_only,
    )


def _class_name(config: dict[str, Any], task: TaskName) -> str | None:
    """Return the name of the torch class that a configuration names, if transformers has it."""
    names: list[str] = config.get("architectures") or []
    if len(names) != 1 or not str(names[0]).endswith(CLASSES[task]):
        return None
    import transformers

    config_class = getattr(getattr(transformers, names[0], None), "config_class", None)
    return names[0] if getattr(config_class, "model_type", "") == config.get("model_type") else None


def _processor(repo: Repo) -> Preprocessing:
    for name in PROCESSORS:
        if repo.find(name) is not None:
            config = repo.read_json(name)
            return Preprocessing.from_processor(config.get("image_processor", config))
    return Preprocessing()


def _depth_map(returned: Any) -> "torch.Tensor":
    """Return a depth module's prediction as `[B,1,H,W]`."""
    prediction = first_prediction(returned)
    return prediction.unsqueeze(1) if prediction.ndim == 3 else prediction


def _check_prediction(wrapped: TorchModule, params: dict, task: TaskName, source: str) -> None:
    size = wrapped.preprocessing.size or PROBED_SIZE
    images = jax.ShapeDtypeStruct((2, *size, 3), jnp.float32)
    shape = jax.eval_shape(wrapped.apply, {"params": params}, images).shape
    if task == "classification":
        right = len(shape) == 2
    else:  # a map of the images' aspect ratio
        right = len(shape) == 4 and shape[1] * size[1] == shape[2] * size[0]
        right = right and (task != "depth" or shape[3] == 1)
    if not right:
        raise ValueError(
            f"{source} must predict {AXES[task]} for {task}; found a prediction of shape {list(shape)} for "
            f"{shape[0]} images of {size[1]}x{size[0]} pixels, channels last: give a model for {task}"
        )
