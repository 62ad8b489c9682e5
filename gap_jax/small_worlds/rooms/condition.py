"""The condition that the rooms' ControlNet sees: depth, and the pattern that follows from it."""

import jax
import jax.numpy as jnp

from gap_jax.data.batch import Batch
from gap_jax.diffusion.conditions import depth_condition
from gap_jax.small_worlds.rooms.renderer import RANGE, pattern, rays


def condition(batch: Batch) -> jax.Array:
    """Return the condition of a batch's `depth` and `mask`, float32 `[B,S,S,3]` in [0,1].

    Red is `depth_condition`. Green is the pattern at the points of the depth map, which a network of this
    size does not find by itself, from 0 to 1. Blue is 1 where depth is valid; elsewhere, all three are 0.
    """
    depth, mask = batch["depth"], batch["mask"]
    points = RANGE * depth * rays(depth.shape[1])
    carved = jnp.where(mask, 0.5 + 0.5 * pattern(points, jnp), 0.0)
    return jnp.concatenate([depth_condition(depth, mask)[..., :1], carved, mask.astype(jnp.float32)], -1)
