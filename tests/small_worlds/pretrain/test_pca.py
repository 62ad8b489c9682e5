"""The first parameters of the autoencoder: a linear encoder, a decoder that can learn."""

import dataclasses

import jax
import numpy as np
import pytest

from gap_jax.models.vae import AutoencoderKL
from gap_jax.small_worlds import rooms
from gap_jax.small_worlds.pretrain.pca import start_from_patches

VAE = AutoencoderKL(block_out_channels=(16, 32, 64), layers_per_block=1, latent_channels=6, norm_num_groups=1)


@pytest.fixture(scope="module")
def images():
    styles = [rooms.draw_style(0, i) for i in range(60)]
    return rooms.render(0, range(60), styles).image.astype(np.float32) / 255


@pytest.fixture(scope="module")
def started(images):
    params = jax.jit(VAE.init)(jax.random.key(0), *VAE.example_inputs())["params"]
    return start_from_patches(VAE, params, images)


@jax.jit
def encode(params, images):
    return VAE.apply({"params": params}, 2 * images - 1, method="encode")


@jax.jit
def decode(params, latents):
    return VAE.apply({"params": params}, latents, method="decode")


def squares(images):
    """Patches of 4x4 pixels, in reading order, `[n,16,16,48]`."""
    return images.reshape(-1, 16, 4, 16, 4, 3).transpose(0, 1, 3, 2, 4, 5).reshape(-1, 16, 16, 48)


def test_latents_are_a_linear_function_of_patches_that_keeps_their_variance(images, started):
    params, explained = started
    posterior = encode(params, images)
    latents, patches = np.asarray(posterior.mean).reshape(-1, 6), squares(images).reshape(-1, 48)
    fit, *_ = np.linalg.lstsq(np.c_[patches, np.ones(len(patches))], latents)
    predicted = np.c_[patches, np.ones(len(patches))] @ fit
    error = np.abs(predicted - latents)
    assert np.quantile(error, 0.999) < 0.4 and np.sqrt(np.square(error).mean()) < 0.07
    back, *_ = np.linalg.lstsq(np.c_[latents, np.ones(len(latents))], patches)
    error = np.square(np.c_[latents, np.ones(len(latents))] @ back - patches).sum()
    total = np.square(patches - patches.mean(0)).sum()
    assert 1 - error / total == pytest.approx(explained, abs=3e-3) and explained > 0.98
    assert np.square(latents).mean() == pytest.approx(1, rel=0.05)
    assert np.unique(posterior.logvar) == -6


def test_the_decoder_begins_with_the_patches_colours_enlarged(images, started):
    params, _ = started
    decoded = np.asarray(decode(params, encode(params, images).mean)) / 2 + 0.5
    colours = squares(images).reshape(-1, 16, 16, 16, 3).mean(3)
    inner = squares(decoded).reshape(-1, 16, 16, 16, 3).mean(3)[:, 1:-1, 1:-1]
    assert np.abs(inner - colours[:, 1:-1, 1:-1]).mean() < 0.02


def test_every_part_of_the_decoder_can_learn(images, started):
    params, _ = started

    def loss(params):
        return abs(decode(params, encode(params, images[:4]).mean) - images[:4]).mean()

    out = jax.grad(lambda kernel: loss(params | {"decoder": params["decoder"] | {"conv_out": kernel}}))(
        params["decoder"]["conv_out"]
    )
    assert (np.abs(out["kernel"]).sum((0, 1, 3)) > 0).all()


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"norm_num_groups": 2}, "norm_num_groups must be 1, found 2"),
        ({"block_out_channels": (16, 8, 64)}, "too narrow for patches of 4 × 4 pixels and 6 latent channels"),
    ],
)
def test_autoencoders_of_other_shapes_are_refused(change, message, images):
    with pytest.raises(ValueError, match=message):
        start_from_patches(dataclasses.replace(VAE, **change), {}, images)
