"""The depth U-Net of Cross-Task Consistency (XTC; Zamir et al., arXiv 2006.04096)."""

import flax.linen as nn
import jax
import jax.numpy as jnp

from gap_jax.checks import expect_divisible, expect_shape
from gap_jax.models.layers import Conv, GroupNorm, Layer

GROUPS, EPSILON = 8, 1e-5


class DepthUNet(Layer):
    """The network, from images `[B,H,W,in_channels]` in [0,1] to depth, float32 `[B,H,W,out_channels]`.

    - `levels`, `width`: level i has `width · 2^i` features; the published network has 6 levels below the
      first. H and W must be multiples of `2^levels`.
    - `non_negative`: end with a ReLU, so that depth is ≥ 0. The published network ends with the 1×1
      convolution.

    Raises ValueError for another shape.
    """

    levels: int = 6
    width: int = 16
    in_channels: int = 3
    out_channels: int = 1
    non_negative: bool = False

    def example_inputs(self) -> tuple[jax.Array, ...]:
        """Return zeros of the smallest shapes that `init` takes."""
        side = 2**self.levels
        return (jnp.zeros((1, side, side, self.in_channels)),)

    @nn.compact
    def __call__(self, images: jax.Array) -> jax.Array:
        expect_shape("images", images, (None, None, None, self.in_channels))
        expect_divisible("images", images, 2**self.levels)

        def layer(x, name, norm, features):
            x = Conv(features, name=name, **self.dtypes)(x)
            return nn.relu(GroupNorm(GROUPS, EPSILON, name=norm, **self.dtypes)(x))

        def block(x, prefix, features):
            for i in (1, 2, 3):
                x = layer(x, f"{prefix}conv{i}", f"{prefix}bn{i}", features)
            return x

        x = block(images.astype(self.dtype), "down1.", self.width)
        skips = []
        for level in range(self.levels):
            skips.append(x)
            x = block(x, f"down_blocks.{level}.", self.width * 2 ** (level + 1))
            x = _max_pool(x)
        for i in (1, 2, 3):
            x = layer(x, f"mid_conv{i}", f"bn{i}", x.shape[-1])
        for level in reversed(range(self.levels)):
            x = jnp.concatenate([_double(_double(x, 1), 2), skips[level]], -1)
            x = block(x, f"up_blocks.{level}.", self.width * 2**level)
        x = layer(x, "last_conv1", "last_bn", self.width)
        x = Conv(self.out_channels, 1, 1, 0, name="last_conv2", **self.dtypes)(x)
        return (nn.relu(x) if self.non_negative else x).astype(jnp.float32)


def _max_pool(x: jax.Array) -> jax.Array:
    """Return the maximum of every 2 × 2 values. Of equal ones the first has the gradient, as in torch."""
    batch, height, width, channels = x.shape
    x = x.reshape(batch, height // 2, 2, width // 2, 2, channels)

    def larger(a, b):
        return jnp.where(a >= b, a, b)

    top, bottom = (larger(x[:, :, i, :, 0], x[:, :, i, :, 1]) for i in (0, 1))
    return larger(top, bottom)


def _double(x: jax.Array, axis: int) -> jax.Array:
    """Return `x` enlarged twofold along an axis by linear interpolation, with its edges repeated."""
    size = x.shape[axis]

    def part(start, stop):
        return jax.lax.slice_in_dim(x, start, stop, axis=axis)

    before = jnp.concatenate([part(0, 1), part(0, size - 1)], axis)
    after = jnp.concatenate([part(1, size), part(size - 1, size)], axis)
    pairs = jnp.stack([0.25 * before + 0.75 * x, 0.75 * x + 0.25 * after], axis + 1)
    return pairs.reshape(*x.shape[:axis], 2 * size, *x.shape[axis + 1 :])
