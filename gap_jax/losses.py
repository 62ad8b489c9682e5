"""What Stable Diffusion's own networks are trained with: the autoencoder, CLIP, and the denoiser.

Each function here returns a `loss(params, frozen, batch, keys) -> (scalar, metrics)` for `loop.train`; a
batch holds `image` float `[B,H,W,3]` in [0,1], `tokens` int `[B,L]`, `depth` and `mask` `[B,H,W,1]`, or
those of them that the loss says it needs.
"""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from gap_jax.diffusion.align import depth_condition
from gap_jax.diffusion.pipeline import Pipeline
from gap_jax.models.clip import Clip
from gap_jax.models.vae import AutoencoderKL

Params = Any
Batch = dict[str, jax.Array]
Loss = Callable[[Params, Params, Batch, jax.Array], tuple[jax.Array, dict[str, jax.Array]]]


def autoencoding(vae: AutoencoderKL, kl_weight: float = 0.0) -> Loss:
    """A VAE's mean absolute error, of pixels in [-1,1], plus `kl_weight` times the KL of a latent value.

    Rombach et al., arXiv 2112.10752, appendix G, without its perceptual and adversarial parts. Trains what of
    the VAE is in `params`, `frozen` holds the rest. Needs `image`; each row's key draws the latents by
    `normal`.
    """

    def loss(params, frozen, batch, keys):
        weights = {"params": {**dict(frozen), **params}}
        images = 2 * batch["image"] - 1
        posterior = vae.apply(weights, images, method="encode")
        mean, logvar = posterior.mean.astype(jnp.float32), posterior.logvar.astype(jnp.float32)
        noise = jax.vmap(lambda key: jax.random.normal(key, mean.shape[1:]))(keys)
        decoded = vae.apply(weights, mean + jnp.exp(logvar / 2) * noise, method="decode")
        error = jnp.abs(decoded.astype(jnp.float32) - images).mean()
        kl = (jnp.square(mean) + jnp.exp(logvar) - 1 - logvar).mean() / 2
        return error + kl_weight * kl, {"l1": error, "kl": kl}

    return loss


def contrastive(clip: Clip) -> Loss:
    """CLIP's symmetric cross-entropy over the global batch: Radford et al., arXiv 2103.00020, figure 3.

    Needs `image`, of the vision model's size, and `tokens`.
    """

    def loss(params, frozen, batch, keys):
        pixels = (batch["image"] - jnp.array(clip.image_mean)) / jnp.array(clip.image_std)
        logits = clip.model.apply({"params": params}, batch["tokens"], pixels)
        both = jax.nn.log_softmax(logits, 0), jax.nn.log_softmax(logits, 1)
        matched = (jnp.argmax(logits, 1) == jnp.arange(len(logits))).mean()
        return -sum(jnp.diagonal(x).mean() for x in both) / 2, {"matched": matched}

    return loss


def denoising(pipe: Pipeline, timestep_power: float = 1.0) -> Loss:
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
