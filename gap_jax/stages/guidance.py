"""What draws prompts towards a target domain, known by a few images or by text.

Each function here returns `(loss, params)`, the middle of a `loop.objective.Term`:

    Term("fog", *image_guidance(clip, clip_params, fog_images), weight=1.0)

`loss(params, sample) -> [B]` float32, differentiable to the sample's images or context; `params` holds all
that is large.
"""

from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from gap_jax.diffusion.denoising_loss import noised
from gap_jax.diffusion.pipeline import Params, Pipeline
from gap_jax.models.clip import Clip

_BATCH = 8  # target images encoded at a time


class FeatureStatistics(NamedTuple):
    """Mean of some targets' features and, of two or more, their sample standard deviation; float32."""

    mean: jax.Array
    std: jax.Array | None


Distance = Callable[[jax.Array, FeatureStatistics], jax.Array]
Guidance = tuple[Callable[[Any, Any], jax.Array], Any]


def cosine(features: jax.Array, target: FeatureStatistics) -> jax.Array:
    """1 - the cosine along the last axis of `features` `[B,…,D]` and the mean `[…,D]`, averaged; `[B]`."""
    return _average(1 - (_unit(features) * _unit(target.mean)).sum(-1))


def l2(features: jax.Array, target: FeatureStatistics) -> jax.Array:
    """The mean squared difference of `features` `[B,…,D]` to the mean; `[B]`."""
    return _average(jnp.square(features - target.mean))


def standardised_l2(features: jax.Array, target: FeatureStatistics) -> jax.Array:
    """As `l2`, each squared difference divided by `max(std, 1e-3)`, the targets' standard deviation; `[B]`.

    By the deviation, as the paper's authors do, not by its square. Raises ValueError for a single target.
    """
    if target.std is None:
        raise ValueError("standardised_l2 needs the targets' standard deviation: give two or more, or use l2")
    return _average(jnp.square(features - target.mean) / jnp.maximum(target.std, 1e-3))


def image_guidance(
    clip: Clip, clip_params: Params, targets: np.ndarray, distance: Distance = cosine
) -> Guidance:
    """Distance of the generated images to the target images in CLIP's pooled, unprojected features.

    - `targets` float `[n,H,W,3]` in [0,1], of any size.
    - `distance`: the paper's are `cosine` and `standardised_l2`.

    Raises ValueError for no targets, another shape, values outside [0,1] or NaN.
    """
    images = _check_images(targets)
    used = {name: weights for name, weights in clip_params.items() if name != "text_model"}
    target = _statistics(_in_batches(lambda chunk: clip.image_features(used, chunk), images), distance)

    def loss(params, sample):
        return distance(clip.image_features(params["clip"], sample.images), params["target"])

    return loss, {"clip": used, "target": target}


def text_guidance(pipe: Pipeline, params: Params, texts: Sequence[str], distance: Distance = l2) -> Guidance:
    """Distance of the prompt's states to those of `texts`, at all of their positions, padding included.

    - `distance`: `l2` or `cosine`, or, with several texts, `standardised_l2`.

    Raises ValueError for no texts; the loss does for a context of another shape than the texts' states.
    """
    if not len(texts):
        raise ValueError("texts is empty: give at least one target text")
    target = _statistics(pipe.encode_text(params, pipe.tokenize(texts)), distance)

    def loss(target, sample):
        if sample.context.shape[1:] != target.mean.shape:
            raise ValueError(
                f"the prompt's states, {list(sample.context.shape)}, must have the target texts' length and "
                f"width, {list(target.mean.shape)}"
            )
        return distance(sample.context, target)

    return loss, target


def textual_inversion(pipe: Pipeline, params: Params, targets: np.ndarray) -> Guidance:
    """The diffusion loss of target images under the prompt: Gal et al., arXiv 2208.01618, eq. 2.

    - `targets` float `[n,H,W,3]` in [0,1], H and W divisible by `pipe.downscale`; encoded once, to the
      posterior's mean.

    For each of the sample's keys, one target, one timestep and one noise are drawn, by `randint`, `randint`
    and `normal` of `split(key, 3)`, and the mean squared error of the UNet's prediction (noise or v) taken. A
    ControlNet has no part in it; an inpainting UNet is asked for the whole image. Raises ValueError as
    `image_guidance`, and for sizes that do not divide.
    """
    images = _check_images(targets)
    latents = _in_batches(lambda chunk: pipe.encode_image(params, chunk), images)
    nothing = pipe.encode_image(params, jnp.full_like(images[:1], 0.5))[0] if pipe.inpaints else None

    def draw(latents, key):
        target_key, timestep_key, noise_key = jax.random.split(key, 3)
        clean = latents[jax.random.randint(target_key, (), 0, len(latents))]
        timestep = jax.random.randint(timestep_key, (), 0, pipe.schedule.num_train_timesteps)
        noisy, prediction = noised(pipe.schedule, clean, jax.random.normal(noise_key, clean.shape), timestep)
        return noisy, timestep, prediction

    def loss(params, sample):
        noisy, timesteps, prediction = jax.vmap(draw, (None, 0))(params["latents"], sample.key)
        if pipe.inpaints:
            repaint = jnp.ones_like(noisy[..., :1])
            noisy = jnp.concatenate([noisy, repaint, jnp.broadcast_to(params["nothing"], noisy.shape)], -1)
        context = jnp.broadcast_to(sample.context, (len(noisy), *sample.context.shape[1:]))
        output = pipe.unet.apply({"params": params["unet"]}, noisy, timesteps, context)
        return _average(jnp.square(output.astype(jnp.float32) - prediction))

    return loss, {"unet": params["unet"], "latents": latents, "nothing": nothing}


def _average(x):
    return x.mean(tuple(range(1, x.ndim)))


def _unit(x):
    return x * jax.lax.rsqrt(jnp.maximum(jnp.square(x).sum(-1, keepdims=True), 1e-16))


def _statistics(features: jax.Array, distance: Distance) -> FeatureStatistics:
    """The features' mean and deviation; tries the distance, so that one that cannot be had fails here."""
    std = features.std(0, ddof=1) if len(features) > 1 else None
    target = FeatureStatistics(features.mean(0), std)
    distance(features[:1], target)
    return target


def _in_batches(encode: Callable[[np.ndarray], jax.Array], images: np.ndarray) -> jax.Array:
    return jnp.concatenate([encode(images[i : i + _BATCH]) for i in range(0, len(images), _BATCH)])


def _check_images(targets) -> np.ndarray:
    if not len(targets):
        raise ValueError("targets is empty: give at least one target image")
    shapes = [np.shape(image) for image in targets]
    for i, shape in enumerate(shapes):
        if shape != shapes[0]:
            raise ValueError(
                f"target {i} has shape {list(shape)}, target 0 {list(shapes[0])}: resize them to one size"
            )
    images = np.asarray(targets)
    if images.ndim != 4 or images.shape[-1] != 3:
        raise ValueError(f"targets must have shape [n, H, W, 3], found {list(images.shape)}")
    if not np.issubdtype(images.dtype, np.floating):
        raise ValueError(f"targets must be float in [0, 1], found {images.dtype}: divide by its maximum")
    for i, image in enumerate(images):
        if not np.isfinite(image).all():
            raise ValueError(f"target {i} has NaN or infinite values")
        if image.min() < 0 or image.max() > 1:
            raise ValueError(f"target {i} must be in [0, 1], found {image.min():g} to {image.max():g}")
    return images.astype(np.float32)
