"""The UNet of Stable Diffusion 1.x and 2.x (Rombach et al., arXiv 2112.10752).

It equals diffusers' `UNet2DConditionModel` in their configurations.
"""

from typing import Any, NamedTuple

import flax.linen as nn
import jax
import jax.numpy as jnp

from gap_jax.models.attention import Form
from gap_jax.models.layers import (
    ACTIVATIONS,
    Attention,
    Call,
    Conv,
    GroupNorm,
    Layer,
    Recompute,
    ResnetBlock2D,
    TimestepEmbedding,
    block_caller,
    timestep_embedding,
    upsample,
)


class Residuals(NamedTuple):
    """The features that a ControlNet adds to the UNet's skip connections and its middle block's output."""

    down: tuple[jax.Array, ...]
    mid: jax.Array


class BasicTransformerBlock(Layer):
    """Self-attention, attention to the context, and a gated feed-forward network on tokens `[B,L,C]`."""

    heads: int
    upcast_attention: bool
    attention: Form

    @nn.compact
    def __call__(self, x: jax.Array, context: jax.Array) -> jax.Array:
        def norm(name):
            return nn.LayerNorm(epsilon=1e-5, name=name, **self.dtypes)

        def attend(name):
            return Attention(
                self.heads, upcast=self.upcast_attention, form=self.attention, name=name, **self.dtypes
            )

        channels = x.shape[-1]
        x += attend("attn1")(norm("norm1")(x))
        x += attend("attn2")(norm("norm2")(x), context)
        h = nn.Dense(8 * channels, name="ff.net.0.proj", **self.dtypes)(norm("norm3")(x))
        h, gate = jnp.split(h, 2, -1)
        return x + nn.Dense(channels, name="ff.net.2", **self.dtypes)(h * ACTIVATIONS["gelu"](gate))


class Transformer2D(Layer):
    """Transformer blocks over the pixels of `[B,h,w,C]`, with a residual connection around them."""

    heads: int
    layers: int
    num_groups: int
    use_linear_projection: bool
    upcast_attention: bool
    attention: Form

    @nn.compact
    def __call__(self, x: jax.Array, context: jax.Array) -> jax.Array:
        batch, height, width, channels = x.shape

        def project(name, tokens):
            if self.use_linear_projection:
                return nn.Dense(channels, name=name, **self.dtypes)(tokens)
            image = tokens.reshape(batch, height, width, channels)
            conv = Conv(channels, kernel_size=1, padding=0, name=name, **self.dtypes)
            return conv(image).reshape(tokens.shape)

        h = GroupNorm(self.num_groups, 1e-6, name="norm", **self.dtypes)(x)
        h = project("proj_in", h.reshape(batch, height * width, channels))
        for i in range(self.layers):
            block = BasicTransformerBlock(
                self.heads,
                self.upcast_attention,
                self.attention,
                name=f"transformer_blocks.{i}",
                **self.dtypes,
            )
            h = block(h, context)
        return x + project("proj_out", h).reshape(x.shape)


class Backbone(Layer):
    """The layers and the configuration that the UNet and the ControlNet share.

    Field names and defaults are those of diffusers' configurations, but for the two that say how results are
    computed: `attention` is the `form` of `attention`, and `recompute` that of `block_caller`.
    """

    in_channels: int = 4
    block_out_channels: tuple[int, ...] = (320, 640, 1280, 1280)
    down_block_types: tuple[str, ...] = ("CrossAttnDownBlock2D",) * 3 + ("DownBlock2D",)
    layers_per_block: int = 2
    transformer_layers_per_block: int | tuple[int, ...] = 1
    cross_attention_dim: int = 1280
    attention_head_dim: int | tuple[int, ...] = 8
    num_attention_heads: int | tuple[int, ...] | None = None
    use_linear_projection: bool = False
    upcast_attention: bool = False
    norm_num_groups: int = 32
    norm_eps: float = 1e-5
    flip_sin_to_cos: bool = True
    freq_shift: float = 0
    attention: Form = "auto"
    recompute: Recompute = "auto"

    def example_inputs(self) -> tuple[jax.Array, ...]:
        """Return zeros of the smallest shapes that `init` takes."""
        side = 2 ** (len(self.block_out_channels) - 1)
        sample = jnp.zeros((1, side, side, self.in_channels))
        return sample, jnp.zeros(1), jnp.zeros((1, 1, self.cross_attention_dim))

    def heads(self, level: int) -> int:
        """Return the number of attention heads at a level; diffusers reads `attention_head_dim` as it too."""
        heads = self.num_attention_heads or self.attention_head_dim
        return heads if isinstance(heads, int) else heads[level]

    def resnet(self, level: int, name: str) -> ResnetBlock2D:
        return ResnetBlock2D(
            self.block_out_channels[level], self.norm_num_groups, self.norm_eps, name=name, **self.dtypes
        )

    def transformer(self, level: int, name: str) -> Transformer2D:
        layers = self.transformer_layers_per_block
        return Transformer2D(
            self.heads(level),
            layers if isinstance(layers, int) else layers[level],
            self.norm_num_groups,
            self.use_linear_projection,
            self.upcast_attention,
            self.attention,
            name=name,
            **self.dtypes,
        )

    def embed_time(self, timesteps: jax.Array, batch: int, condition: jax.Array | None = None) -> jax.Array:
        """Return the embedding `[B,E]` of timesteps, a scalar or `[B]`, and of a condition `[B,D]`."""
        width = self.block_out_channels[0]
        waves = timestep_embedding(
            jnp.broadcast_to(timesteps, (batch,)),
            width,
            flip_sin_to_cos=self.flip_sin_to_cos,
            freq_shift=self.freq_shift,
        )
        embed = TimestepEmbedding(4 * width, name="time_embedding", **self.dtypes)
        return embed(waves.astype(self.dtype), None if condition is None else condition.astype(self.dtype))

    def down(self, x: jax.Array, temb: jax.Array, context: jax.Array, call: Call) -> list[jax.Array]:
        """Return the skip connections of the downward half; the last is its output.

        `call` is that of `block_caller`.
        """
        skips = [x]
        for level, kind in enumerate(self.down_block_types):
            for i in range(self.layers_per_block):
                x = call(self.resnet(level, f"down_blocks.{level}.resnets.{i}"), x, temb)
                if kind == "CrossAttnDownBlock2D":
                    x = call(self.transformer(level, f"down_blocks.{level}.attentions.{i}"), x, context)
                skips.append(x)
            if level < len(self.block_out_channels) - 1:
                name = f"down_blocks.{level}.downsamplers.0.conv"
                x = Conv(self.block_out_channels[level], stride=2, name=name, **self.dtypes)(x)
                skips.append(x)
        return skips

    def middle(self, x: jax.Array, temb: jax.Array, context: jax.Array, call: Call) -> jax.Array:
        """Apply the middle block; `call` is that of `block_caller`."""
        last = len(self.block_out_channels) - 1
        x = call(self.resnet(last, "mid_block.resnets.0"), x, temb)
        x = call(self.transformer(last, "mid_block.attentions.0"), x, context)
        return call(self.resnet(last, "mid_block.resnets.1"), x, temb)


class UNet2DCondition(Backbone):
    """The UNet, which predicts the noise (or v) in latents `[B,h,w,in_channels]`.

    With `time_cond_proj_dim`, it is a latent consistency model, which sees the scale of guidance itself.
    """

    out_channels: int = 4
    up_block_types: tuple[str, ...] = ("UpBlock2D",) + ("CrossAttnUpBlock2D",) * 3
    sample_size: int | tuple[int, int] | None = None
    time_cond_proj_dim: int | None = None

    def example_inputs(self) -> tuple[Any, ...]:
        inputs = super().example_inputs()
        width = self.time_cond_proj_dim
        return inputs if width is None else (*inputs, None, jnp.zeros((1, width)))

    @nn.compact
    def __call__(
        self,
        sample: jax.Array,
        timesteps: jax.Array,
        context: jax.Array,
        residuals: Residuals | None = None,
        timestep_cond: jax.Array | None = None,
    ) -> jax.Array:
        """Return the prediction `[B,h,w,out_channels]`.

        - `sample` `[B,h,w,in_channels]`: the noisy latents.
        - `timesteps`: a scalar or `[B]`.
        - `context` `[B,L,D]`: the text encoder's states.
        - `residuals`: the output of a ControlNet for the same inputs.
        - `timestep_cond` `[B,time_cond_proj_dim]`: `guidance_embedding` of the scale; None: it plays no part.
        """
        sample, context = sample.astype(self.dtype), context.astype(self.dtype)
        call = block_caller(self.recompute, sample)
        temb = self.embed_time(timesteps, len(sample), timestep_cond)
        x = Conv(self.block_out_channels[0], name="conv_in", **self.dtypes)(sample)
        skips = self.down(x, temb, context, call)
        x = self.middle(skips[-1], temb, context, call)
        if residuals is not None:
            skips = [skip + extra for skip, extra in zip(skips, residuals.down, strict=True)]
            x += residuals.mid
        for block, kind in enumerate(self.up_block_types):
            level = len(self.block_out_channels) - 1 - block
            for i in range(self.layers_per_block + 1):
                x = jnp.concatenate([x, skips.pop()], -1)
                x = call(self.resnet(level, f"up_blocks.{block}.resnets.{i}"), x, temb)
                if kind == "CrossAttnUpBlock2D":
                    x = call(self.transformer(level, f"up_blocks.{block}.attentions.{i}"), x, context)
            if level > 0:
                name = f"up_blocks.{block}.upsamplers.0.conv"
                x = upsample(x, skips[-1].shape[1:3])
                x = Conv(self.block_out_channels[level], name=name, **self.dtypes)(x)
        x = nn.silu(GroupNorm(self.norm_num_groups, self.norm_eps, name="conv_norm_out", **self.dtypes)(x))
        return Conv(self.out_channels, name="conv_out", **self.dtypes)(x)
