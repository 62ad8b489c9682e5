"""The loss that denoisers are trained with."""

from collections.abc import Callable

import jax
import jax.numpy as jnp
import numpy as np

from gap_jax.diffusion.align import depth_condition
from gap_jax.diffusion.pipeline import Pipeline


def denoising(
    pipe: Pipeline, timestep_power: float = 1.0
) -> Callable[..., tuple[jax.Array, dict[str, jax.Array]]]:
    """The mean squared error of the predicted noise (or v): Ho et al., arXiv 2006.11239, eq. 14.

    Trains what of `unet` and `controlnet` is in `params`, `frozen` holds the rest; a ControlNet sees `depth`
    and `mask`.
    Needs `tokens` and `latents` `[B,h,w,C]`, scaled, or `image`, which is then encoded at every step.
    Timesteps are `⌊T u^timestep_power⌋`: 1 is Stable Diffusion's way, less draws more noise. `split(key)` of
    each row's key draws u, by `uniform`, and the noise, by `normal`.
    """
    alphas = pipe.schedule.alphas_cumprod()
    levels = np.sqrt(alphas).astype(np.float32), np.sqrt(1 - alphas).astype(np.float32)

    def draw(clean, key):
        when, what = jax.random.split(key)
        timestep = (len(alphas) * jax.random.uniform(when) ** timestep_power).astype(int)
        noise = jax.random.normal(what, clean.shape)
        alpha, sigma = (jnp.asarray(level)[timestep] for level in levels)
        answer = noise if pipe.schedule.prediction_type == "epsilon" else alpha * noise - sigma * clean
        return alpha * clean + sigma * noise, timestep, answer

    def loss(params, frozen, batch, keys):
        weights = {**frozen, **params}
        context = pipe.encode_text(frozen, batch["tokens"])
        latents = batch["latents"] if "latents" in batch else pipe.encode_image(frozen, batch["image"], keys)
        noisy, timesteps, answer = jax.vmap(draw)(latents, keys)
        residuals = None
        if pipe.controlnet is not None:
            control = depth_condition(batch["depth"], batch["mask"])
            variables = {"params": weights["controlnet"]}
            residuals = pipe.controlnet.apply(variables, noisy, timesteps, context, control)
        output = pipe.unet.apply({"params": weights["unet"]}, noisy, timesteps, context, residuals)
        return jnp.square(output.astype(jnp.float32) - answer).mean(), {}

    return loss
