"""Tests that calls with equal shapes compile once, whatever their values."""

import chex
import jax
import numpy as np
import pytest

from gap_jax.diffusion.sampler import sample
from gap_jax.models.attention import attention

BATCH = 5  # a batch that no other test compiles


def test_denoising_compiles_once_for_equal_shapes(inpaint, monkeypatch):
    """Guidance scale, noise, masks and keys may change, whole numbers too; one more image compiles anew."""
    monkeypatch.setattr("gap_jax.diffusion.pipeline.sample", chex.assert_max_traces(sample, n=1))
    draw = np.random.default_rng(0)

    def denoise(batch, guidance_scale, eta):
        latents = draw.standard_normal((batch, 4, 4, 4), dtype=np.float32)
        context = draw.standard_normal((batch, 77, 48), dtype=np.float32)
        mask = draw.random((batch, 4, 4, 1)) > 0.5
        return inpaint.pipe.denoise(
            inpaint.params,
            latents,
            context,
            context[:1],
            num_steps=2,
            guidance_scale=guidance_scale,
            eta=eta,
            key=jax.random.key(int(100 * eta)),
            control_scale=guidance_scale,
            keep=(mask, latents, None),
        )

    for guidance_scale, eta in ((7.5, 0.5), (2, 1), (np.float64(3), 0.1)):
        denoise(BATCH, guidance_scale, eta)
    with pytest.raises(AssertionError, match="traced > 1 times"):
        denoise(BATCH + 1, 7.5, 0.5)


def test_encoding_texts_compiles_once_for_equal_shapes(sd15, monkeypatch):
    layers = sd15.pipe.text_encoder.num_hidden_layers
    monkeypatch.setattr("gap_jax.models.clip.attention", chex.assert_max_traces(attention, n=layers))
    for texts in (["a room"] * BATCH, ["photo", "<0>", "", "x", "a"]):
        ids = sd15.pipe.tokenize(texts, placeholders=1)
        sd15.pipe.encode_text(sd15.params, ids, np.full((1, 48), len(texts[0]), np.float32))
    with pytest.raises(AssertionError, match=f"traced > {layers} times"):
        sd15.pipe.encode_text(sd15.params, np.concatenate([ids, ids[:1]]), np.zeros((1, 48), np.float32))
