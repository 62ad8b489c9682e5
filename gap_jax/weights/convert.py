"""The rule between Flax parameter trees and torch state dicts.

The path of a parameter, joined by dots, is its torch key, but for the last name: `kernel`, `scale` and
`embedding` are torch's `weight`. Kernels are transposed: `[h,w,in,out]` is torch's `[out,in,h,w]`, and
`[in,out]` its `[out,in]`.
"""

from collections.abc import Mapping
from typing import Any

import jax
import numpy as np
from flax.traverse_util import flatten_dict, unflatten_dict

from gap_jax.weights.tensors import Tensor

WEIGHTS = ("kernel", "scale", "embedding")  # Flax names of torch's `weight`


def torch_key(path: tuple[str, ...]) -> str:
    """Return the state-dict key of the parameter at `path`."""
    return ".".join((*path[:-1], "weight" if path[-1] in WEIGHTS else path[-1]))


def from_torch(path: tuple[str, ...], array: np.ndarray) -> np.ndarray:
    """Return a torch tensor in Flax's layout, as a view."""
    if path[-1] != "kernel":
        return array
    return array.T if array.ndim == 2 else array.transpose(2, 3, 1, 0)


def to_torch(path: tuple[str, ...], array: np.ndarray) -> np.ndarray:
    """Return a parameter in torch's layout, as a view."""
    if path[-1] != "kernel":
        return array
    return array.T if array.ndim == 2 else array.transpose(3, 2, 0, 1)


def load_tree(template: Any, tensors: Mapping[str, Tensor], dtype: Any) -> dict:
    """Read the parameters of `template`, a tree of shapes, one by one; cast them and put them on the device.

    Raises ValueError before anything is read if a weight is missing, superfluous or of another shape; the
    message names it and its file.
    """
    template = flatten_dict(template)
    files = ", ".join(sorted({str(tensor.path) for tensor in tensors.values()}))
    missing = sorted(key for key in map(torch_key, template) if key not in tensors)
    if missing:
        raise ValueError(
            f"{files} lacks {_first_three(missing)}: the file is damaged, or belongs to another config.json"
        )
    surplus = sorted(set(tensors) - set(map(torch_key, template)))
    if surplus:
        raise ValueError(
            f"{tensors[surplus[0]].path} holds {_first_three(surplus)}, for which the network has no place: "
            "check that the file belongs to its config.json"
        )
    for path, leaf in template.items():
        tensor = tensors[torch_key(path)]
        expected = to_torch(path, np.broadcast_to(0, leaf.shape)).shape
        if tensor.shape != expected:
            raise ValueError(
                f"{torch_key(path)} in {tensor.path} must have shape {list(expected)}, found "
                f"{list(tensor.shape)}: check that the file belongs to its config.json"
            )

    def put(path: tuple[str, ...]) -> jax.Array:
        array = from_torch(path, tensors[torch_key(path)].read())
        return jax.device_put(np.asarray(array, dtype, order="C"))

    return unflatten_dict({path: put(path) for path in template})


def state_dict(tree: dict) -> dict[str, np.ndarray]:
    """Return the torch state dict of a parameter tree, as contiguous arrays."""
    tree = {path: to_torch(path, np.asarray(leaf)) for path, leaf in flatten_dict(tree).items()}
    return {torch_key(path): np.asarray(array, order="C") for path, array in tree.items()}


def _first_three(names: list[str]) -> str:
    return ", ".join(names[:3]) + (f" and {len(names) - 3} more" if len(names) > 3 else "")
