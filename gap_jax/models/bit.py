"""The ResNet of Big Transfer (Kolesnikov et al., arXiv 1912.11370), the stem of DPT-hybrid.

It equals transformers' `BitModel` with bottlenecks that normalise after each convolution. Kernels are
standardised (Qiao et al., arXiv 1903.10520), and padding is TensorFlow's `SAME`.
"""

import dataclasses

import flax.linen as nn
import jax
import jax.numpy as jnp

from gap_jax.models.convolution import convolve
from gap_jax.models.layers import Call, GroupNorm, Layer, call_block


@dataclasses.dataclass(frozen=True)
class BitConfig:
    """The sizes of a `Bit`, one stage per entry of `depths`; field names are those of transformers."""

    embedding_size: int = 64
    hidden_sizes: tuple[int, ...] = (256, 512, 1024)
    depths: tuple[int, ...] = (3, 4, 9)
    num_groups: int = 32


class StandardizedConv(Layer):
    """A convolution without bias whose kernel is scaled to mean 0 and variance 1 per output feature."""

    features: int
    kernel_size: int = 1
    stride: int = 1

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        shape = (self.kernel_size, self.kernel_size, x.shape[-1], self.features)
        kernel = self.param("kernel", nn.initializers.lecun_normal(), shape, self.param_dtype)
        kernel = kernel.astype(jnp.float32)
        kernel -= kernel.mean((0, 1, 2))
        kernel *= jax.lax.rsqrt(jnp.square(kernel).mean((0, 1, 2)) + 1e-8)
        kernel, x = kernel.astype(self.dtype), x.astype(self.dtype)
        if self.kernel_size == 1:
            return x[:, :: self.stride, :: self.stride] @ kernel[0, 0]
        padding = jax.lax.padtype_to_pads(x.shape[1:3], kernel.shape[:2], (self.stride,) * 2, "SAME")
        return convolve(x, kernel, self.stride, tuple(padding))


class PreactivationBottleneck(Layer):
    """Three convolutions, the second one strided, and a shortcut; `downsample` convolves the shortcut too."""

    features: int
    stride: int
    num_groups: int
    downsample: bool

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        def layer(x, conv, norm, features, kernel_size=1, stride=1):
            x = StandardizedConv(features, kernel_size, stride, name=conv, **self.dtypes)(x)
            return GroupNorm(self.num_groups, 1e-5, name=norm, **self.dtypes)(x)

        width = self.features // 4
        h = nn.relu(layer(x, "conv1", "norm1", width))
        h = nn.relu(layer(h, "conv2", "norm2", width, 3, self.stride))
        h = layer(h, "conv3", "norm3", self.features)
        if self.downsample:
            x = layer(x, "downsample.conv", "downsample.norm", self.features, stride=self.stride)
        return nn.relu(x + h)


class Bit(Layer):
    """The network; returns one feature map of `[B,H,W,C]` per stage, at 1/4, 1/8, 1/16, … of its size."""

    config: BitConfig
    call: Call = call_block  # of a bottleneck

    @nn.compact
    def __call__(self, x: jax.Array) -> list[jax.Array]:
        config = self.config
        x = StandardizedConv(config.embedding_size, 7, 2, name="embedder.convolution", **self.dtypes)(x)
        x = nn.relu(GroupNorm(config.num_groups, 1e-5, name="embedder.norm", **self.dtypes)(x))
        x = nn.max_pool(x, (3, 3), (2, 2), "SAME")
        maps = []
        for stage, (depth, features) in enumerate(zip(config.depths, config.hidden_sizes, strict=False)):
            for i in range(depth):
                stride = 2 if stage > 0 and i == 0 else 1
                name = f"encoder.stages.{stage}.layers.{i}"
                block = PreactivationBottleneck(
                    features, stride, config.num_groups, i == 0, name=name, **self.dtypes
                )
                x = self.call(block, x)
            maps.append(x)
        return maps
