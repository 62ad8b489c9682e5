"""The losses of the autoencoder and of CLIP; the diffusion model's is `gap_jax.diffusion.denoising_loss`.

Each function returns a `loss(params, frozen, batch, keys) -> (scalar, metrics)` for `gap_jax.stages.train`. A
batch holds `image`, float32 `[B,H,W,3]` in [0,1], and for CLIP `tokens`, int32 `[B,L]`.
"""

import jax
import jax.numpy as jnp

from gap_jax.models.clip import Clip
from gap_jax.models.vae import AutoencoderKL
from gap_jax.stages.train import Loss


def autoencoder_loss(vae: AutoencoderKL, kl_weight: float = 0.0) -> Loss:
    """Return the loss of a VAE: the mean absolute error plus `kl_weight` times the KL divergence.

    The error is that of pixels in [-1,1], the divergence the mean over latent values. The source is Rombach
    et al., arXiv 2112.10752, appendix G, without its perceptual and adversarial terms. The VAE's top-level
    modules in `params` are trained, those in `frozen` are not. A row's key draws its latents, by `normal`.
    Metrics are `l1` and `kl`.
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


def contrastive_loss(clip: Clip) -> Loss:
    """Return CLIP's symmetric cross-entropy over the global batch.

    The source is Radford et al., arXiv 2103.00020, figure 3. Images must have the vision model's size. The
    metric `matched` is the share of images whose own text fits them best.
    """

    def loss(params, frozen, batch, keys):
        pixels = (batch["image"] - jnp.array(clip.image_mean)) / jnp.array(clip.image_std)
        logits = clip.model.apply({"params": params}, batch["tokens"], pixels)
        both = jax.nn.log_softmax(logits, 0), jax.nn.log_softmax(logits, 1)
        matched = (jnp.argmax(logits, 1) == jnp.arange(len(logits))).mean()
        return -sum(jnp.diagonal(x).mean() for x in both) / 2, {"matched": matched}

    return loss
