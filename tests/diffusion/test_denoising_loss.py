"""Tests that the denoising loss and its gradients to parameters equal torch's."""

import dataclasses

import jax
import numpy as np
import pytest
import torch

from gap_jax.diffusion.conditions import depth_condition
from gap_jax.diffusion.denoising_loss import denoising
from gap_jax.weights.convert import state_dict
from tests.torch_references.folders import nchw
from tests.torch_references.losses import BATCH, KEYS, random, torch_gradients, training


@pytest.fixture
def trainable():
    with training() as make:
        yield make


def denoising_in_torch(model, tokens, latents, depth=None, mask=None, *, power):
    theirs = model.torch
    timestep_keys, noise_keys = jax.vmap(jax.random.split, out_axes=1)(KEYS)
    uniform = np.asarray(jax.vmap(jax.random.uniform)(timestep_keys), np.float64)
    timesteps = torch.tensor((1000 * uniform**power).astype(int))
    noise = nchw(jax.vmap(lambda key: jax.random.normal(key, latents.shape[1:]))(noise_keys))
    clean = nchw(latents)
    noisy = theirs.scheduler.add_noise(clean, noise, timesteps)
    predicts_v = theirs.scheduler.config.prediction_type == "v_prediction"
    target = theirs.scheduler.get_velocity(clean, noise, timesteps) if predicts_v else noise
    context = theirs.text_encoder(torch.tensor(tokens, dtype=torch.long)).last_hidden_state.detach()
    residuals = {}
    if depth is not None:
        control = nchw(depth_condition(depth, mask))
        down, mid = theirs.controlnet(noisy, timesteps, context, control, return_dict=False)
        residuals = dict(down_block_additional_residuals=down, mid_block_additional_residual=mid)
    output = theirs.unet(noisy, timesteps, context, **residuals).sample
    return torch.nn.functional.mse_loss(output, target)


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
    loss, _ = jax.jit(denoising(sd21.pipe, 0.5))(sd21.params, sd21.params, batch, KEYS)
    assert float(loss) == pytest.approx(float(denoising_in_torch(sd21, **batch, power=0.5)), rel=1e-4)


def test_denoising_of_noise_and_its_gradient(sd15, trainable):
    batch = denoising_batch(sd15.pipe)
    names = ("unet", "controlnet")
    gradient = jax.jit(jax.value_and_grad(denoising(sd15.pipe), has_aux=True))
    (loss, _), grads = gradient({name: sd15.params[name] for name in names}, sd15.params, batch, KEYS)
    theirs = {name: trainable(getattr(sd15.torch, name)) for name in names}
    expected = denoising_in_torch(sd15, **batch, power=1.0)
    expected.backward()
    assert float(loss) == pytest.approx(float(expected), rel=1e-4)
    for name, module in theirs.items():
        ours, reference = state_dict(grads[name]), torch_gradients(module)
        assert ours.keys() == reference.keys()
        largest = max(np.abs(value).max() for value in reference.values())
        for key, value in reference.items():
            np.testing.assert_allclose(ours[key], value, atol=1e-3 * largest, err_msg=key)


def test_denoising_without_a_controlnet(sd15):
    pipe = dataclasses.replace(sd15.pipe, controlnet=None)
    batch = {name: array for name, array in denoising_batch(pipe).items() if name in ("tokens", "latents")}
    loss, _ = jax.jit(denoising(pipe))({"unet": sd15.params["unet"]}, sd15.params, batch, KEYS)
    assert float(loss) == pytest.approx(float(denoising_in_torch(sd15, **batch, power=1.0)), rel=1e-4)


def test_images_are_encoded_where_there_are_no_latents(sd15):
    pipe, params = dataclasses.replace(sd15.pipe, controlnet=None), sd15.params
    batch = denoising_batch(pipe)
    images = random(BATCH, 8 * pipe.downscale, 8 * pipe.downscale, 3)
    encoded = pipe.encode_image(params, images, KEYS)
    loss, trained = jax.jit(denoising(pipe)), {"unet": params["unet"]}
    of_latents, _ = loss(trained, params, {"latents": encoded, "tokens": batch["tokens"]}, KEYS)
    of_images, _ = loss(trained, params, {"image": images, "tokens": batch["tokens"]}, KEYS)
    assert float(of_images) == pytest.approx(float(of_latents), rel=1e-5)
