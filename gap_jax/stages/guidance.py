"""Guidance: losses that draw prompts towards a target domain, which a few images or a text describe.

A guidance is a pair `(loss, params)`, the middle of a `stages.objective.Term`:

    Term("fog", *image_guidance(clip, clip_params, fog_images), weight=1.0)

`loss(params, sample)` returns float32 `[B]` and is differentiable to the sample's images or context. `params`
holds everything large. A distance compares features of the sample with those of the targets.
"""

from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from gap_jax.checks import expect_finite, expect_float, expect_shape
from gap_jax.diffusion.denoising_loss import noised
from gap_jax.diffusion.pipeline import Params, Pipeline
from gap_jax.models.clip import Clip
from gap_jax.stages.objective import Sample

_ENCODED_AT_ONCE = 8  # target images


class FeatureStatistics(NamedTuple):
    """The mean of some targets' features and their sample standard deviation; float32.

    `std` is None for a single target.
    """

    mean: jax.Array
    std: jax.Array | None


Distance = Callable[[jax.Array, FeatureStatistics], jax.Array]
Guidance = tuple[Callable[[Any, Sample], jax.Array], Any]


def cosine(features: jax.Array, target: FeatureStatistics) -> jax.Array:
    """Return 1 - cosine similarity of `features` `[B,…,D]` and the target mean `[…,D]`, float32 `[B]`.

    The similarity is taken along the last axis and averaged over the axes between.
    """
    return _mean_per_row(1 - (normalised(features) * normalised(target.mean)).sum(-1))


def cosine_over_positions(states: jax.Array, target: FeatureStatistics) -> jax.Array:
    """Return 1 - cosine similarity of text states `[B,L,D]` and the target mean `[L,D]`, float32 `[B]`.

    The similarity is taken along the L positions and averaged over the D features. This is the form of the
    paper's authors, whose weights belong to it; `cosine` compares the D features at each position.
    """
    by_feature = target._replace(mean=target.mean.swapaxes(-1, -2))
    return cosine(states.swapaxes(-1, -2), by_feature)


def l2(features: jax.Array, target: FeatureStatistics) -> jax.Array:
    """Return the mean squared difference of `features` `[B,…,D]` and the target mean, float32 `[B]`."""
    return _mean_per_row(jnp.square(features - target.mean))


def standardised_l2(features: jax.Array, target: FeatureStatistics) -> jax.Array:
    """Return `l2` with each squared difference divided by `max(std, 1e-3)` of the targets, float32 `[B]`.

    The division is by the standard deviation, as in the code of the paper's authors, and not by its square.
    Raises ValueError for a single target.
    """
    if target.std is None:
        raise ValueError("standardised_l2 needs the targets' standard deviation: give two or more, or use l2")
    return _mean_per_row(jnp.square(features - target.mean) / jnp.maximum(target.std, 1e-3))


def normalised(x: jax.Array) -> jax.Array:
    """Return x `[…,D]` divided by its norm along the last axis, with a finite gradient at 0."""
    return x * jax.lax.rsqrt(jnp.maximum(jnp.square(x).sum(-1, keepdims=True), 1e-16))


def image_guidance(
    clip: Clip,
    clip_params: Params,
    targets: np.ndarray | FeatureStatistics,
    distance: Distance = cosine,
) -> Guidance:
    """Return the loss function and the parameters of a term: the distance to target images in CLIP.

    The distance is between the pooled, unprojected features of the generated images and those of the targets.

    - `targets`: images, float `[n,H,W,3]` in [0,1], of any size; or the statistics `[D]` of their features,
      as `load_target_features` reads them, D being CLIP's width.
    - `distance`: the paper uses `cosine` and `standardised_l2`.

    Raises ValueError for no targets, another shape or dtype, NaN, or values outside [0,1].
    """
    if isinstance(targets, FeatureStatistics):
        vision_params, target = vision_part(clip_params), image_statistics(clip, targets, distance)
    else:
        vision_params, features = target_features(clip, clip_params, targets)
        target = _feature_statistics(features, distance)

    def loss(params, sample):
        return distance(clip.image_features(params["clip"], sample.images), params["target"])

    return loss, {"clip": vision_params, "target": target}


def target_features(clip: Clip, clip_params: Params, targets: np.ndarray) -> tuple[dict[str, Any], jax.Array]:
    """Return the `vision_part` of CLIP's parameters, and the features of target images, float32 `[n,D]`.

    The features are pooled and unprojected. `targets` and errors are those of `image_guidance`.
    """
    images, params = _check_images(targets), vision_part(clip_params)
    return params, _encode_in_chunks(lambda chunk: clip.image_features(params, chunk), images)


def vision_part(clip_params: Params) -> dict[str, Any]:
    """Return CLIP's parameters without those of its text encoder."""
    return {name: weights for name, weights in clip_params.items() if name != "text_model"}


def text_guidance(
    pipe: Pipeline,
    params: Params,
    texts: Sequence[str] | FeatureStatistics,
    distance: Distance = l2,
) -> Guidance:
    """Return the loss function and the parameters of a term: the distance to target texts.

    The distance is between the text states of the prompt and those of `texts`. All positions are compared,
    padding included.

    - `texts`: texts, or the statistics `[L,D]` of their text states, as `load_target_features` reads them.
    - `distance`: the paper uses `l2`, `cosine_over_positions` and, for several texts, `standardised_l2`;
      `cosine` is another possibility.

    Raises ValueError for no texts and for statistics of another shape. The loss raises ValueError for a
    context of another length or width than the text states.
    """
    if isinstance(texts, FeatureStatistics):
        target = text_statistics(pipe, texts, distance)
    elif not len(texts):
        raise ValueError("texts is empty: give at least one target text")
    else:
        target = _feature_statistics(pipe.encode_text(params, pipe.tokenize(texts)), distance)

    def loss(target, sample):
        shape = (None, *target.mean.shape)
        expect_shape(
            "the prompt's text states", sample.context, shape, "length and width as the target texts"
        )
        return distance(sample.context, target)

    return loss, target


def textual_inversion(pipe: Pipeline, params: Params, targets: np.ndarray) -> Guidance:
    """Return the loss function and the parameters of a term: textual inversion on target images.

    It is the denoising loss of the target images under the prompt (Gal et al., arXiv 2208.01618, eq. 2).

    - `targets` float `[n,H,W,3]` in [0,1], with H and W divisible by `pipe.downscale`. They are encoded once,
      here, to the mean of the VAE's posterior.

    Each of the sample's keys draws one target, one timestep and one noise, by `randint`, `randint` and
    `normal` of `split(key, 3)`. The loss is the mean squared error of the UNet's prediction (noise or v). A
    ControlNet is not used; an inpainting UNet has to paint the whole image. Raises ValueError as
    `image_guidance` does, and for sizes that do not divide.
    """
    images = _check_images(targets)
    latents = _encode_in_chunks(lambda chunk: pipe.encode_image(params, chunk), images)
    masked_image = pipe.encode_image(params, jnp.full_like(images[:1], 0.5))[0] if pipe.inpaints else None

    def draw(latents, key):
        target_key, timestep_key, noise_key = jax.random.split(key, 3)
        clean = latents[jax.random.randint(target_key, (), 0, len(latents))]
        timestep = jax.random.randint(timestep_key, (), 0, pipe.schedule.num_train_timesteps)
        noisy, prediction_target = noised(
            pipe.schedule, clean, jax.random.normal(noise_key, clean.shape), timestep
        )
        return noisy, timestep, prediction_target

    def loss(params, sample):
        noisy, timesteps, prediction_targets = jax.vmap(draw, (None, 0))(params["latents"], sample.key)
        if pipe.inpaints:
            mask = jnp.ones_like(noisy[..., :1])  # 1: to be painted
            masked_images = jnp.broadcast_to(params["masked_image"], noisy.shape)
            noisy = jnp.concatenate([noisy, mask, masked_images], -1)
        context = jnp.broadcast_to(sample.context, (len(noisy), *sample.context.shape[1:]))
        output: Any = pipe.unet.apply({"params": params["unet"]}, noisy, timesteps, context)
        return _mean_per_row(jnp.square(output.astype(jnp.float32) - prediction_targets))

    return loss, {"unet": params["unet"], "latents": latents, "masked_image": masked_image}


def _mean_per_row(x: jax.Array) -> jax.Array:
    return x.mean(tuple(range(1, x.ndim)))


def _feature_statistics(features: jax.Array, distance: Distance) -> FeatureStatistics:
    """Return the statistics of features `[n,…,D]`, after calling the distance, which may refuse them."""
    std = features.std(0, ddof=1) if len(features) > 1 else None
    target = FeatureStatistics(features.mean(0), std)
    distance(features[:1], target)
    return target


def image_statistics(clip: Clip, target: FeatureStatistics, distance: Distance) -> FeatureStatistics:
    """Return the statistics of features of images as JAX arrays.

    Raises ValueError if they are of another CLIP than this one, or if the distance refuses them.
    """
    shape = (clip.model.vision_model.hidden_size,)
    return _checked_statistics(target, shape, "this CLIP gives an image", distance)


def text_statistics(pipe: Pipeline, target: FeatureStatistics, distance: Distance) -> FeatureStatistics:
    """Return the statistics of text states as JAX arrays.

    Raises ValueError if they are of another text encoder than this one, or if the distance refuses them.
    """
    encoder = pipe.text_encoder
    shape = (encoder.max_position_embeddings, encoder.hidden_size)
    return _checked_statistics(target, shape, "this text encoder gives a text", distance)


def _checked_statistics(
    target: FeatureStatistics, shape: tuple[int, ...], source: str, distance: Distance
) -> FeatureStatistics:
    """Return the statistics, or raise ValueError for another shape or a distance that refuses them."""
    for name, values in target._asdict().items():
        if values is not None:
            advice = f"{source} features of this shape, so the target's were computed with another network"
            expect_shape(f"the {name} of the target's features", values, shape, advice)
    std = None if target.std is None else jnp.asarray(target.std)
    target = FeatureStatistics(jnp.asarray(target.mean), std)
    distance(target.mean[None], target)
    return target


def _encode_in_chunks(encode: Callable[[np.ndarray], jax.Array], images: np.ndarray) -> jax.Array:
    starts = range(0, len(images), _ENCODED_AT_ONCE)
    return jnp.concatenate([encode(images[start : start + _ENCODED_AT_ONCE]) for start in starts])


def _check_images(targets: Sequence[np.ndarray] | np.ndarray) -> np.ndarray:
    """Return target images as one float32 array `[n,H,W,3]`, or raise ValueError naming what is wrong."""
    if not len(targets):
        raise ValueError("targets is empty: give at least one target image")
    arrays = [np.asarray(image) for image in targets]
    for i, array in enumerate(arrays):
        expect_shape(f"target {i}", array, arrays[0].shape, "resize all targets to the size of target 0")
    images = np.stack(arrays)
    expect_shape("targets", images, (None, None, None, 3))
    expect_float("targets", images)
    for i, image in enumerate(images):
        expect_finite(f"target {i}", image)
        if image.min() < 0 or image.max() > 1:
            raise ValueError(f"target {i} must be in [0, 1], found {image.min():g} to {image.max():g}")
    return images.astype(np.float32)
