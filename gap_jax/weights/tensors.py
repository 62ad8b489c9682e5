"""Tensors in checkpoint files: safetensors or torch's `.bin`, in one file or in shards with an index."""

import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from gap_jax.weights.repo import Repo, read_json


class Tensor(NamedTuple):
    """A tensor that is still in its file."""

    path: Path
    shape: tuple[int, ...]
    read: Callable[[], np.ndarray]


def find_tensors(
    repo: Repo, folder: str, stems: tuple[str, ...], variant: str | None = None
) -> dict[str, Tensor]:
    """A component's tensors by name, in the first format that is there: safetensors, else torch's `.bin`.

    `folder` of the repository (`"unet"`, or `""`), `stems` the file names that its library uses
    (diffusers' `diffusion_pytorch_model`; transformers' `model` and `pytorch_model`), `variant` the infix of
    another set of files (`"fp16"`).
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
    hint = f" Without variant={variant!r}?" if variant else ' Is there only variant="fp16"?'
    raise FileNotFoundError(f"{where} has no weights: looked for {', '.join(tried)}.{hint}{repo.unreachable}")


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
        raise ValueError(f"{index} is no index of shards: it has no weight_map")
    tensors = {}
    for shard in sorted(set(shard_of.values())):
        tensors |= open_file(repo.require(f"{folder}/{shard}".lstrip("/")))
    absent = sorted(set(shard_of) - set(tensors))
    if absent:
        raise ValueError(f"{index} promises {absent[0]} in {shard_of[absent[0]]}, which does not hold it")
    return tensors


def open_safetensors(path: Path) -> dict[str, Tensor]:
    """The tensors of a safetensors file by name; raises ValueError where it is not readable."""
    from safetensors import SafetensorError, safe_open

    def reader(name: str) -> Callable[[], np.ndarray]:
        def read() -> np.ndarray:
            with safe_open(path, "numpy") as file:  # opened per tensor: the pages read are released with it
                return file.get_tensor(name)

        return read

    try:
        with safe_open(path, "numpy") as file:
            shapes = {name: tuple(file.get_slice(name).get_shape()) for name in file.keys()}  # noqa: SIM118
    except (SafetensorError, OSError) as error:
        raise ValueError(
            f"{path} ({path.stat().st_size} bytes) is not a readable safetensors file: {error}. "
            "Truncated? Download or copy it again"
        ) from error
    return {name: Tensor(path, shape, reader(name)) for name, shape in shapes.items()}


def load_torch(path: Path) -> Any:
    """What a torch pickle holds, by `torch.load(weights_only=True)`; tensors are read when they are used.

    Raises ImportError without torch, ValueError for what is not readable or not only weights.
    """
    try:
        import torch
    except ImportError as error:
        raise ImportError(
            f"{path} is a torch pickle, and torch is not installed: pip install 'gap_jax[torch]', "
            "or convert it to safetensors"
        ) from error
    try:
        mmap = zipfile.is_zipfile(path)  # torch < 1.6 wrote another format
        return torch.load(path, map_location="cpu", weights_only=True, mmap=mmap)
    except Exception as error:
        raise ValueError(f"torch cannot read {path} as weights (weights_only=True): {error}") from error


def _open_torch(path: Path) -> dict[str, Tensor]:
    return from_state_dict(load_torch(path), path)


def from_state_dict(state: Any, path: Path) -> dict[str, Tensor]:
    """The tensors of a torch state dict that `path` holds; raises ValueError where it is not one."""
    import torch

    if not isinstance(state, dict) or not all(isinstance(value, torch.Tensor) for value in state.values()):
        raise ValueError(f"{path} is no state dict: it must map names to tensors")

    def reader(tensor) -> Callable[[], np.ndarray]:
        def read() -> np.ndarray:
            wide = tensor.float() if tensor.dtype == torch.bfloat16 else tensor
            return wide.detach().numpy().copy()  # not a view of the file

        return read

    return {name: Tensor(path, tuple(value.shape), reader(value)) for name, value in state.items()}
