"""Kinds of parameters: those that are trained, and those that training moves without a gradient.

A mask is a function from parameters to a tree of bools of the same structure, such as `all_parameters`.
"""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp

from gap_jax.models.network import Mask

RUNNING_STATISTICS = ("running_mean", "running_var")  # names of batch norm's parameters without a gradient
BUFFERS = "buffers"  # the key of a torch module's arrays that are not its parameters


def all_parameters(params: dict) -> dict:
    """Return a mask that is True for every parameter."""
    return jax.tree.map(lambda _: True, params)


def batch_norm_statistics(params: dict) -> dict:
    """Return a mask that is True for batch norm's running statistics and for a torch module's buffers."""
    return mask_of(params, lambda path: path[-1] in RUNNING_STATISTICS or path[0] == BUFFERS)


def freeze(params: dict, trainable: Mask) -> dict:
    """Return `params` without gradients outside the mask `trainable`, which saves computing them."""
    return jax.tree.map(
        lambda leaf, trained: leaf if trained else jax.lax.stop_gradient(leaf), params, trainable(params)
    )


def statistics_loss(params: dict, updated: dict) -> jax.Array:
    """Return a loss of value 0 whose gradient moves batch norm's running statistics to those of `updated`.

    The gradient is their difference to `updated`, a step that `masked_optimizer` takes in full. It is 0 for
    all other parameters.
    """

    def distance(old, new, statistic):
        if not statistic:
            return 0.0
        new = jax.lax.stop_gradient(new)
        difference = jnp.where(old == new, 0, old - new)  # also for infinite buffers, such as attention masks
        square = jnp.square(difference.astype(jnp.float32)).sum() / 2
        return square - jax.lax.stop_gradient(square)

    distances = jax.tree.map(distance, params, updated, batch_norm_statistics(params))
    total: Any = sum(jax.tree.leaves(distances))
    return total


def mask_of(params: dict, selects: Callable[[tuple[str, ...]], bool]) -> dict[str, Any]:
    """Return a mask that is True for the parameters whose path `selects` accepts."""
    return jax.tree_util.tree_map_with_path(lambda path, _: selects(tuple(part.key for part in path)), params)
