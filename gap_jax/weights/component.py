"""Reading and writing one component: a network, with `config.json` and weights, a schedule or a tokenizer."""

import contextlib
import dataclasses
import functools
import json
import os
import re
import tempfile
import warnings
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp

from gap_jax.diffusion.schedule import Schedule
from gap_jax.files import WriteError, free_space
from gap_jax.models import tokenizer as tokenizers
from gap_jax.models.clip import CLIPTextModel
from gap_jax.models.dpt import DPT
from gap_jax.models.layers import Layer
from gap_jax.models.tokenizer import Tokenizer
from gap_jax.models.vae import AutoencoderKL
from gap_jax.models.vit import ViT
from gap_jax.weights.convert import load_tree, state_dict
from gap_jax.weights.repo import Repo, read_json
from gap_jax.weights.tensors import Tensor, find_tensors

# names of weight files without their extensions
DIFFUSERS = ("diffusion_pytorch_model",)
TRANSFORMERS = ("model", "pytorch_model")


def read_config(repo: Repo, folder: str) -> tuple[dict[str, Any], str]:
    """Return the `config.json` of a folder of the repository, and its name for messages."""
    name = f"{folder}/config.json".lstrip("/")
    return repo.read_json(name), f"{repo.model}/{name}"


def read_normalisation(repo: Repo) -> dict[str, tuple[float, ...]]:
    """Return `image_mean` and `image_std` of the model's image processor, if it has them."""
    config = {}
    if repo.find("preprocessor_config.json") is not None:
        config = repo.read_json("preprocessor_config.json")
    elif repo.find("processor_config.json") is not None:  # transformers ≥ 5
        config = repo.read_json("processor_config.json").get("image_processor", {})
    return {key: tuple(config[key]) for key in ("image_mean", "image_std") if key in config}


def read_schedule(repo: Repo) -> Schedule:
    """Return the schedule of a pipeline; raise ValueError for one that gap_jax does not have."""
    name = "scheduler/scheduler_config.json"
    config = repo.read_json(name)
    if "beta_start" not in config and not config.get("trained_betas"):
        raise ValueError(
            f"{repo.model}/{name} must have betas, as in Stable Diffusion 1.x and 2.x, found a "
            f"{config.get('_class_name')} without any: choose another model"
        )
    fields = {field.name for field in dataclasses.fields(Schedule)}
    values = {key: value for key, value in config.items() if key in fields}
    if values.get("trained_betas") is not None:
        values["trained_betas"] = tuple(values["trained_betas"])
    try:
        return Schedule(**values)
    except ValueError as error:
        raise ValueError(f"{repo.model}/{name}: {error}") from error


def read_tokenizer(repo: Repo, prefix: str) -> Tokenizer:
    """Return the tokenizer whose files are below `prefix`; raise FileNotFoundError if there is none."""
    files = {name: repo.find(prefix + name) for name in tokenizers.FILES}
    paths = {name: path for name, path in files.items() if path is not None}
    if "tokenizer.json" not in paths and not {"vocab.json", "merges.txt"} <= paths.keys():
        raise FileNotFoundError(
            f"{repo.model}/{prefix} has no tokenizer: it needs tokenizer.json, or vocab.json with merges.txt."
            + repo.unreachable
        )
    for path in paths.values():
        if path.suffix == ".json":
            read_json(path)  # raises now rather than with the first text
    return Tokenizer(tuple((name, path.read_bytes()) for name, path in paths.items()))


def network_dtypes(dtype: Any) -> dict[str, Any]:
    """Return the fields `dtype` and `param_dtype` of a network; raise ValueError for an unsupported dtype."""
    dtype = jnp.dtype(dtype)
    if dtype not in (jnp.float32, jnp.bfloat16, jnp.float16):
        raise ValueError(f"dtype must be float32, bfloat16 or float16, found {dtype}")
    return {"dtype": dtype, "param_dtype": dtype}


# tensors of other parts that torch's libraries write beside a network's own and ignore when they read it
_SURPLUS: dict[type, str] = {
    CLIPTextModel: r"(text_projection|vision_model|visual_projection)\.|logit_scale$",
    ViT: r"vit\.pooler\.",
    DPT: r"dpt\.pooler\.",
}


def load_params(module: Layer, repo: Repo, folder: str, stems: tuple[str, ...], variant: str | None) -> dict:
    """Load the parameters of `module`; arguments and errors are those of `find_tensors` and `load_tree`."""
    tensors = find_tensors(repo, folder, stems, variant)
    return read_params(module, current_names(module, tensors))


def read_params(module: Layer, tensors: dict[str, Tensor]) -> dict:
    """Read the parameters of `module`; raise as `load_tree`."""
    return load_tree(parameter_shapes(module), tensors, module.param_dtype)


@functools.cache
def parameter_shapes(module: Layer) -> dict:
    """Return the tree of shapes of a network's parameters."""
    return jax.eval_shape(module.init, jax.random.key(0), *module.example_inputs())["params"]


def current_names(module: Layer, tensors: dict[str, Tensor]) -> dict[str, Tensor]:
    """Return tensors under the names of current torch releases, without the buffers of older ones.

    Tensors of other parts, which torch's libraries ignore too, are left out with a warning.
    """

    def current_name(key: str) -> str:
        if isinstance(module, CLIPTextModel):
            return key.removeprefix("text_model.")
        if isinstance(module, AutoencoderKL) and "attentions" in key:
            for old, new in (
                ("query", "to_q"),
                ("key", "to_k"),
                ("value", "to_v"),
                ("proj_attn", "to_out.0"),
            ):
                key = key.replace(f".{old}.", f".{new}.")
        return key

    surplus = re.compile(_SURPLUS.get(type(module), r"(?!)"))
    ignored = [key for key in tensors if surplus.match(key)]
    if ignored:
        warnings.warn(
            f"{tensors[ignored[0]].path}: {len(ignored)} tensors of other parts, such as {ignored[0]}, are "
            "not used",
            stacklevel=5,
        )
    used = {key: tensor for key, tensor in tensors.items() if key not in ignored}
    return {current_name(key): tensor for key, tensor in used.items() if not key.endswith(".position_ids")}


def write_component(folder: Path, config: dict, params: dict, stem: str, prefix: str = "") -> None:
    """Write `config.json` and `<stem>.safetensors`; `prefix` goes before the names of all tensors.

    Raises OSError if they cannot be written, for example because the disk is full.
    """
    from safetensors.numpy import save_file

    write_json(folder / "config.json", config)
    tensors = {prefix + key: array for key, array in state_dict(params).items()}
    path = folder / f"{stem}.safetensors"
    with writing_tensors(path):
        save_file(tensors, path, metadata={"format": "pt"})


@contextlib.contextmanager
def writing_tensors(path: Path) -> Iterator[None]:
    """Raise what safetensors raises in place of an OSError, such as for a full disk, as a WriteError."""
    from safetensors import SafetensorError

    try:
        yield
    except SafetensorError as error:
        raise WriteError(f"{path} could not be written: {error}; {free_space(path)}") from error


def write_json(path: Path, content: dict) -> None:
    """Write a JSON file; its folder is made if it is missing."""
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(content, indent=2) + "\n", encoding="utf-8")


@contextlib.contextmanager
def replace_folder(folder: Path, marker: str) -> Iterator[Path]:
    """Yield a new, empty folder that takes the place of `folder` if the block ends without an error.

    Raises FileExistsError if `folder` is not empty and has no file `marker`.
    """
    if folder.exists() and not (folder / marker).exists() and any(folder.iterdir()):
        raise FileExistsError(
            f"{folder} must be empty or hold a model to replace, found other files (no {marker}): choose "
            "another folder"
        )
    folder.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=folder.parent, prefix=f".{folder.name}-") as scratch:
        new, old = Path(scratch) / "new", Path(scratch) / "old"
        new.mkdir()
        yield new
        if folder.exists():
            os.replace(folder, old)
        try:
            os.replace(new, folder)
        except BaseException:
            if old.exists():
                os.replace(old, folder)
            raise
