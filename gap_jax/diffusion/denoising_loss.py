"""The loss that denoisers are trained with, and the noising that all such losses share."""

from collections.abc import Callable

import jax
import jax.numpy as jnp
import numpy as np

from gap_jax.diffusion.align import Condition, see_depth
from gap_jax.diffusion.pipeline import Pipeline
from gap_jax.diffusion.schedule import Schedule


def noised(
    schedule: Schedule, clean: jax.Array, noise: jax.Array, timestep: jax.Array
) -> tuple[jax.Array, jax.Array]:
    """Return `clean` latents noised to a timestep, and the target that a denoiser is trained to predict.

    With `abar = schedule.alphas_cumprod()[timestep]`, `alpha = sqrt(abar)` and `sigma = sqrt(1 - abar)`:

        noisy = alpha clean + sigma noise      (Ho et al., arXiv 2006.11239, eq. 4)
        target = noise                         (prediction_type "epsilon": eq. 14)
        target = alpha noise - sigma clean     ("v_prediction": Salimans & Ho, arXiv 2202.00512, section 4)

    `clean` scaled latents and `noise` standard normal, float32 of one shape; `timestep` an integer scalar in
    `0..num_train_timesteps - 1`. Map over a batch with `jax.vmap`.
    """
    alphas = schedule.alphas_cumprod()
    alpha, sigma = (
        jnp.asarray(np.sqrt(variance).astype(np.float32))[timestep] for variance in (alphas, 1 - alphas)
    )
    target = noise if schedule.prediction_type == "epsilon" else alpha * noise - sigma * clean
    return alpha * clean + sigma * noise, target


def denoising(
    pipe: Pipeline, timestep_power: float = 1.0, condition: Condition = see_depth
) -> Callable[..., tuple[jax.Array, dict[str, jax.Array]]]:
    """Return `loss(params, frozen, batch, keys)`: the mean squared error of the predicted noise or v.

    It is the loss of Ho et al., arXiv 2006.11239, eq. 14, averaged over the batch and its latents.

    - `params`: the weights to train, of `unet`, `controlnet` or both; `frozen` holds all others.
    - `batch`: `tokens` int `[B,L]`, and `latents` float `[B,h,w,C]`, scaled, or `image` float `[B,H,W,3]` in
      [0,1], which is then encoded at every step. A ControlNet also needs what `condition` reads.
    - `keys` `[B]`: `split(keys[b])` draws u of row b by `uniform`, and its noise by `normal`.
    - `timestep_power`: the timesteps are `⌊T u^timestep_power⌋` of T. 1 is Stable Diffusion's choice; a
      smaller power draws noisier timesteps.
    - `condition(batch)`: returns what the ControlNet sees, if there is one, float `[B,H,W,3]` in [0,1].
    """
    num_timesteps = pipe.schedule.num_train_timesteps

    def draw(clean, key):
        timestep_key, noise_key = jax.random.split(key)
        timestep = (num_timesteps * jax.random.uniform(timestep_key) ** timestep_power).astype(int)
        noisy, target = noised(pipe.schedule, clean, jax.random.normal(noise_key, clean.shape), timestep)
        return noisy, timestep, target

    def loss(params, frozen, batch, keys):
        weights = {**frozen, **params}
        context = pipe.encode_text(frozen, batch["tokens"])
        latents = batch["latents"] if "latents" in batch else pipe.encode_image(frozen, batch["image"], keys)
        noisy, timesteps, target = jax.vmap(draw)(latents, keys)
        residuals = None
        if pipe.controlnet is not None:
            control = condition(batch)
            variables = {"params": weights["controlnet"]}
            residuals = pipe.controlnet.apply(variables, noisy, timesteps, context, control)
        output = pipe.unet.apply({"params": weights["unet"]}, noisy, timesteps, context, residuals)
        return jnp.square(output.astype(jnp.float32) - target).mean(), {}

    return loss
