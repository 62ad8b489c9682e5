"""What fine-tuning asks of a classifier: which parameters are trained, a new head, batch norm that moves.

A `ResNet`'s running statistics are among its parameters, have no gradient, and must not be decayed:
`fine_tuning(optimizer)` leaves them alone. With batch norm in training mode they are to move, which `follow`
brings about in any loop that takes gradients, and for any number of devices::

    def loss(params, frozen, batch, keys):
        logits, updated = model.apply({"params": params}, batch["image"], train=True, mutable="params")
        return cross_entropy(logits, batch["label"]).mean() + follow(params, updated["params"]), {}
"""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import optax

from gap_jax.models.resnet import ResNet
from gap_jax.models.vit import ViT

Mask = Callable[[dict], dict]
STATISTICS = ("running_mean", "running_var")


def everything(params: dict) -> dict:
    """A mask of the shape of `params`: all of them."""
    return jax.tree.map(lambda _: True, params)


def last_layer(params: dict) -> dict:
    """A mask of the shape of `params`, True for the head's kernel and bias."""
    return _mask(params, lambda path: path[0] in (ResNet.head, ViT.head))


def statistics(params: dict) -> dict:
    """A mask of the shape of `params`, True for batch norm's running statistics."""
    return _mask(params, lambda path: path[-1] in STATISTICS)


def freeze(params: dict, trained: Mask) -> dict:
    """`params`, of which only those of the mask have a gradient: what the others' would cost is saved."""
    return jax.tree.map(lambda leaf, on: leaf if on else jax.lax.stop_gradient(leaf), params, trained(params))


def fine_tuning(
    optimizer: optax.GradientTransformation, trained: Mask = everything
) -> optax.GradientTransformation:
    """`optimizer` for the parameters of a mask (`last_layer`), none for others; statistics `follow`."""

    def labels(params):
        return jax.tree.map(
            lambda on, statistic: "statistics" if statistic else "trained" if on else "frozen",
            trained(params),
            statistics(params),
        )

    kinds = {"trained": optimizer, "statistics": optax.sgd(1.0), "frozen": optax.set_to_zero()}
    return optax.partition(kinds, labels)


def follow(params: dict, updated: dict) -> jax.Array:
    """A loss of 0 whose gradient, to batch norm's statistics, is how far they are from `updated`.

    `fine_tuning` takes that step whole. Zero gradient to the other parameters.
    """

    def distance(old, new, statistic):
        if not statistic:
            return 0.0
        square = jnp.square((old - jax.lax.stop_gradient(new)).astype(jnp.float32)).sum() / 2
        return square - jax.lax.stop_gradient(square)

    return sum(jax.tree.leaves(jax.tree.map(distance, params, updated, statistics(params))))


def with_classes(
    module: ResNet | ViT, params: dict, num_classes: int, key: jax.Array
) -> tuple[ResNet | ViT, dict]:
    """The classifier with a new head for `num_classes`, drawn as torch's `Linear`; the rest is kept.

    Kernel and bias are uniform in ±1/√features. Raises ValueError for fewer than 2 classes.
    """
    if num_classes < 2:
        raise ValueError(f"num_classes must be at least 2, found {num_classes}")
    old = params[module.head]
    bound = old["kernel"].shape[0] ** -0.5
    shapes = {"kernel": (old["kernel"].shape[0], num_classes), "bias": (num_classes,)}
    head = {
        name: jax.random.uniform(part, shape, jnp.float32, -bound, bound).astype(old[name].dtype)
        for part, (name, shape) in zip(jax.random.split(key), shapes.items(), strict=True)
    }
    return module.clone(num_labels=num_classes), {**params, module.head: head}


def _mask(params: dict, holds: Callable[[tuple[str, ...]], bool]) -> dict[str, Any]:
    return jax.tree_util.tree_map_with_path(lambda path, _: holds(tuple(part.key for part in path)), params)
