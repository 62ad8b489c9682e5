"""The autoencoder between images and latents (Rombach et al., arXiv 2112.10752).

It equals diffusers' `AutoencoderKL`.
"""

from typing import NamedTuple

import flax.linen as nn
import jax
import jax.numpy as jnp

from gap_jax.models.attention import Form
from gap_jax.models.layers import (
    Attention,
    Call,
    Conv,
    GroupNorm,
    Layer,
    Recompute,
    ResnetBlock2D,
    block_caller,
    call_block,
    upsample,
)

EPSILON = 1e-6


class Posterior(NamedTuple):
    """A diagonal Gaussian over latents: mean and log variance, `[B,h,w,latent_channels]` each."""

    mean: jax.Array
    logvar: jax.Array


class Stack(Layer):
    """The layers that the encoder and the decoder share."""

    block_out_channels: tuple[int, ...]
    layers_per_block: int
    norm_num_groups: int
    out_channels: int
    attention: Form

    def resnet(self, features: int, name: str) -> ResnetBlock2D:
        return ResnetBlock2D(features, self.norm_num_groups, EPSILON, name=name, **self.dtypes)

    def norm(self, name: str) -> GroupNorm:
        return GroupNorm(self.norm_num_groups, EPSILON, name=name, **self.dtypes)

    def middle(self, x: jax.Array, call: Call) -> jax.Array:
        """Apply the middle block; `call` is that of `block_caller`."""
        channels = x.shape[-1]
        x = call(self.resnet(channels, "mid_block.resnets.0"), x)
        tokens = self.norm("mid_block.attentions.0.group_norm")(x).reshape(len(x), -1, channels)
        attend = Attention(
            1, qkv_bias=True, form=self.attention, name="mid_block.attentions.0", **self.dtypes
        )
        x += attend(tokens).reshape(x.shape)
        return call(self.resnet(channels, "mid_block.resnets.1"), x)

    def finish(self, x: jax.Array) -> jax.Array:
        """Apply the last normalisation and convolution."""
        x = nn.silu(self.norm("conv_norm_out")(x))
        return Conv(self.out_channels, name="conv_out", **self.dtypes)(x)


class Encoder(Stack):
    """The encoder, from images `[B,H,W,C]` to features `[B,H/f,W/f,out_channels]`."""

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        x = Conv(self.block_out_channels[0], name="conv_in", **self.dtypes)(x)
        for level, features in enumerate(self.block_out_channels):
            for i in range(self.layers_per_block):
                x = self.resnet(features, f"down_blocks.{level}.resnets.{i}")(x)
            if level < len(self.block_out_channels) - 1:
                name = f"down_blocks.{level}.downsamplers.0.conv"
                x = Conv(features, stride=2, padding=(0, 1), name=name, **self.dtypes)(x)
        return self.finish(self.middle(x, call_block))


class Decoder(Stack):
    """The decoder, from features `[B,h,w,C]` to images `[B,h·f,w·f,out_channels]`."""

    recompute: Recompute

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        call = block_caller(self.recompute, x)
        x = Conv(self.block_out_channels[-1], name="conv_in", **self.dtypes)(x)
        x = self.middle(x, call)
        for block, features in enumerate(reversed(self.block_out_channels)):
            for i in range(self.layers_per_block + 1):
                x = call(self.resnet(features, f"up_blocks.{block}.resnets.{i}"), x)
            if block < len(self.block_out_channels) - 1:
                x = upsample(x, (2 * x.shape[1], 2 * x.shape[2]))
                x = Conv(features, name=f"up_blocks.{block}.upsamplers.0.conv", **self.dtypes)(x)
        return self.finish(x)


class AutoencoderKL(Layer):
    """The variational autoencoder. Images are in [-1,1] and latents are unscaled, as in diffusers.

    Field names and defaults are diffusers', but for `attention` and `recompute`, which are a `Backbone`'s.
    Only the decoder recomputes.
    """

    in_channels: int = 3
    out_channels: int = 3
    block_out_channels: tuple[int, ...] = (64,)
    layers_per_block: int = 1
    latent_channels: int = 4
    norm_num_groups: int = 32
    sample_size: int = 32
    scaling_factor: float = 0.18215
    attention: Form = "auto"
    recompute: Recompute = "auto"

    @property
    def downscale(self) -> int:
        """The number of pixels per latent along a side."""
        return 2 ** (len(self.block_out_channels) - 1)

    def example_inputs(self) -> tuple[jax.Array, ...]:
        """Return zeros of the smallest shapes that `init` takes."""
        return (jnp.zeros((1, self.downscale, self.downscale, self.in_channels)),)

    def setup(self):
        stack = (self.block_out_channels, self.layers_per_block, self.norm_num_groups)
        moments = 2 * self.latent_channels
        self.encoder = Encoder(*stack, moments, self.attention, **self.dtypes)
        self.decoder = Decoder(*stack, self.out_channels, self.attention, self.recompute, **self.dtypes)
        self.quant_conv = Conv(moments, kernel_size=1, padding=0, **self.dtypes)
        self.post_quant_conv = Conv(self.latent_channels, kernel_size=1, padding=0, **self.dtypes)

    def encode(self, images: jax.Array) -> Posterior:
        """Encode images `[B,H,W,in_channels]` in [-1,1]; return the posterior, float32."""
        moments = self.quant_conv(self.encoder(images.astype(self.dtype))).astype(jnp.float32)
        mean, logvar = jnp.split(moments, 2, -1)
        return Posterior(mean, jnp.clip(logvar, -30, 20))

    def decode(self, latents: jax.Array) -> jax.Array:
        """Decode latents `[B,h,w,latent_channels]` to float32 images in [-1,1], not clipped."""
        return self.decoder(self.post_quant_conv(latents.astype(self.dtype))).astype(jnp.float32)

    def __call__(self, images: jax.Array) -> jax.Array:
        """Return the images decoded from the mean of their posterior."""
        return self.decode(self.encode(images).mean)
