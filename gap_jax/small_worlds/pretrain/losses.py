"""What Stable Diffusion's own networks are trained with: the autoencoder, CLIP, and the denoiser.

Each function here returns a `loss(params, frozen, batch, keys) -> (scalar, metrics)` for `loop.train`; a
batch holds `image` float `[B,H,W,3]` in [0,1], `tokens` int `[B,L]`, `depth` and `mask` `[B,H,W,1]`, or
those of them that the loss says it needs.
"""

import jax
import jax.numpy as jnp

from gap_jax.models.clip import Clip
from gap_jax.models.vae import AutoencoderKL
from gap_jax.stages.train import Loss


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
