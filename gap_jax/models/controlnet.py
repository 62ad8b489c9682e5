"""ControlNet (Zhang et al., arXiv 2302.05543), equal to diffusers' `ControlNetModel`; and several at once."""

import itertools
from typing import TYPE_CHECKING, Any

import flax.linen as nn
import jax
import jax.numpy as jnp

from gap_jax.models.layers import Conv, block_caller
from gap_jax.models.unet import Backbone, Residuals


class ControlNet(Backbone):
    """A copy of the UNet's downward half that sees a condition image and adds to the UNet's skip connections.

    The condition is halved in size at each entry of `conditioning_embedding_out_channels` after the first,
    which must bring it to the latents' size. `zero_init` initialises the layers that start at zero in the
    paper; it plays no part once weights are loaded.
    """

    conditioning_channels: int = 3
    conditioning_embedding_out_channels: tuple[int, ...] = (16, 32, 96, 256)
    controlnet_conditioning_channel_order: str = "rgb"
    zero_init: Any = nn.initializers.zeros

    @property
    def downscale(self) -> int:
        """The ratio of the condition's size to the latents'."""
        return 2 ** (len(self.conditioning_embedding_out_channels) - 1)

    def example_inputs(self) -> tuple[jax.Array, ...]:
        sample, timesteps, context = super().example_inputs()
        height, width = (side * self.downscale for side in sample.shape[1:3])
        return sample, timesteps, context, jnp.zeros((1, height, width, self.conditioning_channels))

    def embed_condition(self, control: jax.Array) -> jax.Array:
        """Encode the condition `[B,H,W,3]` to features of the latents' size."""
        prefix = "controlnet_cond_embedding"
        widths = self.conditioning_embedding_out_channels
        x = nn.silu(Conv(widths[0], name=f"{prefix}.conv_in", **self.dtypes)(control))
        for i, (width, wider) in enumerate(itertools.pairwise(widths)):
            x = nn.silu(Conv(width, name=f"{prefix}.blocks.{2 * i}", **self.dtypes)(x))
            x = nn.silu(Conv(wider, stride=2, name=f"{prefix}.blocks.{2 * i + 1}", **self.dtypes)(x))
        return self.zero_conv(self.block_out_channels[0], f"{prefix}.conv_out", kernel_size=3)(x)

    def zero_conv(self, features: int, name: str, kernel_size: int = 1) -> Conv:
        padding = kernel_size // 2
        return Conv(features, kernel_size, 1, padding, kernel_init=self.zero_init, name=name, **self.dtypes)

    @nn.compact
    def __call__(
        self,
        sample: jax.Array,
        timesteps: jax.Array,
        context: jax.Array,
        control: jax.Array,
        scale: jax.Array | float = 1.0,
    ) -> Residuals:
        """Return the residuals for the UNet, multiplied by `scale`.

        `control` `[B,H,W,3]` in [0,1] is the condition image; the other arguments are the UNet's.
        """
        sample, context = sample.astype(self.dtype), context.astype(self.dtype)
        if self.controlnet_conditioning_channel_order == "bgr":
            control = control[..., ::-1]
        call = block_caller(self.recompute, sample)
        temb = self.embed_time(timesteps, len(sample))
        x = Conv(self.block_out_channels[0], name="conv_in", **self.dtypes)(sample)
        x += self.embed_condition(control.astype(self.dtype))
        skips = self.down(x, temb, context, call)
        mid = self.middle(skips[-1], temb, context, call)

        def output(name, features):
            return self.zero_conv(features.shape[-1], name)(features) * jnp.asarray(scale, self.dtype)

        down = tuple(output(f"controlnet_down_blocks.{i}", skip) for i, skip in enumerate(skips))
        return Residuals(down, output("controlnet_mid_block", mid))


class ControlNets(nn.Module):
    """Several ControlNets, whose residuals add up, as in diffusers' `MultiControlNetModel`.

    Their parameters are `networks_0`, `networks_1`, …; all of them fit the same UNet.
    """

    networks: tuple[ControlNet, ...]

    if TYPE_CHECKING:

        def apply(self, *args: Any, **kwargs: Any) -> Any: ...

    @property
    def conditioning_channels(self) -> int:
        """The number of channels of all conditions together."""
        return sum(network.conditioning_channels for network in self.networks)

    @property
    def dtype(self) -> Any:
        """The precision of the computation."""
        return self.networks[0].dtype

    @nn.compact
    def __call__(
        self,
        sample: jax.Array,
        timesteps: jax.Array,
        context: jax.Array,
        control: jax.Array,
        scale: jax.Array | float | tuple[jax.Array | float, ...] = 1.0,
    ) -> Residuals:
        """Return the sum of the residuals.

        `control` `[B,H,W,3n]` in [0,1] are the n condition images, one after the other; `scale` multiplies
        all residuals, or those of each ControlNet.
        """
        ends = itertools.accumulate(network.conditioning_channels for network in self.networks)
        conditions = jnp.split(control, list(ends)[:-1], -1)
        scales = jnp.broadcast_to(jnp.asarray(scale), (len(self.networks),))
        residuals = [
            network(sample, timesteps, context, condition, scales[i])
            for i, (network, condition) in enumerate(zip(self.networks, conditions, strict=True))
        ]
        return jax.tree.map(lambda *parts: sum(parts), *residuals)
