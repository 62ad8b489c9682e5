"""The rule between our parameter trees and torch's state dicts.

A parameter's path joined by dots is its torch key, its last name apart (`kernel`, `scale` and `embedding`
are torch's `weight`); kernels are transposed: `[h,w,in,out]` is torch's `[out,in,h,w]`, `[in,out]` its
`[out,in]`.
"""

from collections.abc import Mapping
from typing import Any

import jax
import numpy as np
from flax.traverse_util import flatten_dict, unflatten_dict

from gap_jax.weights.tensors import Tensor

WEIGHTS = ("kernel", "scale", "embedding")


def torch_key(path: tuple[str, ...]) -> str:
    """The state-dict key of the parameter at `path`."""
    return ".".join((*path[:-1], "weight" if path[-1] in WEIGHTS else path[-1]))


def from_torch(path: tuple[str, ...], array: np.ndarray) -> np.ndarray:
    """A torch tensor in our layout (a view)."""
    if path[-1] != "kernel":
        return array
    return array.T if array.ndim == 2 else array.transpose(2, 3, 1, 0)


def to_torch(path: tuple[str, ...], array: np.ndarray) -> np.ndarray:
    """A parameter in torch's layout (a view)."""
    if path[-1] != "kernel":
        return array
    return array.T if array.ndim == 2 else array.transpose(3, 2, 0, 1)


def load_tree(template: Any, tensors: Mapping[str, Tensor], dtype: Any) -> dict:
    """The parameters of `template` (a tree of shapes), read one by one, cast and put on the device.

    Before reading any, raises ValueError that names a missing, surplus or wrongly shaped weight and its file.
    """
    template = flatten_dict(template)
    files = ", ".join(sorted({str(tensor.path) for tensor in tensors.values()}))
    missing = sorted(key for key in map(torch_key, template) if key not in tensors)
    if missing:
        raise ValueError(f"{files} lacks {_some(missing)}: is it for another configuration?")
    surplus = sorted(set(tensors) - set(map(torch_key, template)))
    if surplus:
        raise ValueError(
            f"{tensors[surplus[0]].path} holds {_some(surplus)}, for which this configuration has no place"
        )
    for path, leaf in template.items():
        tensor = tensors[torch_key(path)]
        expected = to_torch(path, np.broadcast_to(0, leaf.shape)).shape
        if tensor.shape != expected:
            raise ValueError(
                f"{torch_key(path)} in {tensor.path} has shape {list(tensor.shape)}, "
                f"its configuration says {list(expected)}"
            )

    def put(path: tuple[str, ...]) -> jax.Array:
        array = from_torch(path, tensors[torch_key(path)].read())
        return jax.device_put(np.asarray(array, dtype, order="C"))

    return unflatten_dict({path: put(path) for path in template})


def state_dict(tree: dict) -> dict[str, np.ndarray]:
    """The torch state dict of a parameter tree, contiguous."""
    tree = {path: to_torch(path, np.asarray(leaf)) for path, leaf in flatten_dict(tree).items()}
    return {torch_key(path): np.asarray(array, order="C") for path, array in tree.items()}


def _some(names: list[str]) -> str:
    return ", ".join(names[:3]) + (f" and {len(names) - 3} more" if len(names) > 3 else "")
