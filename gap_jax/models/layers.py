"""The layers that the networks share. Images are NHWC; statistics and softmax are in float32.

The name of a submodule is its dotted path in the torch module (`"down_blocks.0.resnets.1"`). The path of a
parameter, joined by dots, is therefore its key in a state dict of diffusers or transformers.
"""

from collections.abc import Callable, Sequence
from functools import partial
from typing import TYPE_CHECKING, Any, Literal, get_args

import flax.linen as nn
import jax
import jax.numpy as jnp

from gap_jax.models.attention import LONG, Form, attention
from gap_jax.models.convolution import convolve

ACTIVATIONS = {
    "gelu": lambda x: jax.nn.gelu(x, approximate=False),
    "quick_gelu": lambda x: x * jax.nn.sigmoid(1.702 * x),
}
Recompute = Literal["auto", "nothing", "blocks"]
Call = Callable[..., jax.Array]  # from a block and its inputs to its output


class Layer(nn.Module, kw_only=True):
    """A Flax module that computes in `dtype` and keeps its parameters in `param_dtype`."""

    dtype: Any = jnp.float32
    param_dtype: Any = jnp.float32

    if TYPE_CHECKING:  # Flax's result is a union that every caller would have to narrow

        def apply(self, *args: Any, **kwargs: Any) -> Any: ...

    @property
    def dtypes(self) -> dict[str, Any]:
        """The two dtypes as keyword arguments, for submodules."""
        return {"dtype": self.dtype, "param_dtype": self.param_dtype}


class Conv(Layer):
    """A square convolution of `[B,H,W,in]` to `[B,H',W',features]`.

    `padding`: rows and columns of zeros on every side, or `(before, after)`.
    """

    features: int
    kernel_size: int = 3
    stride: int = 1
    padding: int | tuple[int, int] = 1
    use_bias: bool = True
    kernel_init: Any = nn.initializers.lecun_normal()

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        shape = (self.kernel_size, self.kernel_size, x.shape[-1], self.features)
        kernel = self.param("kernel", self.kernel_init, shape, self.param_dtype).astype(self.dtype)
        x = x.astype(self.dtype)
        if self.kernel_size == 1:
            out = x @ kernel[0, 0]
        else:
            before_after = (self.padding,) * 2 if isinstance(self.padding, int) else self.padding
            out = convolve(x, kernel, self.stride, (before_after,) * 2)
        if self.use_bias:
            bias = self.param("bias", nn.initializers.zeros, (self.features,), self.param_dtype)
            out += bias.astype(self.dtype)
        return out


class GroupNorm(Layer):
    """Group normalisation (Wu & He, arXiv 1803.08494) of `[B,H,W,C]`; statistics in float32."""

    num_groups: int
    epsilon: float

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        channels = x.shape[-1]
        scale = self.param("scale", nn.initializers.ones, (channels,), self.param_dtype)
        bias = self.param("bias", nn.initializers.zeros, (channels,), self.param_dtype)

        def group_mean(per_channel):  # [B,1,1,C]
            means = per_channel.reshape(len(x), self.num_groups, -1).mean(-1)
            return jnp.repeat(means, channels // self.num_groups, 1)[:, None, None]

        x = x.astype(jnp.float32)
        mean = group_mean(x.mean((1, 2)))
        variance = group_mean(jnp.square(x - mean).mean((1, 2)))
        gain = jax.lax.rsqrt(variance + self.epsilon) * scale
        return (x * gain + (bias - mean * gain)).astype(self.dtype)


class Attention(Layer):
    """diffusers' `Attention`: tokens `[B,L,C]` attend to themselves or to a `context` `[B,M,D]`."""

    heads: int
    qkv_bias: bool = False
    upcast: bool = False
    form: Form = "auto"

    @nn.compact
    def __call__(self, x: jax.Array, context: jax.Array | None = None) -> jax.Array:
        channels = x.shape[-1]
        context = x if context is None else context

        def project(name, tokens):
            return nn.Dense(channels, use_bias=self.qkv_bias, name=name, **self.dtypes)(tokens)

        query, key, value = project("to_q", x), project("to_k", context), project("to_v", context)
        out = attention(query, key, value, heads=self.heads, upcast=self.upcast, form=self.form)
        return nn.Dense(channels, name="to_out.0", **self.dtypes)(out)


class ResnetBlock2D(Layer):
    """Two normalised convolutions with a shortcut; a time embedding `temb` `[B,E]` is added in between."""

    features: int
    num_groups: int
    epsilon: float

    @nn.compact
    def __call__(self, x: jax.Array, temb: jax.Array | None = None) -> jax.Array:
        h = nn.silu(GroupNorm(self.num_groups, self.epsilon, name="norm1", **self.dtypes)(x))
        h = Conv(self.features, name="conv1", **self.dtypes)(h)
        if temb is not None:
            shift = nn.Dense(self.features, name="time_emb_proj", **self.dtypes)(nn.silu(temb))
            h += shift[:, None, None]
        h = nn.silu(GroupNorm(self.num_groups, self.epsilon, name="norm2", **self.dtypes)(h))
        h = Conv(self.features, name="conv2", **self.dtypes)(h)
        if x.shape[-1] != self.features:
            x = Conv(self.features, kernel_size=1, padding=0, name="conv_shortcut", **self.dtypes)(x)
        return x + h


def block_caller(recompute: Recompute, latents: jax.Array) -> Call:
    """Return `call(block, *inputs)`, which applies a block of a network that gets `latents` `[B,h,w,C]`.

    Its gradient recomputes what `recomputes` says. Raises ValueError for another value of `recompute`.
    """
    return nn.remat(call_block) if recomputes(recompute, latents.shape[1:3]) else call_block


def recomputes(recompute: Recompute, latents: Sequence[int]) -> bool:
    """Return True if a gradient computes the insides of blocks again instead of keeping them in memory.

    It then keeps the inputs of blocks only. `recompute` says what is computed again: `nothing`, `blocks`, or
    `auto`, which is `blocks` for `latents` `(height, width)` of `LONG` pixels or more: those of images of
    256 × 256 pixels. Raises ValueError for another value.
    """
    if recompute not in get_args(Recompute):
        raise ValueError(f"recompute must be one of {', '.join(get_args(Recompute))}; found {recompute!r}")
    return recompute == "blocks" or (recompute == "auto" and latents[0] * latents[1] >= LONG)


def call_block(block: nn.Module, *inputs: jax.Array) -> jax.Array:
    """Apply a block."""
    return block(*inputs)


@partial(jax.custom_vjp, nondiff_argnums=(0,))
def row_by_row(function: Callable[[Any, jax.Array], jax.Array], params: Any, x: jax.Array) -> jax.Array:
    """Return `function(params, x)`, which computes each row of `x` `[B,…]` by itself.

    Its gradient computes one row after another, each anew, even under `vmap`, so that its memory does not
    grow with the number of rows. Differentiable in reverse mode only.
    """
    return function(params, x)


def _row_by_row_forward(function, params, x):
    trained = () if any(leaf.perturbed for leaf in jax.tree.leaves(params)) else None
    params, x = jax.tree.map(lambda leaf: leaf.value, (params, x))
    return function(params, x), (params, x, trained)


def _row_by_row_backward(function, kept, gradient):
    params, x, trained = kept
    if isinstance(gradient, jax.custom_derivatives.SymbolicZero):
        return None, None

    @jax.custom_batching.sequential_vmap
    def to_row(params, row, gradient):
        return jax.vjp(partial(function, params), row[None])[1](gradient[None])[0][0]

    def add_to_params(total, pair):
        row, gradient = pair
        to_params = jax.vjp(lambda params: function(params, row[None]), params)[1](gradient[None])[0]
        return jax.tree.map(jnp.add, total, to_params), None

    to_x = jax.lax.map(lambda pair: to_row(params, *pair), (x, gradient))
    if trained is None:
        return None, to_x
    return jax.lax.scan(add_to_params, jax.tree.map(jnp.zeros_like, params), (x, gradient))[0], to_x


row_by_row.defvjp(_row_by_row_forward, _row_by_row_backward, symbolic_zeros=True)


def upsample(x: jax.Array, size: Sequence[int]) -> jax.Array:
    """Double `[B,h,w,C]` by nearest neighbours and crop to `size` `(H, W)`: 2h or 2h-1, and 2w or 2w-1."""
    batch, height, width, channels = x.shape
    doubled = jnp.broadcast_to(x[:, :, None, :, None], (batch, height, 2, width, 2, channels))
    return doubled.reshape(batch, 2 * height, 2 * width, channels)[:, : size[0], : size[1]]


def resize(x: jax.Array, size: Sequence[int], *, align_corners: bool = False) -> jax.Array:
    """Resize `[B,h,w,C]` to `size` `(H, W)` bilinearly without antialiasing, as torch's `interpolate`.

    The images' borders stay in place or, with `align_corners`, the centres of the outermost pixels; H and W
    must then be 2 or more.
    """
    shape = (len(x), *size, x.shape[-1])
    if not align_corners:
        return jax.image.resize(x, shape, "bilinear", antialias=False)
    # a single pixel may be scaled by anything that keeps all samples within it
    scale = jnp.array([(new - 1) / (old - 1 or 0.25) for old, new in zip(x.shape[1:3], size, strict=True)])
    return jax.image.scale_and_translate(x, shape, (1, 2), scale, (1 - scale) / 2, "linear", antialias=False)


def timestep_embedding(
    timesteps: jax.Array, channels: int, *, flip_sin_to_cos: bool, freq_shift: float
) -> jax.Array:
    """Return the sinusoidal embedding of timesteps `[B]` as in arXiv 2006.11239, float32 `[B,channels]`."""
    half = channels // 2
    frequencies = jnp.exp(-jnp.log(10000.0) * jnp.arange(half) / (half - freq_shift))
    angles = timesteps.astype(jnp.float32)[:, None] * frequencies
    waves = [jnp.cos(angles), jnp.sin(angles)] if flip_sin_to_cos else [jnp.sin(angles), jnp.cos(angles)]
    return jnp.pad(jnp.concatenate(waves, -1), ((0, 0), (0, channels % 2)))


def guidance_embedding(scale: jax.Array, channels: int) -> jax.Array:
    """Return the embedding of guidance scales `[B]` for latent consistency models, float32 `[B,channels]`.

    A scale is that of classifier-free guidance in diffusers' form, in which 1 is no guidance. The models
    (Luo et al. 2023, arXiv 2310.04378, section 4.2) see the scale minus 1, as thousandths.
    """
    return timestep_embedding(1000 * (scale - 1), channels, flip_sin_to_cos=False, freq_shift=1)


class TimestepEmbedding(Layer):
    """The two-layer network after the sinusoidal embedding, from `[B,C]` to `[B,features]`.

    A condition `[B,D]`, such as `guidance_embedding`, is projected to C channels and added to the input.
    """

    features: int

    @nn.compact
    def __call__(self, x: jax.Array, condition: jax.Array | None = None) -> jax.Array:
        if condition is not None:
            x += nn.Dense(x.shape[-1], use_bias=False, name="cond_proj", **self.dtypes)(condition)
        x = nn.silu(nn.Dense(self.features, name="linear_1", **self.dtypes)(x))
        return nn.Dense(self.features, name="linear_2", **self.dtypes)(x)
