"""Set terms: losses of the images of all prompts of a population together.

Each function returns `(features, loss, params)`, the middle of a `stages.objective.SetTerm`:

    SetTerm("fog", *set_guidance(clip, clip_params, fog_images), weight=1.0)

The set is the whole batch of every prompt of a population in one step. A training set is made of the images
of all prompts of a population, so their union is what should cover the target images; each prompt may show a
part of them. With the batch of one prompt as the set, every prompt alone would have to show all targets; with
a micro-batch as the set, the result would depend on how much memory a device has. Gradients are those of the
whole set: `stages.objective.SetTerm` describes their scale, and `stages.prompt_optimizer` how they are
accumulated over micro-batches, devices and prompts.
"""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from gap_jax.diffusion.pipeline import Params
from gap_jax.models.clip import Clip
from gap_jax.stages.guidance import normalised, target_features, vision_part
from gap_jax.stages.objective import Sample

SetLoss = tuple[Callable[[Any, Sample], jax.Array], Callable[[Any, jax.Array], jax.Array], Any]


def soft_chamfer(features: jax.Array, targets: jax.Array, temperature: float) -> jax.Array:
    """Return the smoothed Chamfer distance between features `[m,D]` and targets `[n,D]`, a float32 scalar.

    The distance of a pair is d = 1 - cosine similarity. The Chamfer distance is the mean of two means: each
    feature's distance to its nearest target, and each target's distance to its nearest feature. The nearest
    of k distances is smoothed to -T log mean exp(-d/T), T being the temperature. This lies between their
    minimum, which it reaches for T to 0, and minimum + T log k; its gradient is a softmax over the k pairs.
    """
    similarities = jnp.matmul(normalised(features), normalised(targets).T, precision="highest")

    def nearest(axis: int) -> jax.Array:
        logits = (similarities - 1) / temperature
        count = similarities.shape[axis]
        return -temperature * (jax.nn.logsumexp(logits, axis) - jnp.log(count)).mean()

    return (nearest(0) + nearest(1)) / 2


def set_guidance(clip: Clip, clip_params: Params, targets: np.ndarray, temperature: float = 0.02) -> SetLoss:
    """Return the features, loss and parameters of a set term: the distance of all images to a set of targets.

    `SetTerm("fog", *set_guidance(clip, clip_params, targets))` is the term. The distance is a smoothed
    Chamfer distance between the pooled, unprojected CLIP features of all images and those of the targets:
    every image should be near some target, and every target near some image. `image_guidance` looks at the
    targets' mean alone, which one kind of image can match even if the targets are of several kinds.

    - `targets` float `[n,H,W,3]` in [0,1], of any size.
    - `temperature`: the smoothing of the nearest pair, in units of the distance. A high temperature blurs the
      difference between kinds of targets; a low one lets each target pull only the image that is nearest.

    Raises ValueError for a temperature that is not positive, and as `image_guidance` does.
    """
    if not temperature > 0:
        raise ValueError(f"temperature must be positive; found {temperature}")
    vision_params, features_of_targets = target_features(clip, clip_params, targets)

    def loss(params, features):
        return soft_chamfer(features.reshape(-1, features.shape[-1]), params["targets"], temperature)

    return _features(clip), loss, {"clip": vision_params, "targets": features_of_targets}


def diversity(clip: Clip, clip_params: Params) -> SetLoss:
    """Return the features, loss and parameters of a set term: how similar images of different prompts are.

    `SetTerm("diversity", *diversity(clip, clip_params))` is the term. Its loss, in [-1,1], is the cosine
    similarity of the images' pooled, unprojected CLIP features, averaged over all pairs of images that two
    different prompts of the population generated. Images of one prompt are not compared with each other: a
    prompt may have one look, as long as others have another.

    The loss raises ValueError for a single prompt.
    """
    return _features(clip), mean_similarity, {"clip": vision_part(clip_params)}


def mean_similarity(_: Any, features: jax.Array) -> jax.Array:
    """Return the mean cosine similarity of features `[P,N,D]` of different prompts, a float32 scalar.

    Raises ValueError if P is 1.
    """
    count = len(features)
    if count < 2:
        raise ValueError("diversity compares prompts: optimise two or more together, or leave it out")
    means = normalised(features).mean(1)  # their dot products are the mean similarities of two prompts
    similarities = jnp.matmul(means, means.T, precision="highest")
    return (similarities.sum() - jnp.trace(similarities)) / (count * (count - 1))


def _features(clip: Clip) -> Callable[[Any, Sample], jax.Array]:
    return lambda params, sample: clip.image_features(params["clip"], sample.images)
