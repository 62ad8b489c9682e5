"""Dense Prediction Transformers (Ranftl et al., arXiv 2103.13413).

The network equals transformers' `DPTForDepthEstimation`.
"""

from collections.abc import Callable
from functools import partial
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp

from gap_jax.checks import expect_divisible, expect_shape
from gap_jax.models.bit import Bit, BitConfig
from gap_jax.models.layers import ACTIVATIONS, Call, Conv, Layer, Recompute, call_block, recomputes, resize
from gap_jax.models.vit import VisionTransformer

PATCH = 16  # pixels per token along a side
FACTORS = (4, 2, 1, 0.5)  # sizes of the four feature maps relative to the grid of tokens


class DPT(VisionTransformer):
    """The network, from images `[B,H,W,num_channels]` in [0,1] to depth, float32 `[B,H,W,1]`, ≥ 0.

    A ViT takes patches of the image (DPT-large) or, with `backbone_config`, the feature maps of a ResNet
    (DPT-hybrid). Convolutions fuse four of its feature maps, coarse to fine. Images are normalised with
    `image_mean` and `image_std` inside. H and W must be multiples of 32; the position embeddings, made for
    `image_size`, are resized. The checkpoint decides what the output means: depth in [0,1] in Omnidata's,
    inverse depth up to scale and shift in MiDaS's. `recompute` says what gradients compute again, as in
    `recomputes`. Other field names are those of transformers' `DPTConfig`.
    Raises ValueError for another shape.
    """

    hidden_act: str = "gelu"
    image_size: int = 384
    num_channels: int = 3
    qkv_bias: bool = True
    backbone_config: BitConfig | None = None
    backbone_out_indices: tuple[int, ...] = (2, 5, 8, 11)
    readout_type: str = "project"
    neck_hidden_sizes: tuple[int, ...] = (96, 192, 384, 768)
    fusion_hidden_size: int = 256
    use_bias_in_fusion_residual: bool | None = None  # None: True
    add_projection: bool = False
    image_mean: tuple[float, ...] = (0.5, 0.5, 0.5)
    image_std: tuple[float, ...] = (0.5, 0.5, 0.5)
    recompute: Recompute = "auto"

    def example_inputs(self) -> tuple[jax.Array, ...]:
        """Return zeros of the smallest shapes that `init` takes."""
        return (jnp.zeros((1, 2 * PATCH, 2 * PATCH, self.num_channels)),)

    @nn.compact
    def __call__(self, images: jax.Array) -> jax.Array:
        expect_shape("images", images, (None, None, None, self.num_channels))
        expect_divisible("images", images, 2 * PATCH)
        pixels = (images.astype(jnp.float32) - jnp.array(self.image_mean)) / jnp.array(self.image_std)
        latents = images.shape[1] // 8, images.shape[2] // 8  # of a Stable Diffusion
        again = nn.remat if recomputes(self.recompute, latents) else lambda block: block
        x: Any = None
        for i, features in reversed(list(enumerate(self.feature_maps(pixels.astype(self.dtype), again)))):
            features = self.conv(f"neck.convs.{i}", self.fusion_hidden_size, use_bias=False)(features)
            fuse = partial(DPT.fuse, prefix=f"neck.fusion_stage.layers.{len(FACTORS) - 1 - i}")
            x = again(fuse)(self, x, features)
        if self.add_projection:
            x = nn.relu(self.conv("head.projection", self.fusion_hidden_size)(x))
        x = double_size(self.conv("head.head.0", self.fusion_hidden_size // 2)(x))
        x = nn.relu(self.conv("head.head.2", 32)(x))
        return nn.relu(self.conv("head.head.4", 1, 1)(x)).astype(jnp.float32)

    def feature_maps(self, x: jax.Array, again: Callable[[Call], Call]) -> list[jax.Array]:
        """Return four feature maps of `x`, at 1/4 to 1/32 of its size; `again` is put around blocks."""
        if self.backbone_config is None:
            name, maps = "dpt.embeddings.patch_embeddings.projection", []
            x = self.conv(name, self.hidden_size, PATCH, PATCH)(x)
        else:
            name = "dpt.embeddings.backbone.bit"
            *maps, x = Bit(self.backbone_config, again(call_block), name=name, **self.dtypes)(x)
            x = self.conv("dpt.embeddings.projection", self.hidden_size, 1)(x)
        grid = x.shape[1], x.shape[2]
        x = self.embed(x)
        states = []
        for i in range(self.num_hidden_layers):
            layer = partial(
                DPT.transformer_layer,
                prefix=f"dpt.encoder.layer.{i}",
                activation=self.hidden_act,
                qkv_bias=self.qkv_bias,
            )
            x = again(layer)(self, x)
            if i in self.backbone_out_indices[len(maps) :]:
                states.append(x)
        if self.is_initializing():
            self.norm("dpt.layernorm")(x)  # unused, but in torch's state dict
        return maps + [self.reassemble(i, x, grid) for i, x in enumerate(states, len(maps))]

    def embed(self, patches: jax.Array) -> jax.Array:
        """Return the tokens `[B,1+hw,D]` of patches `[B,h,w,D]`: class token and patches, with positions."""
        batch, height, width, channels = patches.shape
        side = self.image_size // PATCH
        init = nn.initializers.normal(0.02)
        name, shape = "dpt.embeddings.position_embeddings", (1, 1 + side**2, channels)
        positions = self.param(name, init, shape, self.param_dtype).astype(self.dtype)
        token = self.param("dpt.embeddings.cls_token", init, (1, 1, channels), self.param_dtype)
        token = jnp.broadcast_to(token.astype(self.dtype) + positions[:, :1], (batch, 1, channels))
        positions = positions[:, 1:].reshape(1, side, side, channels)
        if (height, width) != (side, side):
            positions = resize(positions, (height, width))
        return jnp.concatenate([token, (patches + positions).reshape(batch, -1, channels)], 1)

    def reassemble(self, i: int, tokens: jax.Array, grid: tuple[int, int]) -> jax.Array:
        """Return the feature map of tokens `[B,1+hw,D]` on a grid `(h, w)`, resized by `FACTORS[i]`."""
        prefix, features, factor = "neck.reassemble_stage", self.neck_hidden_sizes[i], FACTORS[i]
        readout, x = tokens[:, :1], tokens[:, 1:]
        if self.readout_type == "add":
            x += readout
        elif self.readout_type == "project":
            x = jnp.concatenate([x, jnp.broadcast_to(readout, x.shape)], -1)
            x = self.dense(f"{prefix}.readout_projects.{i}.0", self.hidden_size)(x)
            x = ACTIVATIONS[self.hidden_act](x)
        x = x.reshape(len(x), *grid, -1)
        x = self.conv(f"{prefix}.layers.{i}.projection", features, 1)(x)
        name = f"{prefix}.layers.{i}.resize"
        if factor > 1:
            return Enlarge(features, int(factor), name=name, **self.dtypes)(x)
        return self.conv(name, features, stride=2)(x) if factor < 1 else x

    def fuse(self, x: jax.Array | None, features: jax.Array, prefix: str) -> jax.Array:
        """Add refined `features` to `x`, the fused coarser maps; refine the sum and double its size."""
        if x is None:
            x = features
            if self.is_initializing():
                self.residual(f"{prefix}.residual_layer1", x)  # unused, but in torch's state dict
        else:
            x += self.residual(f"{prefix}.residual_layer1", features)
        x = self.residual(f"{prefix}.residual_layer2", x)
        # torch projects after upsampling: the same, since both are linear, but of four times the pixels
        return double_size(self.conv(f"{prefix}.projection", self.fusion_hidden_size, 1)(x))

    def residual(self, prefix: str, x: jax.Array) -> jax.Array:
        """Add to `x` two convolutions of it, each after a ReLU."""
        bias = self.use_bias_in_fusion_residual is not False
        h = x
        for name in ("convolution1", "convolution2"):
            h = self.conv(f"{prefix}.{name}", self.fusion_hidden_size, use_bias=bias)(nn.relu(h))
        return x + h

    def conv(
        self, name: str, features: int, kernel_size: int = 3, stride: int = 1, use_bias: bool = True
    ) -> Conv:
        padding = 1 if kernel_size == 3 else 0
        return Conv(features, kernel_size, stride, padding, use_bias, name=name, **self.dtypes)


class Enlarge(Layer):
    """A transposed convolution whose stride is its kernel's size, which enlarges `[B,h,w,C]` by `factor`.

    The parameter `kernel` has the layout of the convolution that is transposed, `[factor,factor,out,in]`.
    """

    features: int
    factor: int

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        batch, height, width, channels = x.shape
        init = nn.initializers.lecun_normal(in_axis=-1, out_axis=-2)
        shape = (self.factor, self.factor, self.features, channels)
        kernel = self.param("kernel", init, shape, self.param_dtype).astype(self.dtype)
        bias = self.param("bias", nn.initializers.zeros, (self.features,), self.param_dtype)
        out = jnp.einsum("bhwc,uvoc->bhuwvo", x.astype(self.dtype), kernel) + bias.astype(self.dtype)
        return out.reshape(batch, height * self.factor, width * self.factor, self.features)


def double_size(x: jax.Array) -> jax.Array:
    """Double the size of `[B,h,w,C]`, bilinearly with aligned corners."""
    return resize(x, (2 * x.shape[1], 2 * x.shape[2]), align_corners=True)
