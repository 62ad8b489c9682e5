"""From labels to what keeps an image faithful to them: ControlNet's condition, the inpainting mask."""

import jax
import jax.numpy as jnp


def depth_condition(depth: jax.Array, mask: jax.Array) -> jax.Array:
    """ControlNet's depth condition: near is bright, invalid is black.

    `depth` float `[B,H,W,1]` in [0,1], `mask` boolean `[B,H,W,1]`, True = valid. Returns `[B,H,W,3]`:
    1 - depth over valid pixels, min-max normalised per image to [0,1]; elsewhere 0.
    """
    near = 1 - depth
    low = jnp.min(near, (1, 2, 3), keepdims=True, where=mask, initial=jnp.inf)
    high = jnp.max(near, (1, 2, 3), keepdims=True, where=mask, initial=-jnp.inf)
    scaled = (near - low) / jnp.maximum(high - low, 1e-8)
    return jnp.repeat(jnp.where(mask, scaled, 0.0), 3, -1)


def latent_mask(mask: jax.Array, downscale: int) -> jax.Array:
    """A mask of images `[B,H,W,1]` at the size of their latents `[B,H/f,W/f,1]`, by nearest neighbour."""
    return mask[:, ::downscale, ::downscale]
