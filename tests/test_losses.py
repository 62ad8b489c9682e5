"""What networks are trained with, against torch: values, and gradients to parameters."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import torch

from gap_jax import losses
from gap_jax.diffusion.align import depth_condition
from gap_jax.weights.convert import state_dict
from tests.torch_folders import nchw, relative_error

BATCH = 3
KEYS = jax.random.split(jax.random.key(5), BATCH)


def random(*shape, seed=0):
    return np.random.default_rng(seed).random(shape, np.float32)


def per_row(draw, *shape):
    return np.asarray(jax.vmap(lambda key: draw(key, shape))(KEYS))


def torch_gradients(module):
    return {name: parameter.grad.numpy() for name, parameter in module.named_parameters()}


@pytest.fixture
def trainable():
    """`trainable(module)`: gradients on, from nothing; off again after the test."""
    modules = []

    def make(module):
        modules.append(module)
        module.zero_grad()
        return module.requires_grad_()

    yield make
    for module in modules:
        module.requires_grad_(False)


def denoising_in_torch(model, tokens, latents, depth=None, mask=None, *, power):
    theirs = model.torch
    when, what = jax.vmap(jax.random.split, out_axes=1)(KEYS)
    uniform = np.asarray(jax.vmap(jax.random.uniform)(when), np.float64)
    timesteps = torch.tensor((1000 * uniform**power).astype(int))
    noise = nchw(jax.vmap(lambda key: jax.random.normal(key, latents.shape[1:]))(what))
    clean = nchw(latents)
    noisy = theirs.scheduler.add_noise(clean, noise, timesteps)
    predicts_v = theirs.scheduler.config.prediction_type == "v_prediction"
    answer = theirs.scheduler.get_velocity(clean, noise, timesteps) if predicts_v else noise
    context = theirs.text_encoder(torch.tensor(tokens, dtype=torch.long)).last_hidden_state.detach()
    residuals = {}
    if depth is not None:
        control = nchw(depth_condition(depth, mask))
        down, mid = theirs.controlnet(noisy, timesteps, context, control, return_dict=False)
        residuals = dict(down_block_additional_residuals=down, mid_block_additional_residual=mid)
    output = theirs.unet(noisy, timesteps, context, **residuals).sample
    return torch.nn.functional.mse_loss(output, answer)


def denoising_batch(pipe):
    side = 8 * pipe.downscale
    return {
        "tokens": pipe.tokenize(["a room", "photo", ""]),
        "latents": random(BATCH, 8, 8, 4, seed=2),
        "depth": random(BATCH, side, side, 1),
        "mask": random(BATCH, side, side, 1, seed=1) > 0.2,
    }


def test_denoising_of_v_with_more_noise(sd21):
    batch = denoising_batch(sd21.pipe)
    found, _ = jax.jit(losses.denoising(sd21.pipe, 0.5))(sd21.params, sd21.params, batch, KEYS)
    assert float(found) == pytest.approx(float(denoising_in_torch(sd21, **batch, power=0.5)), rel=1e-4)


def test_denoising_of_noise_and_its_gradient(sd15, trainable):
    batch = denoising_batch(sd15.pipe)
    names = ("unet", "controlnet")
    gradient = jax.jit(jax.value_and_grad(losses.denoising(sd15.pipe), has_aux=True))
    (found, _), grads = gradient({name: sd15.params[name] for name in names}, sd15.params, batch, KEYS)
    theirs = {name: trainable(getattr(sd15.torch, name)) for name in names}
    expected = denoising_in_torch(sd15, **batch, power=1.0)
    expected.backward()
    assert float(found) == pytest.approx(float(expected), rel=1e-4)
    for name, module in theirs.items():
        ours, reference = state_dict(grads[name]), torch_gradients(module)
        assert ours.keys() == reference.keys()
        largest = max(np.abs(value).max() for value in reference.values())
        for key, value in reference.items():
            np.testing.assert_allclose(ours[key], value, atol=1e-3 * largest, err_msg=key)


def test_denoising_without_a_controlnet(sd15):
    pipe = dataclasses.replace(sd15.pipe, controlnet=None)
    batch = {name: array for name, array in denoising_batch(pipe).items() if name in ("tokens", "latents")}
    found, _ = jax.jit(losses.denoising(pipe))({"unet": sd15.params["unet"]}, sd15.params, batch, KEYS)
    assert float(found) == pytest.approx(float(denoising_in_torch(sd15, **batch, power=1.0)), rel=1e-4)


def test_images_are_encoded_where_there_are_no_latents(sd15):
    pipe, params = sd15.pipe, sd15.params
    side = 8 * pipe.downscale
    images = random(BATCH, side, side, 3)
    rest = {
        "tokens": pipe.tokenize([""] * BATCH),
        "depth": random(BATCH, side, side, 1),
        "mask": np.ones((BATCH, side, side, 1), bool),
    }
    loss = jax.jit(losses.denoising(pipe))
    encoded = pipe.encode_image(params, images, KEYS)
    expected, _ = loss(params, params, {"latents": encoded, **rest}, KEYS)
    found, _ = loss(params, params, {"image": images, **rest}, KEYS)
    assert float(found) == pytest.approx(float(expected), rel=1e-5)


def test_autoencoding(sd15, trainable):
    vae, theirs = sd15.pipe.vae, trainable(sd15.torch.vae)
    side = 4 * vae.downscale
    images = random(BATCH, side, side, 3)
    loss = jax.jit(jax.value_and_grad(losses.autoencoding(vae, 0.1), has_aux=True))
    (found, parts), grads = loss(sd15.params["vae"], (), {"image": images}, KEYS)
    pixels = nchw(2 * images - 1)
    posterior = theirs.encode(pixels).latent_dist
    latents = posterior.mean + posterior.std * nchw(per_row(jax.random.normal, 4, 4, vae.latent_channels))
    error = (theirs.decode(latents).sample - pixels).abs().mean()
    kl = posterior.kl().mean() / latents[0].numel()
    (error + 0.1 * kl).backward()
    assert float(parts["l1"]) == pytest.approx(float(error), rel=1e-4)
    assert float(parts["kl"]) == pytest.approx(float(kl), rel=1e-4)
    assert float(found) == pytest.approx(float(error) + 0.1 * float(kl), rel=1e-4)
    ours = state_dict(grads)
    for key, value in torch_gradients(theirs).items():
        assert relative_error(ours[key], value) < 2e-3 or np.abs(value).max() < 1e-6, key


def test_contrastive(clip):
    ours, theirs = clip.clip, clip.torch
    size = ours.model.vision_model.image_size
    images, tokens = random(BATCH, size, size, 3), ours.tokenize(["a room", "photo", "room"])
    loss = jax.jit(losses.contrastive(ours))
    found, parts = loss(clip.params, (), {"image": images, "tokens": tokens}, KEYS)
    pixels = (images - np.array(ours.image_mean)) / np.array(ours.image_std)
    output = theirs(
        input_ids=torch.tensor(tokens, dtype=torch.long),
        pixel_values=nchw(pixels.astype(np.float32)),
        return_loss=True,
    )
    assert float(found) == pytest.approx(float(output.loss), rel=1e-4)
    matched = (output.logits_per_image.argmax(1) == torch.arange(BATCH)).float().mean()
    assert float(parts["matched"]) == pytest.approx(float(matched))


def test_contrastive_is_low_where_each_image_has_its_own_text(clip, monkeypatch):
    logits = jnp.eye(BATCH) * 20
    monkeypatch.setattr(type(clip.clip.model), "apply", lambda *args, **kwargs: logits)
    batch = {"image": random(BATCH, 8, 8, 3), "tokens": clip.clip.tokenize(["room"] * BATCH)}
    value, parts = losses.contrastive(clip.clip)(clip.params, (), batch, KEYS)
    assert value < 1e-6 and parts["matched"] == 1
