"""The differentiable sampling loop: one `lax.scan` over the rows of a solver's table."""

from collections.abc import Callable
from typing import NamedTuple

import jax
import jax.numpy as jnp

from gap_jax.diffusion.schedule import SolverCoefficients


class Keep(NamedTuple):
    """The part of the latents that sampling must keep (a blended-latent RePaint, arXiv 2201.09865).

    `mask` boolean `[B,h,w,1]`, True = keep; `source` the scaled latents to keep `[B,h,w,C]`; `noise` as
    `source`: what brings them to the noise level of each step.
    """

    mask: jax.Array
    source: jax.Array
    noise: jax.Array | None


def sample(
    predict: Callable[[jax.Array, jax.Array], jax.Array],
    latents: jax.Array,
    table: SolverCoefficients,
    *,
    prediction_type: str,
    keys: jax.Array | None = None,
    keep: Keep | None = None,
    backprop_steps: int | None = None,
) -> jax.Array:
    """Carry `latents` `[B,h,w,C]` from the noise level of the table's first row to that after its last.

    `predict(latents, timestep)` is the network, guidance included; it returns the noise or v. `keys` `[B]`
    draw each image's noise, `normal(fold_in(keys[b], step))`, and are needed only where the table has any.
    The state is float32 throughout, and reverse differentiation recomputes each step, so that memory
    does not grow with their number; it goes back through the last `backprop_steps` only, if given (DRaFT-K,
    Clark et al. 2023, arXiv 2309.17400).
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
    table = jax.tree.map(jnp.asarray, table)
    kept_alpha, kept_sigma = jnp.append(table.alpha[1:], 1.0), jnp.append(table.sigma[1:], 0.0)
    inputs = (jnp.arange(len(table.timestep)), table, kept_alpha, kept_sigma)
    carry = (latents, jnp.zeros_like(latents))
    first = 0 if backprop_steps is None else max(len(table.timestep) - backprop_steps, 0)
    step = jax.checkpoint(step, prevent_cse=False)
    if first:
        carry, _ = jax.lax.scan(step, carry, jax.tree.map(lambda x: x[:first], inputs))
        carry = jax.lax.stop_gradient(carry)
    (latents, _), _ = jax.lax.scan(step, carry, jax.tree.map(lambda x: x[first:], inputs))
    return latents
