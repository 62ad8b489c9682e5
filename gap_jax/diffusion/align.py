"""Alignments: ways to keep generated images faithful to their labels.

An `Alignment` says how sampling starts, what it is conditioned on, and how the images are finished. The paper
(arXiv 2403.15309) uses ControlNet for depth, `controlnet_depth`, and inpainting for classification,
`inpaint`.

An alignment takes what it needs from a batch:

- `image` float `[B,H,W,3]` in [0,1]: the original image.
- `depth` float `[B,H,W,1]` in [0,1], and `mask` boolean `[B,H,W,1]`, True = valid depth.
- `keep` boolean `[B,H,W,1]`, True = keep the original's pixel.
"""

from collections.abc import Callable
from typing import NamedTuple

import jax
import jax.numpy as jnp

from gap_jax.data.batch import Batch
from gap_jax.diffusion.pipeline import Params, Pipeline
from gap_jax.diffusion.sampler import Keep
from gap_jax.diffusion.schedule import Solver, ddim


class Sampling(NamedTuple):
    """The settings of the sampler, passed on to `Pipeline.denoise`.

    - `num_steps`: solver steps over the whole schedule.
    - `guidance_scale`: scale of classifier-free guidance (Ho & Salimans, arXiv 2207.12598); 1 is no guidance.
    - `eta`: DDIM's noise, from 0 (deterministic) to 1 (ancestral sampling).
    - `solver`: `ddim` or `dpm_solver`.
    - `backprop_steps`: gradients go through that many last steps (DRaFT-K, arXiv 2309.17400); None: all.

    The defaults are the paper's for optimising depth prompts.
    """

    num_steps: int = 5
    guidance_scale: float = 7.0
    eta: float = 0.0
    solver: Solver = ddim
    backprop_steps: int | None = None


class Start(NamedTuple):
    """The arguments of `Pipeline.denoise` that come from a batch."""

    latents: jax.Array
    control: jax.Array | None = None
    keep: Keep | None = None


class Alignment(NamedTuple):
    """A way to keep generated images faithful to the labels of a batch.

    - `start(pipe, params, batch, keys, sampling)`: returns a `Start`, the first latents and their conditions.
      `keys` `[B]` are one per image.
    - `finish(images, batch)`: maps the decoded `images` `[B,H,W,3]` in [0,1] to the final images.
    - `strength` in (0,1]: SDEdit's (Meng et al., arXiv 2108.01073). 1 starts from pure noise; a smaller
      strength starts from the noised original and runs the last `⌊num_steps · strength⌋` steps only.
    - `control_scale`: multiplier of the ControlNet's residuals.
    """

    start: Callable[[Pipeline, Params, Batch, jax.Array, Sampling], Start]
    finish: Callable[[jax.Array, Batch], jax.Array] = lambda images, batch: images
    strength: float = 1.0
    control_scale: float = 1.0


def controlnet_depth(strength: float = 1.0, control_scale: float = 1.0) -> Alignment:
    """Return an alignment that keeps the depth of a scene: ControlNet (Zhang et al., arXiv 2302.05543).

    The ControlNet sees `depth_condition` of the batch's `depth` and `mask`. With `strength` < 1, generation
    starts from the batch's `image` too (SDEdit). `strength` in (0,1] and `control_scale` as in `Alignment`.
    The pipeline must have a ControlNet; `Pipeline.denoise` raises ValueError otherwise.
    """

    def start(pipe, params, batch, keys, sampling):
        noise = _first_noise(pipe, batch["depth"], keys)
        control = depth_condition(batch["depth"], batch["mask"])
        if strength == 1:
            return Start(noise, control)
        source = pipe.encode_image(params, batch["image"], fold_keys(keys, "encode"))
        return Start(_sdedit_start(pipe, source, noise, strength, sampling), control)

    return Alignment(start, strength=strength, control_scale=control_scale)


def inpaint(strength: float = 1.0, paste: bool = False) -> Alignment:
    """Return an alignment that keeps the batch's `image` where `keep` is True and generates the rest.

    An inpainting UNet (9 channels; Rombach et al., arXiv 2112.10752) sees the mask and the masked image.
    With any other UNet, the kept latents are put back after each step (RePaint, Lugmayr et al., arXiv
    2201.09865, without its resampling).

    - `strength` in (0,1]: SDEdit's, as in `Alignment`.
    - `paste`: copy the kept pixels of the original into the result, so that they are exactly the same.
      Otherwise they pass through the VAE, which changes them a little.
    """

    def start(pipe, params, batch, keys, sampling):
        image, keep = batch["image"], batch["keep"]
        noise = _first_noise(pipe, image, keys)
        encode_keys = fold_keys(keys, "encode")
        source = pipe.encode_image(params, image, encode_keys)
        mask = latent_mask(keep, pipe.downscale)
        latents = noise if strength == 1 else _sdedit_start(pipe, source, noise, strength, sampling)
        if pipe.inpaints:
            masked = pipe.encode_image(params, jnp.where(keep, image, 0.5), encode_keys)
            return Start(latents, keep=Keep(mask, masked, None))
        return Start(latents, keep=Keep(mask, source, noise))

    def finish(images, batch):
        return jnp.where(batch["keep"], batch["image"], images) if paste else images

    return Alignment(start, finish, strength)


def generate(
    pipe: Pipeline,
    params: Params,
    context: jax.Array,
    uncond: jax.Array | None,
    batch: Batch,
    keys: jax.Array,
    alignment: Alignment,
    sampling: Sampling,
) -> jax.Array:
    """Generate an image for each row of a batch, faithful to its label: float32 `[B,H,W,3]` in [0,1].

    - `context` float `[B or 1,L,D]`: the prompt's states, as `Pipeline.encode_text` returns them.
    - `uncond` float `[1,L,D]`: the states of the negative prompt, or None for no guidance.
    - `batch`: the arrays that the alignment reads; the module's docstring lists them.
    - `keys` `[B]`: one per image. An image depends on its own key and row, not on the rest of the batch.

    A pure function, differentiable to `context`. Raises ValueError for shapes that do not fit, before it
    compiles.
    """
    start = alignment.start(pipe, params, batch, keys, sampling)
    latents = pipe.denoise(
        params,
        start.latents,
        jnp.broadcast_to(context, (len(keys), *context.shape[1:])),
        uncond,
        num_steps=sampling.num_steps,
        guidance_scale=sampling.guidance_scale,
        strength=alignment.strength,
        eta=sampling.eta,
        key=fold_keys(keys, "denoise"),
        control=start.control,
        control_scale=alignment.control_scale,
        keep=start.keep,
        solver=sampling.solver,
        backprop_steps=sampling.backprop_steps,
    )
    return alignment.finish(pipe.decode(params, latents), batch)


def depth_condition(depth: jax.Array, mask: jax.Array) -> jax.Array:
    """Return ControlNet's condition of a depth map, float `[B,H,W,3]`: near is bright, invalid is black.

    `depth` float `[B,H,W,1]` in [0,1]; `mask` boolean `[B,H,W,1]`, True = valid. The condition is 1 - depth,
    min-max normalised to [0,1] over the valid pixels of each image, and 0 elsewhere.
    """
    near = 1 - depth
    low = jnp.min(near, (1, 2, 3), keepdims=True, where=mask, initial=jnp.inf)
    high = jnp.max(near, (1, 2, 3), keepdims=True, where=mask, initial=-jnp.inf)
    scaled = (near - low) / jnp.maximum(high - low, 1e-8)
    return jnp.repeat(jnp.where(mask, scaled, 0.0), 3, -1)


def latent_mask(mask: jax.Array, downscale: int) -> jax.Array:
    """Return a mask of pixels, boolean `[B,H,W,1]`, at the latents' size `[B,H/f,W/f,1]`, f = `downscale`.

    A latent takes the value of its first pixel (nearest neighbour), as in diffusers' inpainting pipeline.
    """
    return mask[:, ::downscale, ::downscale]


def fold_keys(keys: jax.Array, purpose: str) -> jax.Array:
    """Return keys `[B]` for a purpose ("noise", "encode", "denoise" or "terms"), from each image's own."""
    number = {"noise": 0, "encode": 1, "denoise": 2, "terms": 3}[purpose]
    return jax.vmap(lambda key: jax.random.fold_in(key, number))(keys)


def _first_noise(pipe: Pipeline, images: jax.Array, keys: jax.Array) -> jax.Array:
    """Draw standard normal latents for images of the size of `images`."""
    height, width = (side // pipe.downscale for side in images.shape[1:3])
    shape = (height, width, pipe.vae.latent_channels)
    return jax.vmap(lambda key: jax.random.normal(key, shape))(fold_keys(keys, "noise"))


def _sdedit_start(pipe, source, noise, strength, sampling):
    return pipe.add_noise(
        source, noise, num_steps=sampling.num_steps, strength=strength, solver=sampling.solver
    )
