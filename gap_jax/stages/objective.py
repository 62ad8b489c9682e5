"""What prompts are optimised for: a weighted sum of named terms, each a function of the generated images."""

import math
import zlib
from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np


class Sample(NamedTuple):
    """One batch through the loop.

    - `images` `[B,H,W,3]` in [0,1], as generated; `context` `[B or 1,L,D]`, the prompt's states.
    - `prediction`: what the model under improvement makes of the images; `label`: what it should
      (`tasks.depth`: `{"depth", "mask"}`; `tasks.classify`: `{"label"}`).
    - `key` `[B]`, one for each image, or None where no term draws: what a term draws for an image then does
      not depend on how images are spread over devices. Each term gets keys of its own, folded with its name.
    """

    images: jax.Array
    context: jax.Array
    prediction: Any
    label: Mapping[str, jax.Array]
    key: jax.Array | None


class Term(NamedTuple):
    """`weight · loss(params, sample)`, minimised from optimisation step `start` on.

    `loss` returns `[B]`, which is averaged, or a scalar. `params` is a pytree of all that is large (a
    network's weights, statistics of targets), so that it is an argument of the compiled program and not a
    constant in it; `loss` closes over what is static. Anything can be a term; a second, stronger model whose
    loss on the generated images shall stay low, so that they keep their label, is

        def fidelity(params, sample):
            return depth.l1(strong.apply(params, sample.images), sample.label["depth"], sample.label["mask"])

        Term("fidelity", fidelity, strong_params, weight=0.5)
    """

    name: str
    loss: Callable[[Any, Sample], jax.Array]
    params: Any = None
    weight: float = 1.0
    start: int = 0


Evaluate = Callable[[Sequence[Any], Sample, jax.Array], tuple[jax.Array, dict[str, jax.Array]]]


def adversarial(
    loss: Callable[[Any, Mapping[str, jax.Array]], jax.Array], weight: float = 1.0, start: int = 0
) -> Term:
    """The term `adversarial` of a task's loss `(prediction, label) -> [B]`."""
    return Term("adversarial", lambda _, sample: loss(sample.prediction, sample.label), None, weight, start)


def objective(terms: Sequence[Term]) -> tuple[Evaluate, tuple[Any, ...]]:
    """The weighted sum of `terms`, as a pure function and its parameters, the weights among them.

    `evaluate(params, sample, step) -> (total, values)`: float32 scalars, `values` each term's by its name,
    unweighted. `step` may be traced. Before its `start`, a term is reported but adds exactly 0 to the total
    and to its gradient, even if it is not finite. Means are over the sample given: over several devices, each
    with as many images, average both results. Raises ValueError for no terms, two of one name, a weight
    that is not finite, a start below 0.
    """
    terms = tuple(terms)
    if not terms:
        raise ValueError("an objective needs at least one term")
    for i, term in enumerate(terms):
        if term.name in [other.name for other in terms[:i]]:
            raise ValueError(f"two terms are named {term.name!r}: each is reported under its name")
        if not math.isfinite(term.weight):
            raise ValueError(f"term {term.name!r}: weight must be finite, found {term.weight}")
        if term.start < 0:
            raise ValueError(f"term {term.name!r}: start must be a step from 0 on, found {term.start}")
    functions = [term._replace(params=None, weight=1.0) for term in terms]  # other weights, the same program

    def evaluate(params, sample, step):
        total, values = jnp.float32(0), {}
        for term, (weight, theirs) in zip(functions, params, strict=True):
            value = _value(term, theirs, _seen_by(term, sample, step))
            total += jnp.where(step >= term.start, weight * value, 0.0)
            values[term.name] = value
        return total, values

    return evaluate, tuple((np.float32(term.weight), term.params) for term in terms)


def _value(term: Term, params: Any, sample: Sample) -> jax.Array:
    value = jnp.asarray(term.loss(params, sample))
    if value.ndim > 1:
        raise ValueError(f"term {term.name!r} must return [B] or a scalar, found {list(value.shape)}")
    return value.astype(jnp.float32).mean()


def _seen_by(term: Term, sample: Sample, step: jax.Array) -> Sample:
    """The sample with the term's own keys; before its start, without a way back for gradients."""
    if sample.key is not None:
        purpose = zlib.crc32(term.name.encode())
        sample = sample._replace(key=jax.vmap(lambda key: jax.random.fold_in(key, purpose))(sample.key))
    if term.start == 0:
        return sample

    def gate(x):  # a where, not a product: the gradient's zero survives a NaN
        return jnp.where(step >= term.start, x, jax.lax.stop_gradient(x))

    traced = {name: getattr(sample, name) for name in ("images", "context", "prediction")}
    return sample._replace(**jax.tree.map(gate, traced))
