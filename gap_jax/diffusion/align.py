"""Images that stay faithful to their labels: how generation starts, what it is conditioned on, how it ends.

An `Alignment` is a value made of functions. It reads from a batch, a dict of arrays, what it needs:
`image` float `[B,H,W,3]` in [0,1], the original; `depth` float `[B,H,W,1]` in [0,1] with `mask` boolean
`[B,H,W,1]`, True = valid; `keep` boolean `[B,H,W,1]`, True = keep.
"""

from collections.abc import Callable, Mapping
from typing import NamedTuple

import jax
import jax.numpy as jnp

from gap_jax.diffusion.pipeline import Params, Pipeline
from gap_jax.diffusion.sampler import Keep
from gap_jax.diffusion.schedule import Solver, ddim

Batch = Mapping[str, jax.Array]


class Sampling(NamedTuple):
    """How images are sampled; see `Pipeline.denoise`. Defaults: the paper's for optimising depth prompts."""

    num_steps: int = 5
    guidance_scale: float = 7.0
    eta: float = 0.0
    solver: Solver = ddim
    backprop_steps: int | None = None


class Start(NamedTuple):
    """Arguments of `Pipeline.denoise` that come from a batch."""

    latents: jax.Array
    control: jax.Array | None = None
    keep: Keep | None = None


class Alignment(NamedTuple):
    """`start(pipe, params, batch, keys, sampling) -> Start`, `finish(images, batch) -> images`."""

    start: Callable[[Pipeline, Params, Batch, jax.Array, Sampling], Start]
    finish: Callable[[jax.Array, Batch], jax.Array] = lambda images, batch: images
    strength: float = 1.0
    control_scale: float = 1.0


def controlnet_depth(strength: float = 1.0, control_scale: float = 1.0) -> Alignment:
    """ControlNet on the batch's `depth` and `mask`; with `strength` < 1, SDEdit from its `image`."""

    def start(pipe, params, batch, keys, sampling):
        noise = _noise(pipe, batch["depth"], keys)
        control = depth_condition(batch["depth"], batch["mask"])
        if strength == 1:
            return Start(noise, control)
        source = pipe.encode_image(params, batch["image"], fold_keys(keys, "encode"))
        return Start(_noised(pipe, source, noise, strength, sampling), control)

    return Alignment(start, strength=strength, control_scale=control_scale)


def inpaint(strength: float = 1.0, paste: bool = False) -> Alignment:
    """Keep the batch's `image` where `keep` is True; SDEdit with `strength` < 1.

    `paste`: the kept pixels of the result are the original's, exactly.
    """

    def start(pipe, params, batch, keys, sampling):
        image, keep = batch["image"], batch["keep"]
        noise = _noise(pipe, image, keys)
        encode_keys = fold_keys(keys, "encode")
        source = pipe.encode_image(params, image, encode_keys)
        mask = latent_mask(keep, pipe.downscale)
        latents = noise if strength == 1 else _noised(pipe, source, noise, strength, sampling)
        if pipe.inpaints:
            hidden = pipe.encode_image(params, jnp.where(keep, image, 0.5), encode_keys)
            return Start(latents, keep=Keep(mask, hidden, None))
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
    """Images `[B,H,W,3]` in [0,1] of a batch's labels under a prompt; pure, differentiable to `context`.

    `context` `[B or 1,L,D]`, `uncond` `[1,L,D]`; `keys` `[B]`: an image depends on its own key alone, not on
    the batch it is made in.
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
    """ControlNet's depth condition: near is bright, invalid is black.

    `depth` float `[B,H,W,1]` in [0,1], `mask` boolean `[B,H,W,1]`, True = valid. Returns `[B,H,W,3]`:
    1 - depth over valid pixels, min-max normalised per image to [0,1]; elsewhere 0.
    """
    near = 1 - depth
    low = jnp.min(near, (1, 2, 3), keepdims=True, where=mask, initial=jnp.inf)
    high = jnp.max(near, (1, 2, 3), keepdims=True, where=mask, initial=-jnp.inf)
    scaled = (near - low) / jnp.maximum(high - low, 1e-8)
    return jnp.repeat(jnp.where(mask, scaled, 0.0), 3, -1)


def latent_mask(mask: jax.Array, downscale: int) -> jax.Array:
    """A mask of images `[B,H,W,1]` at the size of their latents `[B,H/f,W/f,1]`, by nearest neighbour."""
    return mask[:, ::downscale, ::downscale]


def fold_keys(keys: jax.Array, purpose: str) -> jax.Array:
    """Keys `[B]` for a purpose, from each image's own."""
    number = {"noise": 0, "encode": 1, "denoise": 2, "terms": 3}[purpose]
    return jax.vmap(lambda key: jax.random.fold_in(key, number))(keys)


def _noise(pipe: Pipeline, like: jax.Array, keys: jax.Array) -> jax.Array:
    height, width = (side // pipe.downscale for side in like.shape[1:3])
    shape = (height, width, pipe.vae.latent_channels)
    return jax.vmap(lambda key: jax.random.normal(key, shape))(fold_keys(keys, "noise"))


def _noised(pipe, source, noise, strength, sampling):
    return pipe.add_noise(
        source, noise, num_steps=sampling.num_steps, strength=strength, solver=sampling.solver
    )
