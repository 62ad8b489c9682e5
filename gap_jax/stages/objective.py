"""The objective that prompts are optimised for: a weighted sum of named terms.

A term is a function of the images that were generated with a prompt, such as the loss of a vision model or
the distance to a target domain. A set term is a function of the images of all prompts of a population
together, such as the distance between the set of them and a set of target images. An objective is minimised.
"""

import math
import zlib
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from gap_jax.data.batch import Batch


class Sample(NamedTuple):
    """A batch of generated images with everything that a term may depend on.

    - `images` float `[B,H,W,3]` in [0,1]: the generated images.
    - `context` float `[B or 1,L,D]`: the text states of the prompt.
    - `prediction`: the prediction of the model under improvement for the images.
    - `label`: the labels that the images were generated from, such as `{"depth", "mask"}` (`tasks.depth`) or
      `{"label"}` (`tasks.classification`).
    - `key` `[B]`: one random key per image, or None if no term draws random numbers. Every term receives keys
      of its own, folded with its name. What it draws for an image therefore depends neither on other terms
      nor on how images are spread over devices.
    """

    images: jax.Array
    context: jax.Array
    prediction: Any
    label: Mapping[str, jax.Array]
    key: jax.Array | None


class Term(NamedTuple):
    """The term `weight · loss(params, sample)` of an objective, minimised from optimisation step `start` on.

    - `loss(params, sample)`: returns `[B]`, which is then averaged, or a scalar. A sample has the generated
      `images`, float `[B,H,W,3]` in [0,1]; `context`, the text states of the prompt, `[B or 1,L,D]`;
      `prediction`, what the model under improvement predicts from the images; `label`, the labels that these
      were generated from; and `key` `[B]`, the random keys.
    - `params`: a pytree of everything large, such as the weights of a network or statistics of target images.
      It becomes an argument of the compiled program instead of a constant in it. `loss` may close over static
      values.

    Any function of a sample can be a term. For example, a stronger model whose loss should stay low, so that
    the images still show their labels:

        def fidelity(params, sample):
            return depth.l1(strong.apply(params, sample.images), sample.label["depth"], sample.label["mask"])

        Term("fidelity", fidelity, strong_params, weight=0.5)
    """

    name: str
    loss: Callable[[Any, Sample], jax.Array]
    params: Any = None
    weight: float = 1.0
    start: int = 0


class SetTerm(NamedTuple):
    """The term `weight · loss(params, features)` on all images of a population of prompts in one step.

    - `features(params, sample)`: returns features of a sample's images, float `[B,D]`.
    - `loss(params, features)`: returns a float scalar from the features `[P,N,D]` of the N images of each of
      P prompts. It does not depend on how these are spread over samples, micro-batches or devices.
    - `params`, `start`: as in `Term`.

    The loss is part of every prompt's objective, and a population minimises the sum of its prompts'
    objectives. In the gradient, the loss therefore counts P times, and the influence of one image on it is as
    large as if it were averaged over the images of its own prompt, like a `Term`.
    """

    name: str
    features: Callable[[Any, Sample], jax.Array]
    loss: Callable[[Any, jax.Array], jax.Array]
    params: Any = None
    weight: float = 1.0
    start: int = 0


Together = Callable[[str, jax.Array], jax.Array]
ObjectiveFunction = Callable[..., tuple[jax.Array, dict[str, jax.Array]]]


def alone(name: str, features: jax.Array) -> jax.Array:
    """Return the features `[1,B,D]` of a population that consists of the given images `[B,D]` alone."""
    return features[None]


def adversarial(loss: Callable[[Any, Batch], jax.Array], weight: float = 1.0, start: int = 0) -> Term:
    """Return the term named `adversarial`.

    - `loss(prediction, batch)`: returns `[B]`, which prompts minimise: a task's `adversarial` loss, such as
      minus the error of the model.
    - `weight`, `start`: as in `Term`.
    """
    return Term("adversarial", lambda _, sample: loss(sample.prediction, sample.label), None, weight, start)


def objective(terms: Sequence[Term | SetTerm]) -> tuple[ObjectiveFunction, tuple[Any, ...]]:
    """Return the weighted sum of `terms` as a pure function, and its parameters, with the weights and starts.

    The function is `evaluate(params, sample, step, together=alone) -> (total, values)`. `total` is a float32
    scalar, and `values` holds the unweighted float32 value of each term by its name. `step` may be traced.
    Before its `start`, a term is reported but adds exactly 0 to the total and to the gradient, even if it is
    not finite. A term that starts late may get other parameters with another start, even 0; a term that
    starts at step 0 always does. Means are taken over the given sample; with equally many images on each of
    several devices, average both results over the devices.

    `together(name, features)` returns the features `[P,N,D]` of the whole population for the set term `name`,
    with those of the sample, `[B,D]`, in their place and differentiable, and all others constant. The total's
    gradient is then this sample's part of the gradient of all prompts' totals, scaled so that the mean over
    the N/B samples of a prompt is the whole.

    Raises ValueError if there are no terms, two terms share a name, a weight is not finite or a start is
    negative.
    """
    terms = tuple(terms)
    if not terms:
        raise ValueError("an objective needs at least one term")
    for i, term in enumerate(terms):
        if term.name in [other.name for other in terms[:i]]:
            raise ValueError(f"two terms are named {term.name!r}: give each term a name of its own")
        if not math.isfinite(term.weight):
            raise ValueError(f"term {term.name!r}: weight must be finite, found {term.weight}")
        if term.start < 0:
            raise ValueError(f"term {term.name!r}: start must be a step from 0 on, found {term.start}")
    static_terms = _static(terms)

    def evaluate(params, sample, step, together=alone):
        total, values = jnp.float32(0), {}
        for term, (weight, start, term_params) in zip(static_terms, params, strict=True):
            begun = step >= (start if term.start else 0)
            own = _sample_for(term, sample, begun)
            if isinstance(term, SetTerm):
                value = _set_loss(term, term_params, own, together)
            else:
                value = _mean_loss(term, term_params, own)
            total += jnp.where(begun, weight * value, 0.0)
            values[term.name] = value
        return total, values

    return evaluate, tuple((np.float32(term.weight), np.int32(term.start), term.params) for term in terms)


def set_features(
    terms: Sequence[Term | SetTerm],
) -> Callable[[Sequence[Any], Sample, jax.Array], dict[str, jax.Array]]:
    """Return the function `(params, sample, step) -> {name: features}` of all set terms, float32 `[B,D]`.

    `params` are those of `objective`.
    """
    static_terms = _static(terms)

    def features(params, sample, step):
        return {
            term.name: _own_features(term, term_params, _sample_for(term, sample, step >= start))
            for term, (_, start, term_params) in zip(static_terms, params, strict=True)
            if isinstance(term, SetTerm)
        }

    return features


def _static(terms: Sequence[Term | SetTerm]) -> list[Term | SetTerm]:
    """Return terms without parameters and weights, on which a program must not depend: others run it, too."""
    return [term._replace(params=None, weight=1.0) for term in terms]


def _own_features(term: SetTerm, params: Any, sample: Sample) -> jax.Array:
    features = term.features(params, sample)
    if features.ndim != 2 or len(features) != len(sample.images):
        raise ValueError(
            f"term {term.name!r}: features must have shape [{len(sample.images)}, D], a row for each image; "
            f"found {list(features.shape)}"
        )
    return features.astype(jnp.float32)


def _set_loss(term: SetTerm, params: Any, sample: Sample, together: Together) -> jax.Array:
    own = _own_features(term, params, sample)
    population = together(term.name, own)
    loss = jnp.asarray(term.loss(params, population))
    if loss.ndim:
        raise ValueError(f"set term {term.name!r} must return a scalar, found shape {list(loss.shape)}")
    samples = population.shape[0] * population.shape[1] // len(own)
    return _scale_gradient(loss.astype(jnp.float32), float(samples))


@partial(jax.custom_vjp, nondiff_argnums=(1,))
def _scale_gradient(x: jax.Array, factor: float) -> jax.Array:
    """Return x unchanged, with its gradient multiplied by `factor`."""
    return x


_scale_gradient.defvjp(lambda x, factor: (x, None), lambda factor, _, gradient: (factor * gradient,))


def _mean_loss(term: Term, params: Any, sample: Sample) -> jax.Array:
    loss = jnp.asarray(term.loss(params, sample))
    if loss.ndim > 1:
        raise ValueError(f"term {term.name!r} must return [B] or a scalar, found shape {list(loss.shape)}")
    return loss.astype(jnp.float32).mean()


def _sample_for(term: Term | SetTerm, sample: Sample, begun: jax.Array) -> Sample:
    """Return the sample with the term's own keys, detached from gradients unless the term has `begun`."""
    if sample.key is not None:
        name_hash = zlib.crc32(term.name.encode())
        sample = sample._replace(key=jax.vmap(lambda key: jax.random.fold_in(key, name_hash))(sample.key))
    if term.start == 0:
        return sample

    def gate(x):  # `where` and not a product, so that the gradient is 0 even if the term is NaN
        return jnp.where(begun, x, jax.lax.stop_gradient(x))

    differentiable = {name: getattr(sample, name) for name in ("images", "context", "prediction")}
    return sample._replace(**jax.tree.map(gate, differentiable))
