"""Torch state dicts that come without a configuration: reading, renaming, and sizes from tensors' shapes."""

import re
from collections.abc import Mapping
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

from gap_jax.weights.tensors import Tensor, load_torch, open_safetensors


class Inert:
    """A stand-in for any class that a checkpoint mentions besides its tensors; it does nothing."""

    def __init__(self, *args: Any):
        pass

    def __setstate__(self, state: Any):
        pass


def load_pickle(path: Path) -> Any:
    """Return the content of a torch pickle. Other objects in it, such as Lightning's, become `Inert`.

    No code from the file runs. Raises as `load_torch`.
    """
    try:
        return load_torch(path)
    except ValueError as error:
        from torch import serialization

        try:
            class_names = serialization.get_unsafe_globals_in_checkpoint(path)
        except Exception:
            raise error from None
        with serialization.safe_globals([(Inert, name) for name in class_names]):
            return load_torch(path)


class Sizes:
    """The sizes of a network, read off the names and shapes of its tensors.

    `shape` raises ValueError naming the file `path` for a tensor that it lacks.
    """

    def __init__(self, tensors: Mapping[str, Tensor], path: Path):
        self.tensors, self.path = tensors, path

    def shape(self, key: str) -> tuple[int, ...]:
        """Return the shape of the tensor `key`."""
        if key not in self.tensors:
            raise ValueError(f"{self.path} lacks {key}: the file is damaged or of another model")
        return self.tensors[key].shape

    def count(self, prefix: str) -> int:
        """Return one more than the largest number that follows `prefix` in a name, or 0."""
        pattern = re.compile(re.escape(prefix) + r"\.(\d+)\.")
        matches = filter(None, map(pattern.match, self.tensors))
        return max((1 + int(match[1]) for match in matches), default=0)


def names_in(path: Path) -> list[str]:
    """Return the names of the tensors in a file, from the top or from the key `state_dict`.

    Raises as `load_pickle`, and ValueError for a safetensors file that is not readable.
    """
    if path.suffix == ".safetensors":
        return list(open_safetensors(path))
    state = state_of(load_pickle(path))
    return list(map(str, state)) if isinstance(state, dict) else []


def state_of(content: Any) -> Any:
    """Return the state dict in a pickle, from the top or from the key `state_dict`, as in Lightning's."""
    nested = isinstance(content, dict) and isinstance(content.get("state_dict"), dict)
    return content["state_dict"] if nested else content


def rename(key: str, names: Mapping[str, str]) -> str:
    """Return `key` with its start replaced by the first of `names`, regular expressions, that matches it."""
    for pattern, name in names.items():
        if match := re.match(pattern, key):
            return match.expand(name) + key[match.end() :]
    return key


def split_attention(tensors: Mapping[str, Tensor], fused: str, part: str) -> dict[str, Tensor]:
    """Return tensors with query, key and value apart, where one tensor holds them one after another.

    `fused` is the piece of a name that marks such a tensor; in the names of its three parts, `part` takes
    its place, with `{}` for `query`, `key` and `value`.
    """
    split = {}
    for key, tensor in tensors.items():
        if fused not in key:
            split[key] = tensor
            continue
        rows = tensor.shape[0] // 3
        for i, name in enumerate(("query", "key", "value")):
            split[key.replace(fused, part.format(name))] = Tensor(
                tensor.path, (rows, *tensor.shape[1:]), partial(_read_rows, tensor, i * rows, (i + 1) * rows)
            )
    return split


def _read_rows(tensor: Tensor, start: int, stop: int) -> np.ndarray:
    return tensor.read()[start:stop]
