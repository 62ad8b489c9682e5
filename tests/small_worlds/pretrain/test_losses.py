"""The losses of the autoencoder and of CLIP against torch: values, and gradients to parameters."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import torch

from gap_jax.small_worlds.pretrain.losses import autoencoder_loss, contrastive_loss
from gap_jax.weights.convert import state_dict
from tests.torch_references.folders import nchw, relative_error
from tests.torch_references.losses import BATCH, KEYS, per_row, random, torch_gradients, training


@pytest.fixture
def trainable():
    with training() as make:
        yield make


def test_autoencoding(sd15, trainable):
    vae, theirs = sd15.pipe.vae, trainable(sd15.torch.vae)
    side = 4 * vae.downscale
    images = random(BATCH, side, side, 3)
    loss = jax.jit(jax.value_and_grad(autoencoder_loss(vae, 0.1), has_aux=True))
    (value, metrics), grads = loss(sd15.params["vae"], (), {"image": images}, KEYS)
    pixels = nchw(2 * images - 1)
    posterior = theirs.encode(pixels).latent_dist
    latents = posterior.mean + posterior.std * nchw(per_row(jax.random.normal, 4, 4, vae.latent_channels))
    error = (theirs.decode(latents).sample - pixels).abs().mean()
    kl = posterior.kl().mean() / latents[0].numel()
    (error + 0.1 * kl).backward()
    assert float(metrics["l1"]) == pytest.approx(float(error), rel=1e-4)
    assert float(metrics["kl"]) == pytest.approx(float(kl), rel=1e-4)
    assert float(value) == pytest.approx(float(error) + 0.1 * float(kl), rel=1e-4)
    ours = state_dict(grads)
    for key, expected in torch_gradients(theirs).items():
        assert relative_error(ours[key], expected) < 2e-3 or np.abs(expected).max() < 1e-6, key


def test_contrastive(clip):
    ours, theirs = clip.clip, clip.torch
    size = ours.model.vision_model.image_size
    images, tokens = random(BATCH, size, size, 3), ours.tokenize(["a room", "photo", "room"])
    loss = jax.jit(contrastive_loss(ours))
    value, metrics = loss(clip.params, (), {"image": images, "tokens": tokens}, KEYS)
    pixels = (images - np.array(ours.image_mean)) / np.array(ours.image_std)
    output = theirs(
        input_ids=torch.tensor(tokens, dtype=torch.long),
        pixel_values=nchw(pixels.astype(np.float32)),
        return_loss=True,
    )
    assert float(value) == pytest.approx(float(output.loss), rel=1e-4)
    matched = (output.logits_per_image.argmax(1) == torch.arange(BATCH)).float().mean()
    assert float(metrics["matched"]) == pytest.approx(float(matched))


def test_contrastive_is_low_where_each_image_has_its_own_text(clip, monkeypatch):
    logits = jnp.eye(BATCH) * 20
    monkeypatch.setattr(type(clip.clip.model), "apply", lambda *args, **kwargs: logits)
    batch = {"image": random(BATCH, 8, 8, 3), "tokens": clip.clip.tokenize(["room"] * BATCH)}
    value, metrics = contrastive_loss(clip.clip)(clip.params, (), batch, KEYS)
    assert value < 1e-6 and metrics["matched"] == 1
