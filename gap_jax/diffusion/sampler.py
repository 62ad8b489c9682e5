"""The differentiable sampling loop: one `lax.scan` over the steps of a solver."""

from collections.abc import Callable
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


def sample(
    predict: Callable[[jax.Array, jax.Array], jax.Array],
    latents: jax.Array,
    coefficients: SolverCoefficients,
    *,
    prediction_type: str,
    keys: jax.Array | None = None,
    keep: Keep | None = None,
    backprop_steps: int | None = None,
) -> jax.Array:
    """Denoise `latents` `[B,h,w,C]` through all steps of a solver; return float32 `[B,h,w,C]`.

    - `predict(latents, timestep)` is the network with its guidance; it returns the noise or v, as
      `prediction_type` says.
    - `coefficients`: one row a step; `latents` have the noise level of the first.
    - `keys` `[B]` draw the noise of each image, `normal(fold_in(keys[b], step))`. They are needed only if the
      coefficients have noise.
    - `backprop_steps`: differentiate through that many last steps only (DRaFT-K, Clark et al. 2023, arXiv
      2309.17400); None: through all.

    The state is float32 throughout. Reverse differentiation recomputes each step, so that its memory does not
    grow with the number of steps.
    """

    def step(carry, inputs):
        x, previous = carry
        index, row, kept_alpha, kept_sigma = inputs
        output = predict(x, row.timestep).astype(jnp.float32)
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
    first_differentiated = 0 if backprop_steps is None else max(num_steps - backprop_steps, 0)
    step = jax.checkpoint(step, prevent_cse=False)
    if first_differentiated:
        carry, _ = jax.lax.scan(step, carry, jax.tree.map(lambda x: x[:first_differentiated], inputs))
        carry = jax.lax.stop_gradient(carry)
    (latents, _), _ = jax.lax.scan(step, carry, jax.tree.map(lambda x: x[first_differentiated:], inputs))
    return latents
