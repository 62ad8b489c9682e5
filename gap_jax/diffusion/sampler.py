"""The differentiable sampling loop: a `lax.scan` over the steps of a solver, and cheaper forms of it."""

from collections.abc import Callable, Iterator
from functools import partial
from itertools import pairwise
from typing import NamedTuple

import jax
import jax.numpy as jnp

from gap_jax.diffusion.schedule import SolverCoefficients


class Keep(NamedTuple):
    """The part of the latents that sampling keeps: blended latents as in RePaint (arXiv 2201.09865).

    - `mask` boolean `[B,h,w,1]`, True = keep.
    - `source` float `[B,h,w,C]`: the scaled latents to keep.
    - `noise` as `source`: the noise that brings the source to the noise level of each step.
    """

    mask: jax.Array
    source: jax.Array
    noise: jax.Array | None


class Economy(NamedTuple):
    """The ways in which sampling and its gradient do less than all; the defaults do all.

    - `backprop_steps` K: the gradient goes through the networks of K steps only; None: of all steps.
    - `shortcut_steps` S: the gradient passes the last S steps by a shortcut. What the networks say in these
      steps is constant, and only the solver's own arithmetic is differentiated. The K steps are those before.
    - `guided_steps` `(first, end)`: classifier-free guidance acts in the steps `first` to `end` - 1, counted
      from 0 at the noisiest step that runs; None: in all steps. In any other step, the prompt alone passes
      through the networks, which is half of the work (Kynkäänniemi et al., arXiv 2404.07724).

    S = 0 truncates the gradient as DRaFT-K does (Clark et al., arXiv 2309.17400). K = 1 keeps the graph of a
    single step, as SDO does (Dou et al., You Only Look One Step, arXiv 2505.07477).
    """

    backprop_steps: int | None = None
    shortcut_steps: int = 0
    guided_steps: tuple[int, int] | None = None

    def check(self) -> None:
        """Raise ValueError for numbers of steps that are too small or in the wrong order."""
        if self.backprop_steps is not None and self.backprop_steps < 1:
            raise ValueError(f"backprop_steps must be at least 1, found {self.backprop_steps}")
        if self.shortcut_steps < 0:
            raise ValueError(f"shortcut_steps must be at least 0, found {self.shortcut_steps}")
        if self.guided_steps is not None and not 0 <= self.guided_steps[0] < self.guided_steps[1]:
            raise ValueError(
                "guided_steps must be the first guided step, from 0 on, and the first step after it that is "
                f"not guided, as in (1, 4); found {self.guided_steps}"
            )


DO_ALL = Economy()


class Stretch(NamedTuple):
    """The steps `first` to `end` - 1: whether they are guided, and what is differentiated in them."""

    first: int
    end: int
    guided: bool
    differentiates_solver: bool
    differentiates_networks: bool


def stretches(num_steps: int, economy: Economy) -> Iterator[Stretch]:
    """Yield the stretches of steps that are alike, in their order.

    Raises ValueError if the shortcut leaves no step whose networks are differentiated.
    """
    economy.check()
    last = num_steps - economy.shortcut_steps
    if last < 1:
        raise ValueError(
            f"shortcut_steps must be less than the {num_steps} steps that run, so that the gradient passes "
            f"through a network; found {economy.shortcut_steps}"
        )
    first = 0 if economy.backprop_steps is None else max(last - economy.backprop_steps, 0)
    guided = economy.guided_steps or (0, num_steps)
    bounds = sorted({0, first, last, num_steps, *(min(bound, num_steps) for bound in guided)})
    for begin, end in pairwise(bounds):
        yield Stretch(begin, end, guided[0] <= begin < guided[1], begin >= first, first <= begin < last)


def sample(
    predict: Callable[[jax.Array, jax.Array, bool], jax.Array],
    latents: jax.Array,
    coefficients: SolverCoefficients,
    *,
    prediction_type: str,
    keys: jax.Array | None = None,
    keep: Keep | None = None,
    economy: Economy = DO_ALL,
) -> jax.Array:
    """Denoise `latents` `[B,h,w,C]` through all steps of a solver; return float32 `[B,h,w,C]`.

    - `predict(latents, timestep, guided)` is the network, with its guidance if `guided` is True; it returns
      the noise or v, as `prediction_type` says.
    - `coefficients`: one row a step; `latents` have the noise level of the first.
    - `keys` `[B]` draw the noise of each image, `normal(fold_in(keys[b], step))`. They are needed only if the
      coefficients have noise.
    - `economy`: what is not guided and not differentiated.

    The state is float32 throughout. Reverse differentiation recomputes each step, so that its memory does not
    grow with the number of steps. Raises ValueError for an `economy` that does not fit the steps.
    """

    def step(stretch, carry, inputs):
        x, previous = carry
        index, row, kept_alpha, kept_sigma = inputs
        output = predict(x, row.timestep, stretch.guided).astype(jnp.float32)
        if not stretch.differentiates_networks:
            output = jax.lax.stop_gradient(output)
        if prediction_type == "epsilon":
            eps = output
            clean = (x - row.sigma * eps) / row.alpha
        else:
            eps = row.alpha * output + row.sigma * x
            clean = row.alpha * x - row.sigma * output
        x = row.next_alpha * clean + row.direction * eps + row.correction * (clean - previous)
        if keys is not None:
            draw = jax.vmap(lambda key: jax.random.normal(jax.random.fold_in(key, index), x.shape[1:]))
            x += row.noise * draw(keys)
        if keep is not None:
            x = jnp.where(keep.mask, kept_alpha * keep.source + kept_sigma * keep.noise, x)
        return (x, clean), None

    latents = latents.astype(jnp.float32)
    coefficients = jax.tree.map(jnp.asarray, coefficients)
    num_steps = len(coefficients.timestep)
    kept_alpha = jnp.append(coefficients.alpha[1:], 1.0)
    kept_sigma = jnp.append(coefficients.sigma[1:], 0.0)
    inputs = (jnp.arange(num_steps), coefficients, kept_alpha, kept_sigma)
    carry = (latents, jnp.zeros_like(latents))
    for stretch in stretches(num_steps, economy):
        rows = jax.tree.map(lambda x, s=stretch: x[s.first : s.end], inputs)
        recomputed = jax.checkpoint(partial(step, stretch), prevent_cse=False)
        carry, _ = jax.lax.scan(recomputed, carry, rows)
        if not stretch.differentiates_solver:
            carry = jax.lax.stop_gradient(carry)
    return carry[0]
