"""Tensors in checkpoint files: safetensors or torch pickles, in one file or in shards with an index."""

import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from gap_jax.weights.repo import Repo, read_json

PICKLES = (".bin", ".pt", ".pth", ".ckpt")  # the suffixes of torch pickles


class Tensor(NamedTuple):
    """A tensor in a file; `read` loads it."""

    path: Path
    shape: tuple[int, ...]
    read: Callable[[], np.ndarray]


def find_tensors(
    repo: Repo, folder: str, stems: tuple[str, ...], variant: str | None = None
) -> dict[str, Tensor]:
    """Return the tensors of a network by name: from safetensors or, if there are none, from torch's `.bin`.

    - `folder` of the repository: `"unet"`, or `""` for the top.
    - `stems`: the names of the library's weight files without extension: `diffusion_pytorch_model` in
      diffusers, `model` and `pytorch_model` in transformers.
    - `variant`: the infix of another set of files, such as `"fp16"`.

    Raises FileNotFoundError if there are no weights, ValueError for files that are not readable, ImportError
    for a pickle without torch.
    """
    tried = []
    for extension, open_file in (("safetensors", open_safetensors), ("bin", _open_torch)):
        for stem in stems:
            for name in _candidates(stem, extension, variant):
                path = repo.find(f"{folder}/{name}".lstrip("/"))
                if path is None:
                    tried.append(name)
                elif path.suffix == ".json":
                    return _open_shards(repo, folder, path, open_file)
                else:
                    return open_file(path)
    where = f"{repo.model}/{folder}".rstrip("/")
    hint = (
        f"Try without variant={variant!r}."
        if variant
        else 'If it only has half precision, try variant="fp16".'
    )
    raise FileNotFoundError(
        f"{where} has no weights: looked for {', '.join(tried)}. {hint}{repo.unreachable}"
    )


def _candidates(stem: str, extension: str, variant: str | None) -> list[str]:
    if variant is None:
        return [f"{stem}.{extension}", f"{stem}.{extension}.index.json"]
    return [
        f"{stem}.{variant}.{extension}",
        f"{stem}.{extension}.index.{variant}.json",
        f"{stem}.{variant}.{extension}.index.json",
    ]


def _open_shards(repo: Repo, folder: str, index: Path, open_file) -> dict[str, Tensor]:
    shard_of = read_json(index).get("weight_map")
    if not isinstance(shard_of, dict):
        raise ValueError(f"{index} must be an index of shards with a weight_map: download or copy it again")
    tensors: dict[str, Tensor] = {}
    for shard in sorted(set(shard_of.values())):
        tensors |= open_file(repo.require(f"{folder}/{shard}".lstrip("/")))
    missing = sorted(set(shard_of) - set(tensors))
    if missing:
        raise ValueError(
            f"{index} lists {missing[0]} in {shard_of[missing[0]]}, which does not hold it: download or copy "
            "the shards again"
        )
    return tensors


def open_safetensors(path: Path) -> dict[str, Tensor]:
    """Return the tensors of a safetensors file by name; raise ValueError if it is not readable."""
    from safetensors import SafetensorError, safe_open

    def reader(name: str) -> Callable[[], np.ndarray]:
        def read() -> np.ndarray:
            with safe_open(path, "numpy") as file:  # opened per tensor, to release its pages afterwards
                return file.get_tensor(name)

        return read

    try:
        with safe_open(path, "numpy") as file:
            shapes = {name: tuple(file.get_slice(name).get_shape()) for name in file.keys()}  # noqa: SIM118
    except (SafetensorError, OSError) as error:
        raise ValueError(
            f"{path} ({path.stat().st_size} bytes) is not a readable safetensors file, perhaps truncated: "
            f"{error}. Download or copy it again"
        ) from error
    return {name: Tensor(path, shape, reader(name)) for name, shape in shapes.items()}


def load_torch(path: Path) -> Any:
    """Return the content of a torch pickle, by `torch.load(weights_only=True)`.

    No code from the file runs. Tensors are read when they are used. Raises ImportError without torch,
    ValueError for a file that is not readable or holds more than weights.
    """
    try:
        import torch
    except ImportError as error:
        raise ImportError(
            f"{path} is a torch pickle, and torch is not installed: pip install 'gap_jax[torch]', "
            "or convert it to safetensors"
        ) from error
    try:
        mmap = zipfile.is_zipfile(path)  # not in the format of torch < 1.6
        return torch.load(path, map_location="cpu", weights_only=True, mmap=mmap)
    except Exception as error:
        reason = str(error).strip().split("\n")[0][:200]
        raise ValueError(
            f"torch cannot read {path} as weights (weights_only=True): {reason}. Download or copy it again, "
            "or give a file with a state dict only"
        ) from error


def load_file(path: Path, purpose: str) -> Any:
    """Return the content of a file of arrays: safetensors as a dict, or what a torch pickle holds.

    - `purpose`: the kind of file that is expected, for messages, such as "prompt file".

    Raises FileNotFoundError; ValueError for another suffix and a file that is not readable; ImportError for a
    pickle if torch is not installed.
    """
    if not path.is_file():
        raise FileNotFoundError(f"there is no {purpose} {path}")
    if path.suffix == ".safetensors":
        return {name: tensor.read() for name, tensor in open_safetensors(path).items()}
    if path.suffix in PICKLES:
        return load_torch(path)
    suffixes = ", ".join((".safetensors", *PICKLES))
    raise ValueError(f"{path} must be a {purpose} with one of the suffixes {suffixes}")


def to_array(value: Any, name: str, path: Path) -> np.ndarray:
    """Return an array or a torch tensor as float32; raise ValueError, naming file and entry, for others."""
    if hasattr(value, "detach"):
        value = value.detach().float().numpy()
    if not isinstance(value, np.ndarray):
        raise ValueError(f"{name!r} in {path} must be a tensor, found {type(value).__name__}")
    return value.astype(np.float32)


def _open_torch(path: Path) -> dict[str, Tensor]:
    return from_state_dict(load_torch(path), path)


def from_state_dict(state: Any, path: Path) -> dict[str, Tensor]:
    """Return the tensors of the torch state dict in `path`; raise ValueError if `state` is something else."""
    import torch

    entries = state if isinstance(state, dict) else {"top level": state}
    others = {name: value for name, value in entries.items() if not isinstance(value, torch.Tensor)}
    if others:
        name, value = next(iter(others.items()))
        raise ValueError(
            f"{path} must hold a state dict, which maps names to tensors, found an object of type "
            f"{type(value).__name__} at {name!r}: save the network's state_dict()"
        )

    def reader(tensor) -> Callable[[], np.ndarray]:
        def read() -> np.ndarray:
            wide = tensor.float() if tensor.dtype == torch.bfloat16 else tensor
            return wide.detach().numpy().copy()  # not a view of the file

        return read

    return {name: Tensor(path, tuple(value.shape), reader(value)) for name, value in state.items()}
