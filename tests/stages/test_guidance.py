"""Guidance losses and their gradients against the paper's formulas, on torch's CLIP and diffusers' UNet."""

import dataclasses
from functools import partial

import diffusers
import jax
import jax.numpy as jnp
import numpy as np
import pytest
import torch
import torch.nn.functional as F

from gap_jax.stages.guidance import (
    FeatureStatistics,
    cosine,
    cosine_over_positions,
    image_guidance,
    l2,
    standardised_l2,
    text_guidance,
    textual_inversion,
)
from gap_jax.stages.objective import Sample, Term, objective
from tests.torch_references.folders import nchw, nhwc, relative_error


def make_sample(images=None, context=None, key=None):
    return Sample(images, context, None, {}, key)


@partial(jax.jit, static_argnums=0)
def value_and_gradient(loss, x, params):
    """Return the losses `[B]` and the gradient of their sum to `x`."""

    def total(x):
        values = loss(x, params)
        return values.sum(), values

    (_, values), gradient = jax.value_and_grad(total, has_aux=True)(x)
    return values, gradient


def pictures(count, height, width, seed=0):
    return np.random.default_rng(seed).random((count, height, width, 3), dtype=np.float32)


def torch_distances(features, targets):
    """Return the distances of each row of features to the targets; torch's default axis is 1."""
    mean, std = targets.mean(0, keepdim=True), targets.std(0, keepdim=True)
    squares = (features - mean).pow(2)
    return {
        cosine: 1 - F.cosine_similarity(features, mean, dim=-1).reshape(len(features), -1).mean(1),
        cosine_over_positions: 1 - F.cosine_similarity(features, mean).reshape(len(features), -1).mean(1),
        l2: squares.flatten(1).mean(1),
        standardised_l2: (squares / std.clamp_min(1e-3)).flatten(1).mean(1),
    }


def torch_features(clip, images):
    """Return CLIP's pooled state before projection, of images `[B,3,H,W]` in [0,1]."""
    size = clip.torch.config.vision_config.image_size
    resized = F.interpolate(images, (size, size), mode="bilinear", antialias=True)
    mean, std = (torch.tensor(x)[:, None, None] for x in (clip.clip.image_mean, clip.clip.image_std))
    return clip.torch.vision_model((resized - mean) / std).pooler_output


@pytest.mark.parametrize("distance", [cosine, l2, standardised_l2])
def test_image_guidance_and_its_gradient_equal_torchs(clip, distance):
    images, targets = pictures(2, 96, 80), pictures(11, 64, 72, seed=1)  # more than are encoded at a time
    loss, params = image_guidance(clip.clip, clip.params, targets, distance)
    variable = nchw(images).requires_grad_()
    expected = torch_distances(torch_features(clip, variable), torch_features(clip, nchw(targets)))[distance]
    expected.sum().backward()

    value, gradient = value_and_gradient(lambda x, params: loss(params, make_sample(x)), images, params)
    np.testing.assert_allclose(value, expected.detach(), rtol=1e-4)
    assert relative_error(gradient, nhwc(variable.grad)) < 1e-3


@pytest.mark.parametrize("distance", [cosine, l2, standardised_l2])
def test_guidance_by_precomputed_features_equals_torchs(clip, distance):
    images, random = pictures(2, 56, 56), np.random.default_rng(2)
    mean = random.standard_normal(clip.clip.model.vision_model.hidden_size, dtype=np.float32)
    std = random.random(len(mean), dtype=np.float32)
    loss, params = image_guidance(clip.clip, clip.params, FeatureStatistics(mean, std), distance)
    features, target = torch_features(clip, nchw(images)), torch.from_numpy(mean)
    expected = {
        cosine: 1 - F.cosine_similarity(features, target[None]),
        l2: F.mse_loss(features, target.expand_as(features), reduction="none").mean(1),
        standardised_l2: ((features - target) ** 2 / torch.from_numpy(std).clamp(min=1e-3)).mean(1),
    }[distance]
    np.testing.assert_allclose(loss(params, make_sample(images)), expected.detach(), rtol=1e-4)


def test_guidance_by_precomputed_text_states_equals_that_by_their_text(sd15):
    states = sd15.pipe.encode_text(sd15.params, sd15.pipe.tokenize(["a room in fog"]))[0]
    context = np.random.default_rng(0).standard_normal((2, *states.shape), dtype=np.float32)
    for distance in (cosine, l2):
        given = text_guidance(sd15.pipe, sd15.params, FeatureStatistics(states, None), distance)
        text = text_guidance(sd15.pipe, sd15.params, ["a room in fog"], distance)
        values = [loss(target, make_sample(context=context)) for loss, target in (given, text)]
        np.testing.assert_array_equal(*values)


def test_features_of_another_network_are_refused(sd15, clip):
    other = FeatureStatistics(np.zeros(1024), np.ones(1024))
    with pytest.raises(
        ValueError, match=r"mean of the target's features must have shape \[\d+\], found \[1024\]: this CLIP"
    ):
        image_guidance(clip.clip, clip.params, other)
    with pytest.raises(ValueError, match=r"must have shape \[77, 48\], found \[1024\]: this text encoder"):
        text_guidance(sd15.pipe, sd15.params, other)
    features = FeatureStatistics(np.zeros(clip.clip.model.vision_model.hidden_size), None)
    with pytest.raises(ValueError, match="needs the targets' standard deviation"):
        image_guidance(clip.clip, clip.params, features, standardised_l2)


def test_image_guidance_is_zero_for_the_target_itself(clip):
    target = pictures(1, 56, 56)
    for distance in (cosine, l2):
        loss, params = image_guidance(clip.clip, clip.params, target, distance)
        np.testing.assert_allclose(loss(params, make_sample(jnp.asarray(target))), 0, atol=1e-5)


def test_image_guidance_does_not_keep_the_text_encoder(clip):
    _, params = image_guidance(clip.clip, clip.params, pictures(2, 56, 56))
    assert "vision_model" in params["clip"] and "text_model" not in params["clip"]


@pytest.mark.parametrize("distance", [cosine, cosine_over_positions, l2, standardised_l2])
@pytest.mark.parametrize("batch", [1, 3])
def test_text_guidance_and_its_gradient_equal_torchs(sd15, distance, batch):
    texts = ["a room", "fog", "a blurred room"]
    loss, params = text_guidance(sd15.pipe, sd15.params, texts, distance)
    context = np.random.default_rng(0).standard_normal((batch, *params.mean.shape), dtype=np.float32)
    ids = sd15.torch.tokenizer(texts, padding="max_length", max_length=77, return_tensors="pt").input_ids
    variable = torch.tensor(context, requires_grad=True)
    expected = torch_distances(variable, sd15.torch.text_encoder(ids)[0])[distance]
    expected.sum().backward()

    value, gradient = value_and_gradient(
        lambda x, params: loss(params, make_sample(context=x)), context, params
    )
    np.testing.assert_allclose(value, expected.detach(), rtol=1e-4)
    assert relative_error(gradient, variable.grad) < 1e-3


@pytest.mark.parametrize("distance", [cosine, cosine_over_positions, l2, standardised_l2])
def test_distances_have_finite_gradients_at_zero(distance):
    target = FeatureStatistics(jnp.zeros((3, 4)), jnp.zeros((3, 4)))
    gradient = jax.grad(lambda x: distance(x, target).sum())(jnp.zeros((2, 3, 4)))
    assert np.isfinite(gradient).all()


def torch_textual_inversion(model, network, targets, context, keys):
    """Return the squared errors under `context` `[B,L,D]`, for the draws that the docstring promises."""
    scheduler = diffusers.DDIMScheduler.from_config(model.torch.scheduler.config)
    vae, scale = model.torch.vae, model.torch.vae.config.scaling_factor
    latents = vae.encode(2 * nchw(targets) - 1).latent_dist.mean * scale
    draws = [jax.random.split(key, 3) for key in keys]
    chosen = [int(jax.random.randint(target_key, (), 0, len(targets))) for target_key, _, _ in draws]
    timesteps = torch.tensor(
        [int(jax.random.randint(timestep_key, (), 0, 1000)) for _, timestep_key, _ in draws]
    )
    shape = nhwc(latents).shape[1:]
    noise = nchw(np.stack([jax.random.normal(noise_key, shape) for _, _, noise_key in draws]))
    assert len(set(chosen)) > 1
    noisy, prediction_target = scheduler.add_noise(latents[chosen], noise, timesteps), noise
    if scheduler.config.prediction_type == "v_prediction":
        prediction_target = scheduler.get_velocity(latents[chosen], noise, timesteps)
    if model.torch.unet.config.in_channels == 9:
        grey = vae.encode(torch.zeros_like(nchw(targets[:1]))).latent_dist.mean * scale
        noisy = torch.cat([noisy, torch.ones_like(noisy[:, :1]), grey.expand_as(noisy)], 1)
    return (network(noisy, timesteps, context) - prediction_target).pow(2).mean((1, 2, 3))


def test_textual_inversion_and_its_gradient_to_a_shared_prompt_equal_diffusers(sd15):
    targets, keys = pictures(4, 32, 48), jax.random.split(jax.random.key(5), 3)
    context = np.random.default_rng(1).standard_normal((1, 77, 48), dtype=np.float32)
    loss, params = textual_inversion(sd15.pipe, sd15.params, targets)
    variable = torch.tensor(context, requires_grad=True)
    expected = torch_textual_inversion(
        sd15, lambda *inputs: sd15.torch.unet(*inputs).sample, targets, variable.expand(3, -1, -1), keys
    )
    expected.sum().backward()
    value, gradient = value_and_gradient(
        lambda x, params: loss(params, make_sample(context=x, key=keys)), context, params
    )
    np.testing.assert_allclose(value, expected.detach(), rtol=1e-4)
    assert relative_error(gradient, variable.grad) < 5e-3


@dataclasses.dataclass(frozen=True)
class StandIn:
    """A network that compiles fast and depends on all inputs of a UNet."""

    in_channels: int

    def apply(self, variables, noisy, timesteps, context):
        shift = context.mean((1, 2)) + timesteps / 1000
        return noisy @ variables["params"]["kernel"] + shift[:, None, None, None]


@pytest.mark.parametrize("kind", ["sd15", "sd21", "inpaint"])
def test_textual_inversion_has_the_training_target_of_every_kind_of_unet(models, kind):
    model, targets, keys = models(kind), pictures(4, 32, 48), jax.random.split(jax.random.key(5), 3)
    rng = np.random.default_rng(1)
    context = rng.standard_normal((3, 77, 48), dtype=np.float32)
    channels = model.pipe.unet.in_channels
    kernel = rng.standard_normal((channels, 4), dtype=np.float32)
    pipe = dataclasses.replace(model.pipe, unet=StandIn(channels))
    loss, params = textual_inversion(pipe, model.params | {"unet": {"kernel": kernel}}, targets)
    value = loss(params, make_sample(context=context, key=keys))

    def network(noisy, timesteps, context):
        mixed = torch.einsum("bchw,cd->bdhw", noisy, torch.from_numpy(kernel))
        return mixed + (context.mean((1, 2)) + timesteps / 1000)[:, None, None, None]

    expected = torch_textual_inversion(model, network, targets, torch.from_numpy(context), keys)
    np.testing.assert_allclose(value, expected.detach(), rtol=1e-4)


def test_guidance_is_the_middle_of_a_term_and_its_networks_are_arguments(sd15, clip):
    images = pictures(3, 64, 64)
    terms = [
        Term("image", *image_guidance(clip.clip, clip.params, images), weight=10.0),
        Term("text", *text_guidance(sd15.pipe, sd15.params, ["a room"]), start=3),
        Term("inversion", *textual_inversion(sd15.pipe, sd15.params, images)),
    ]
    evaluate, params = objective(terms)
    sample = make_sample(jnp.asarray(images), jnp.zeros((1, 77, 48)), jax.random.split(jax.random.key(0), 3))
    jaxpr, (total, values) = jax.make_jaxpr(evaluate, return_shape=True)(params, sample, 0)
    assert set(values) == {"image", "text", "inversion"} and total.shape == ()
    assert max((np.size(const) for const in jaxpr.consts), default=0) <= 1000  # the schedule, at most


@pytest.fixture(params=["image_guidance", "textual_inversion"])
def build(request, sd15, clip):
    if request.param == "image_guidance":
        return lambda targets: image_guidance(clip.clip, clip.params, targets)
    return lambda targets: textual_inversion(sd15.pipe, sd15.params, targets)


@pytest.mark.parametrize(
    "targets, message",
    [
        ([], "targets is empty"),
        (np.zeros((0, 32, 32, 3), np.float32), "targets is empty"),
        (pictures(2, 32, 32)[..., :1], r"targets must have shape \[\*, \*, \*, 3\], found \[2, 32, 32, 1\]"),
        (pictures(1, 32, 32)[0], r"targets must have shape \[\*, \*, \*, 3\], found \[32, 32, 3\]"),
        (
            [pictures(1, 32, 32)[0], pictures(1, 32, 40)[0]],
            r"target 1 must have shape \[32, 32, 3\], found \[32, 40, 3\]: resize",
        ),
        (np.zeros((1, 32, 32, 3), np.uint8), r"targets must be floats in \[0,1\], found uint8"),
        (pictures(2, 32, 32) * 255, r"target 0 must be in \[0, 1\], found"),
        (
            np.where(np.arange(2)[:, None, None, None] == 1, np.nan, pictures(2, 32, 32)),
            "target 1 must be finite, found NaN",
        ),
    ],
)
def test_bad_target_images_are_named(build, targets, message):
    with pytest.raises(ValueError, match=message):
        build(targets)


def test_target_images_the_vae_cannot_encode_are_refused(sd15):
    size = 4 * sd15.pipe.downscale
    with pytest.raises(ValueError, match=f"{size + 1}x{size} pixels: both sides must be divisible by"):
        textual_inversion(sd15.pipe, sd15.params, pictures(1, size + 1, size))


def test_bad_target_texts_are_refused(sd15):
    pipe = sd15.pipe
    with pytest.raises(ValueError, match="texts is empty"):
        text_guidance(pipe, sd15.params, [])
    with pytest.raises(TypeError, match="list of strings"):
        text_guidance(pipe, sd15.params, "a room")
    loss, target = text_guidance(pipe, sd15.params, ["a room"])
    with pytest.raises(
        ValueError, match=r"text states must have shape \[\*, 77, 48\], found \[2, 70, 48\]: .*target texts"
    ):
        loss(target, make_sample(context=jnp.zeros((2, 70, 48))))


def test_standardising_by_a_single_target_is_refused(sd15, clip):
    with pytest.raises(ValueError, match="two or more"):
        image_guidance(clip.clip, clip.params, pictures(1, 56, 56), standardised_l2)
    with pytest.raises(ValueError, match="two or more"):
        text_guidance(sd15.pipe, sd15.params, ["a room"], standardised_l2)
