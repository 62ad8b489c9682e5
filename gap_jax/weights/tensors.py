"""Tensors in checkpoint files: safetensors or torch pickles, in one file or in shards with an index."""

import warnings
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from gap_jax.errors import how_to_install
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
    - `variant`: the infix of another set of files, such as `"fp16"`. If there are none, the files without it
      are read, with a warning.

    Raises FileNotFoundError if there are no weights; ValueError for files that are not readable, and for a
    local folder with both a whole file and an index of shards, of which one must be old; ImportError for a
    pickle without torch.
    """
    tried = []
    for extension, open_file in (("safetensors", open_safetensors), ("bin", _open_torch)):
        for stem in stems:
            names = _candidates(stem, extension, variant)
            _refuse_whole_beside_shards(repo, folder, names)
            for name in names:
                path = repo.find(f"{folder}/{name}".lstrip("/"))
                if path is None:
                    tried.append(name)
                elif path.suffix == ".json":
                    return _open_shards(repo, folder, path, open_file)
                else:
                    return open_file(path)
    where = f"{repo.model}/{folder}".rstrip("/")
    if variant is not None:
        tensors = find_tensors(repo, folder, stems)
        warnings.warn(f"{where} has no weights of the variant {variant!r}: others are read", stacklevel=4)
        return tensors
    hint = 'If it only has half precision, try variant="fp16".'
    if repo.folder is not None and list((repo.folder / folder).glob("*.msgpack")):
        hint = "Its .msgpack file is of diffusers' or transformers' old Flax classes: save the torch model."
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


def _refuse_whole_beside_shards(repo: Repo, folder: str, names: list[str]) -> None:
    """Raise ValueError if a local folder has two of the files, between which libraries choose differently."""
    if repo.folder is None:
        return
    there = [name for name in names if (repo.folder / folder / name).is_file()]
    if len(there) > 1:
        raise ValueError(
            f"{repo.folder / folder} holds the weights twice: in {there[0]}, and in the shards that "
            f"{there[1]} lists; delete the older ones"
        )


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
                kind = file.get_slice(name).get_dtype()
                if kind.startswith("F8"):
                    raise ValueError(
                        f"{path} holds {name} in 8 bits ({kind}), of which gap_jax knows no scale: use the "
                        "weights in 16 or 32 bits"
                    )
                return file.get_tensor(name)

        return read

    check_has_content(path)
    try:
        with safe_open(path, "numpy") as file:
            shapes = {name: tuple(file.get_slice(name).get_shape()) for name in file.keys()}  # noqa: SIM118
    except (SafetensorError, OSError) as error:
        raise ValueError(
            f"{path} ({path.stat().st_size} bytes) is not a readable safetensors file, perhaps truncated: "
            f"{error}. Download or copy it again"
        ) from error
    return {name: Tensor(path, shape, reader(name)) for name, shape in shapes.items()}


def check_has_content(path: Path) -> None:
    """Raise ValueError for an empty file, and for a pointer of git-lfs or a web page in place of the file."""
    with path.open("rb") as file:
        start = file.read(64).lstrip()
    if not start:
        raise ValueError(f"{path} is empty: download or copy it again")
    if start.startswith(b"version https://git-lfs"):
        raise ValueError(f"{path} is a pointer of git-lfs, not the weights: run `git lfs pull` in its folder")
    if start.lower().startswith((b"<!doctype html", b"<html")):
        raise ValueError(
            f"{path} is a web page, not the weights: download the file itself, which may need a login"
        )


def load_torch(path: Path) -> Any:
    """Return the content of a torch pickle, by `torch.load(weights_only=True)`.

    No code from the file runs. Tensors are read when they are used. Raises ImportError without torch,
    ValueError for a file that is not readable or holds more than weights.
    """
    try:
        import torch
    except ImportError as error:
        raise ImportError(
            f"{path} is a torch pickle, and torch is not installed: {how_to_install('torch')}; a copy of the "
            "file in safetensors does not need it"
        ) from error
    check_has_content(path)
    try:
        mmap = zipfile.is_zipfile(path)  # not in the format of torch < 1.6
        return torch.load(path, map_location="cpu", weights_only=True, mmap=mmap)
    except Exception as error:
        reason = str(error).strip().split("\n")[0].split(" In PyTorch 2.6")[0][:200].rstrip(".")
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
