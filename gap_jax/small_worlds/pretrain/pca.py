"""The first parameters of a small autoencoder, whose encoder is a principal component analysis of patches.

The decoder starts as an enlargement of the patches' mean colours. In an `AutoencoderKL`, everything can be
made linear but the last normalisations and SiLUs. These can be made nearly linear: constant channels fix a
normalisation's scale, and a large offset brings a SiLU to its linear part.
"""

from typing import Any

import jax
import numpy as np
from flax.traverse_util import flatten_dict, unflatten_dict

from gap_jax.models.vae import AutoencoderKL

CONSTANT = 4.0  # absolute value of the constant channels
OFFSET = 8.0  # offset in front of the SiLU


def start_from_patches(
    vae: AutoencoderKL, params: Any, images: np.ndarray, *, spread: float = 1 / 3, logvar: float = -6.0
) -> tuple[Any, float]:
    """Return parameters whose encoder gives the patches' principal components, and the variance they explain.

    - `params`: the VAE's initial parameters. Those of the encoder are replaced; the decoder keeps enough of
      its own to be able to learn.
    - `images`: float `[n,H,W,3]` in [0,1]. A patch is the part of an image that becomes one latent.
    - `spread`: a component whose standard deviation over patches is s gets one proportional to `s^spread`; 0
      whitens. The mean variance of latents is 1.
    - `logvar`: the posterior's constant log-variance.

    The variance explained is a share in [0,1]. Raises ValueError for a VAE with more than one normalisation
    group, or too narrow to hold a patch.
    """
    widths, channels = vae.block_out_channels, vae.latent_channels
    halvings = len(widths) - 1
    if vae.norm_num_groups != 1:
        raise ValueError(f"norm_num_groups must be 1, found {vae.norm_num_groups}")
    if any(width < 3 * 4**i for i, width in enumerate(widths[:-1])) or widths[-2] < channels:
        raise ValueError(
            f"block_out_channels {widths} are too narrow for patches of {2**halvings} × {2**halvings} pixels "
            f"and {channels} latent channels"
        )
    projection, offset, share = _components(2 * images - 1, halvings, channels, spread)

    def encoder(*names: str) -> np.ndarray:
        return flat["encoder", *names]

    flat = {path: np.array(leaf) for path, leaf in flatten_dict(params).items()}
    for path, leaf in flat.items():
        adds = path[-1] == "kernel" and path[-2] in ("conv2", "to_out.0")  # is added to a residual stream
        if adds or (path[0] == "encoder" and not any("norm" in name for name in path)):
            leaf[:] = 0

    encoder("conv_in", "kernel")[1, 1, :, :3] = np.eye(3)
    for level in range(len(widths)):
        shortcut = ("encoder", f"down_blocks.{level}.resnets.0", "conv_shortcut", "kernel")
        if shortcut in flat:
            flat[shortcut][0, 0] = np.eye(*flat[shortcut].shape[2:])
        if level < halvings:
            kernel = encoder(f"down_blocks.{level}.downsamplers.0.conv", "kernel")
            held = 3 * 4**level
            if level < halvings - 1:
                kernel[:2, :2, :held, : 4 * held] = np.eye(4 * held).reshape(2, 2, held, 4 * held)
            else:
                kernel[:2, :2, :held, :channels] = projection.reshape(2, 2, held, channels)
                encoder(f"down_blocks.{level}.downsamplers.0.conv", "bias")[:channels] = offset
    constants = CONSTANT * np.where(np.arange(widths[-1] - channels) % 2, 1, -1)
    encoder("mid_block.resnets.0", "conv2", "bias")[channels:] = constants
    deviation = np.sqrt((np.square(constants).sum() + channels) / widths[-1])
    encoder("conv_norm_out", "scale")[:] = deviation
    encoder("conv_norm_out", "bias")[:] = OFFSET
    out = encoder("conv_out", "kernel")[1, 1]
    out[:channels, :channels] = np.eye(channels)
    out[channels:, :channels] = -1 / len(constants)  # their mean is the offset minus the image's mean
    encoder("conv_out", "bias")[channels:] = logvar
    flat["quant_conv", "kernel"][0, 0] = np.eye(2 * channels)
    flat["quant_conv", "bias"][:] = 0
    _start_decoder(flat, vae, projection, offset)
    return unflatten_dict({path: jax.numpy.asarray(leaf) for path, leaf in flat.items()}), share


def _start_decoder(flat: dict, vae: AutoencoderKL, projection: np.ndarray, offset: np.ndarray) -> None:
    """Let channels 0 to 2 carry red, green and blue through the decoder, and channel 3 zero, in place."""

    def carry(path: tuple[str, ...], taps: np.ndarray) -> None:
        flat[path][..., :4] = 0
        flat[path][..., :3, :3] = taps[..., None, None] * np.eye(3)

    colours = np.linalg.pinv(projection).reshape(vae.latent_channels, -1, 3).mean(1)
    flat["post_quant_conv", "kernel"][0, 0] = np.eye(vae.latent_channels)
    kernel, bias = flat["decoder", "conv_in", "kernel"], flat["decoder", "conv_in", "bias"]
    kernel[..., :4] = 0
    kernel[1, 1, :, :3] = colours
    bias[:3] = -offset @ colours
    last = len(vae.block_out_channels) - 1
    tent = np.outer((0.25, 0.5, 0.25), (0.25, 0.5, 0.25))  # turns nearest-neighbour upsampling into bilinear
    for block in range(last + 1):
        shortcut = ("decoder", f"up_blocks.{block}.resnets.0", "conv_shortcut", "kernel")
        if shortcut in flat:
            carry(shortcut, np.ones((1, 1)))
        if block < last:
            carry(("decoder", f"up_blocks.{block}.upsamplers.0.conv", "kernel"), tent)
    width = vae.block_out_channels[0]
    constants = CONSTANT * np.where(np.arange(width - 4) % 2, 1, -1)
    flat["decoder", f"up_blocks.{last}.resnets.{vae.layers_per_block}", "conv2", "bias"][4:] = constants
    flat["decoder", "conv_norm_out", "scale"][:] = np.sqrt(np.square(constants).sum() / width + 1)
    flat["decoder", "conv_norm_out", "bias"][:4] = OFFSET
    out = flat["decoder", "conv_out", "kernel"]
    out[:] = 0
    out[1, 1, :3] = np.eye(3)
    out[1, 1, 3] = -1


def _components(
    images: np.ndarray, halvings: int, count: int, spread: float
) -> tuple[np.ndarray, np.ndarray, float]:
    """Return the projection `[3·4^halvings,count]` and offset `[count]` to latents; and the variance kept."""
    patches = images
    for _ in range(halvings):
        n, height, width, held = patches.shape
        blocks = patches.reshape(n, height // 2, 2, width // 2, 2, held).transpose(0, 1, 3, 2, 4, 5)
        patches = blocks.reshape(n, height // 2, width // 2, 4 * held)
    patches = patches.reshape(-1, patches.shape[-1]).astype(np.float64)
    mean = patches.mean(0)
    variances, vectors = np.linalg.eigh(np.cov(patches - mean, rowvar=False))
    order = np.argsort(variances)[::-1][:count]
    deviations = np.sqrt(variances[order])
    wanted = deviations**spread
    wanted /= np.sqrt(np.square(wanted).mean())
    projection = vectors[:, order] * (wanted / deviations)
    return projection, -mean @ projection, float(variances[order].sum() / variances.sum())
