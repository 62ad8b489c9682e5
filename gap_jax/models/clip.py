"""CLIP (Radford et al., arXiv 2103.00020), equal to transformers' `CLIPTextModel` and `CLIPModel`."""

import dataclasses
from collections.abc import Sequence
from functools import partial
from typing import NamedTuple

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np

from gap_jax.checks import expect_shape
from gap_jax.models.attention import attention
from gap_jax.models.layers import ACTIVATIONS, Conv, Layer
from gap_jax.models.tokenizer import Tokenizer


class Encoded(NamedTuple):
    """The output of a transformer, float32: the state of every token `[B,L,D]`, and a pooled one `[B,D]`."""

    last_hidden_state: jax.Array
    pooled: jax.Array


class SelfAttention(Layer):
    """Multi-head self-attention of tokens `[B,L,D]`; `mask` boolean `[L,L]`, True = attend."""

    heads: int

    @nn.compact
    def __call__(self, x: jax.Array, mask: jax.Array | None) -> jax.Array:
        def project(name, tokens):
            return nn.Dense(x.shape[-1], name=name, **self.dtypes)(tokens)

        query, key, value = (project(name, x) for name in ("q_proj", "k_proj", "v_proj"))
        return project("out_proj", attention(query, key, value, heads=self.heads, mask=mask))


class Transformer(Layer):
    """The transformer that the text and the image encoder share; field names are transformers'."""

    hidden_size: int
    intermediate_size: int
    num_hidden_layers: int
    num_attention_heads: int
    hidden_act: str = "quick_gelu"
    layer_norm_eps: float = 1e-5

    def norm(self, name: str) -> nn.LayerNorm:
        return nn.LayerNorm(epsilon=self.layer_norm_eps, name=name, **self.dtypes)

    def encode(self, x: jax.Array, mask: jax.Array | None = None) -> jax.Array:
        """Apply all blocks to tokens `[B,L,D]`."""
        for i in range(self.num_hidden_layers):
            prefix = f"encoder.layers.{i}"
            attend = SelfAttention(self.num_attention_heads, name=f"{prefix}.self_attn", **self.dtypes)
            x += attend(self.norm(f"{prefix}.layer_norm1")(x), mask)
            h = self.norm(f"{prefix}.layer_norm2")(x)
            h = nn.Dense(self.intermediate_size, name=f"{prefix}.mlp.fc1", **self.dtypes)(h)
            h = ACTIVATIONS[self.hidden_act](h)
            x += nn.Dense(self.hidden_size, name=f"{prefix}.mlp.fc2", **self.dtypes)(h)
        return x


class CLIPTextModel(Transformer):
    """CLIP's text encoder: a causal transformer with a final layer norm.

    `eos_token_id` 2 is that of configurations from before transformers 4.31. The pooled state is then that of
    the largest token id, whatever the tokenizer's end of text is.
    """

    hidden_size: int = 512
    intermediate_size: int = 2048
    num_hidden_layers: int = 12
    num_attention_heads: int = 8
    vocab_size: int = 49408
    max_position_embeddings: int = 77
    eos_token_id: int = 49407

    def example_inputs(self) -> tuple[jax.Array, ...]:
        """Return zeros of the smallest shapes that `init` takes."""
        return (jnp.zeros((1, 1), int),)

    @nn.compact
    def __call__(self, token_ids: jax.Array, placeholders: jax.Array | None = None) -> Encoded:
        """Encode `token_ids` int `[B,L]`; the pooled state is that of the first `eos_token_id`.

        Ids from `vocab_size` on stand for rows of `placeholders` float `[n,D]`, to which the result is
        differentiable.
        """
        length = token_ids.shape[1]
        embed = nn.Embed(self.vocab_size, self.hidden_size, name="embeddings.token_embedding", **self.dtypes)
        x = embed(jnp.minimum(token_ids, self.vocab_size - 1))
        if placeholders is not None:
            rows = placeholders[jnp.maximum(token_ids - self.vocab_size, 0)].astype(self.dtype)
            x = jnp.where((token_ids >= self.vocab_size)[..., None], rows, x)
        positions = nn.Embed(
            self.max_position_embeddings,
            self.hidden_size,
            name="embeddings.position_embedding",
            **self.dtypes,
        )
        x += positions(jnp.arange(length))
        x = self.encode(x, jnp.tril(jnp.ones((length, length), bool)))
        states = self.norm("final_layer_norm")(x).astype(jnp.float32)
        if self.eos_token_id == 2:
            ends = jnp.argmax(jnp.where(token_ids < self.vocab_size, token_ids, -1), -1)
        else:
            ends = jnp.argmax(token_ids == self.eos_token_id, -1)
        return Encoded(states, states[jnp.arange(len(states)), ends])


class CLIPVisionModel(Transformer):
    """CLIP's image encoder: a ViT whose pooled state is its class token after a final layer norm."""

    hidden_size: int = 768
    intermediate_size: int = 3072
    num_hidden_layers: int = 12
    num_attention_heads: int = 12
    num_channels: int = 3
    image_size: int = 224
    patch_size: int = 32

    def example_inputs(self) -> tuple[jax.Array, ...]:
        """Return zeros of the shape that `init` takes."""
        return (jnp.zeros((1, self.image_size, self.image_size, self.num_channels)),)

    @nn.compact
    def __call__(self, pixels: jax.Array) -> Encoded:
        """Encode `pixels` `[B,image_size,image_size,num_channels]`, already normalised."""
        patchify = Conv(
            self.hidden_size,
            kernel_size=self.patch_size,
            stride=self.patch_size,
            padding=0,
            use_bias=False,
            name="embeddings.patch_embedding",
            **self.dtypes,
        )
        patches = patchify(pixels).reshape(len(pixels), -1, self.hidden_size)
        init = nn.initializers.normal(0.02)
        token = self.param("embeddings.class_embedding", init, (self.hidden_size,), self.param_dtype)
        token = jnp.broadcast_to(token.astype(self.dtype), (len(pixels), 1, self.hidden_size))
        x = jnp.concatenate([token, patches], 1)
        positions = nn.Embed(
            x.shape[1], self.hidden_size, name="embeddings.position_embedding", **self.dtypes
        )
        x = self.norm("pre_layrnorm")(x + positions(jnp.arange(x.shape[1])))
        states = self.encode(x)
        pooled = self.norm("post_layernorm")(states[:, 0])
        return Encoded(states.astype(jnp.float32), pooled.astype(jnp.float32))


class CLIPModel(Layer):
    """CLIP's two encoders, the projections to their common space, and the scale of similarities."""

    text_model: CLIPTextModel
    vision_model: CLIPVisionModel
    projection_dim: int = 512
    logit_scale_init_value: float = 2.6592

    def example_inputs(self) -> tuple[jax.Array, ...]:
        """Return zeros of the smallest shapes that `init` takes."""
        return self.text_model.example_inputs() + self.vision_model.example_inputs()

    def setup(self):
        self.text_projection = nn.Dense(self.projection_dim, use_bias=False, **self.dtypes)
        self.visual_projection = nn.Dense(self.projection_dim, use_bias=False, **self.dtypes)
        init = nn.initializers.constant(self.logit_scale_init_value)
        self.logit_scale = self.param("logit_scale", init, (), self.param_dtype)

    def text_features(self, token_ids: jax.Array, projected: bool) -> jax.Array:
        """Return the pooled text state `[B,hidden_size]` or its projection `[B,projection_dim]`; float32."""
        pooled = self.text_model(token_ids).pooled
        return self.text_projection(pooled).astype(jnp.float32) if projected else pooled

    def image_features(self, pixels: jax.Array, projected: bool) -> jax.Array:
        """Return the pooled image state `[B,hidden_size]` or its projection `[B,projection_dim]`; float32."""
        pooled = self.vision_model(pixels).pooled
        return self.visual_projection(pooled).astype(jnp.float32) if projected else pooled

    def __call__(self, token_ids: jax.Array, pixels: jax.Array) -> jax.Array:
        """Return the logits of every image for every text, float32 `[images,texts]`."""
        texts, images = self.text_features(token_ids, True), self.image_features(pixels, True)
        texts /= jnp.linalg.norm(texts, axis=-1, keepdims=True)
        images /= jnp.linalg.norm(images, axis=-1, keepdims=True)
        return jnp.exp(self.logit_scale.astype(jnp.float32)) * images @ texts.T


@dataclasses.dataclass(frozen=True)
class Clip:
    """A `CLIPModel` without its weights, with its tokenizer and image normalisation.

    It is frozen and hashable, so it can be a static argument of `jax.jit`.
    """

    model: CLIPModel
    tokenizer: Tokenizer
    image_mean: tuple[float, float, float]
    image_std: tuple[float, float, float]

    def tokenize(self, texts: Sequence[str]) -> np.ndarray:
        """Return the token ids of `texts`, int32 `[B, max_position_embeddings]`."""
        text = self.model.text_model
        return self.tokenizer.encode(texts, length=text.max_position_embeddings, vocab_size=text.vocab_size)

    @partial(jax.jit, static_argnames=("self", "projected"))
    def text_features(self, params: dict, token_ids: jax.Array, projected: bool = False) -> jax.Array:
        """Return the pooled text state `[B,hidden_size]` or its projection `[B,projection_dim]`; float32.

        `token_ids` int `[B,L]`, as `tokenize` returns them.
        """
        return self.model.apply({"params": params}, token_ids, projected, method="text_features")

    @partial(jax.jit, static_argnames=("self", "projected"))
    def image_features(self, params: dict, images: jax.Array, projected: bool = False) -> jax.Array:
        """Return the pooled image state `[B,hidden_size]` or its projection `[B,projection_dim]`; float32.

        `images` float `[B,H,W,3]` in [0,1] of any size; they are resized bilinearly with antialiasing, and
        normalised. Raises ValueError for another shape.
        """
        vision = self.model.vision_model
        expect_shape("images", images, (None, None, None, vision.num_channels))
        size = (len(images), vision.image_size, vision.image_size, vision.num_channels)
        pixels = jax.image.resize(images.astype(jnp.float32), size, "bilinear", antialias=True)
        pixels = (pixels - jnp.array(self.image_mean)) / jnp.array(self.image_std)
        return self.model.apply({"params": params}, pixels, projected, method="image_features")
