"""Vision Transformers (Dosovitskiy et al., arXiv 2010.11929).

The classifier equals transformers' `ViTForImageClassification`.
"""

import flax.linen as nn
import jax
import jax.numpy as jnp

from gap_jax.checks import expect_shape
from gap_jax.models.attention import attention
from gap_jax.models.layers import ACTIVATIONS, Conv, Layer


class VisionTransformer(Layer):
    """The sizes and the transformer layers that `ViT` and `DPT` share; field names are transformers'."""

    hidden_size: int = 768
    num_hidden_layers: int = 12
    num_attention_heads: int = 12
    intermediate_size: int = 3072
    layer_norm_eps: float = 1e-12

    def transformer_layer(
        self, x: jax.Array, prefix: str, *, activation: str = "gelu", qkv_bias: bool = True
    ) -> jax.Array:
        """Apply a transformer layer to tokens `[B,L,D]`; `prefix` is its name."""
        h = self.norm(f"{prefix}.layernorm_before")(x)
        query, key, value = (
            self.dense(f"{prefix}.attention.attention.{name}", self.hidden_size, qkv_bias)(h)
            for name in ("query", "key", "value")
        )
        h = attention(query, key, value, heads=self.num_attention_heads)
        x += self.dense(f"{prefix}.attention.output.dense", self.hidden_size)(h)
        h = self.norm(f"{prefix}.layernorm_after")(x)
        h = ACTIVATIONS[activation](self.dense(f"{prefix}.intermediate.dense", self.intermediate_size)(h))
        return x + self.dense(f"{prefix}.output.dense", self.hidden_size)(h)

    def dense(self, name: str, features: int, use_bias: bool = True) -> nn.Dense:
        return nn.Dense(features, use_bias=use_bias, name=name, **self.dtypes)

    def norm(self, name: str) -> nn.LayerNorm:
        return nn.LayerNorm(epsilon=self.layer_norm_eps, name=name, **self.dtypes)


class ViT(VisionTransformer):
    """A classifier: images `[B,image_size,image_size,num_channels]` to logits, float32 `[B,num_labels]`.

    Images are in [0,1] and normalised with `image_mean` and `image_std` inside. `label_names`
    are the names of the classes, if they are known. Other field names are those of transformers' `ViTConfig`;
    the defaults are ViT-B/16's. `train` exists so that a ViT can stand in for a
    `ResNet`: there is no dropout, so both modes are the same. Raises ValueError for another shape.
    """

    image_size: int = 224
    patch_size: int = 16
    num_channels: int = 3
    num_labels: int = 1000
    label_names: tuple[str, ...] | None = None
    image_mean: tuple[float, ...] = (0.5, 0.5, 0.5)
    image_std: tuple[float, ...] = (0.5, 0.5, 0.5)

    head = "classifier"

    def example_inputs(self) -> tuple[jax.Array, ...]:
        """Return zeros of the shape that `init` takes."""
        return (jnp.zeros((1, self.image_size, self.image_size, self.num_channels)),)

    @nn.compact
    def __call__(self, images: jax.Array, train: bool = False) -> jax.Array:
        shape = (None, self.image_size, self.image_size, self.num_channels)
        expect_shape("images", images, shape, "resize the images")
        pixels = (images.astype(jnp.float32) - jnp.array(self.image_mean)) / jnp.array(self.image_std)
        x = self.embed(pixels.astype(self.dtype))
        for i in range(self.num_hidden_layers):
            x = self.transformer_layer(x, f"vit.encoder.layer.{i}")
        x = self.norm("vit.layernorm")(x[:, 0])
        return self.dense(self.head, self.num_labels)(x).astype(jnp.float32)

    def embed(self, pixels: jax.Array) -> jax.Array:
        """Return the tokens `[B,1+n,D]` of `pixels`: class token, then n patches, with positions."""
        name, size = "vit.embeddings.patch_embeddings.projection", self.patch_size
        patches = Conv(self.hidden_size, size, size, 0, name=name, **self.dtypes)(pixels)
        patches = patches.reshape(len(pixels), -1, self.hidden_size)
        init, shape = nn.initializers.normal(0.02), (1, 1 + patches.shape[1], self.hidden_size)
        token = self.param("vit.embeddings.cls_token", init, (1, 1, self.hidden_size), self.param_dtype)
        positions = self.param("vit.embeddings.position_embeddings", init, shape, self.param_dtype)
        token = jnp.broadcast_to(token.astype(self.dtype), (len(pixels), 1, self.hidden_size))
        return jnp.concatenate([token, patches], 1) + positions.astype(self.dtype)
