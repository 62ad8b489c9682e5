"""Alignments: ways to keep generated images faithful to their labels.

An `Alignment` says how sampling starts, what it is conditioned on, and how the images are finished. The paper
(arXiv 2403.15309) uses ControlNet for depth, `controlnet_depth`, and inpainting for classification,
`inpaint`. `controlnet` serves any other condition.

An alignment takes what it needs from a batch. The names that these alignments know:

- `image` float `[B,H,W,3]` in [0,1]: the original image.
- `depth` float `[B,H,W,1]` in [0,1], and `mask` boolean `[B,H,W,1]`, True = valid depth.
- `keep` boolean `[B,H,W,1]`, True = keep the original's pixel.
"""

from collections.abc import Callable
from typing import NamedTuple

import jax
import jax.numpy as jnp

from gap_jax.checks import expect_shape
from gap_jax.data.batch import Batch, HostBatch
from gap_jax.diffusion.conditions import depth_condition
from gap_jax.diffusion.pipeline import Params, Pipeline
from gap_jax.diffusion.sampler import DO_ALL, Economy, Keep
from gap_jax.diffusion.schedule import Solver, ddim

Condition = Callable[[Batch], jax.Array]  # from a batch to what a ControlNet sees of it


class Sampling(NamedTuple):
    """The settings of the sampler, passed on to `Pipeline.denoise`.

    - `num_steps`: solver steps over the whole schedule.
    - `guidance_scale`: scale of classifier-free guidance (Ho & Salimans, arXiv 2207.12598); 1 is no guidance.
    - `eta`: DDIM's noise, from 0 (deterministic) to 1 (ancestral sampling).
    - `solver`: `ddim`, `dpm_solver`, `euler` or `lcm`.
    - `economy`: the steps that are not guided, and those that are not differentiated.

    The defaults are the paper's for optimising depth prompts.
    """

    num_steps: int = 5
    guidance_scale: float = 7.0
    eta: float = 0.0
    solver: Solver = ddim
    economy: Economy = DO_ALL


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
    - `control_scale`: multiplier of the ControlNet's residuals, or one for each ControlNet.
    """

    start: Callable[[Pipeline, Params, Batch, jax.Array, Sampling], Start]
    finish: Callable[[jax.Array, Batch], jax.Array] = lambda images, batch: images
    strength: float = 1.0
    control_scale: float | tuple[float, ...] = 1.0


def controlnet(
    *conditions: Condition, strength: float = 1.0, control_scale: float | tuple[float, ...] = 1.0
) -> Alignment:
    """Return an alignment that keeps what ControlNets see: ControlNet (Zhang et al., arXiv 2302.05543).

    - `conditions`: one function per ControlNet of the pipeline, in their order. It takes the batch and
      returns the condition, float `[B,H,W,3]` in [0,1], at the images' size: `lambda batch:
      class_condition(batch["classes"])`. See `gap_jax.diffusion.conditions`.
    - `strength` in (0,1]: below 1, generation starts from the batch's `image` too (SDEdit).
    - `control_scale`: the multiplier of the ControlNets' residuals, one for all or one each.

    `Pipeline.denoise` raises ValueError if the pipeline has another number of ControlNets, or a condition
    another shape.
    """

    def start(pipe, params, batch, keys, sampling):
        control = see(batch, conditions)
        noise = first_noise(pipe, control, keys)
        if strength == 1:
            return Start(noise, control)
        source = pipe.encode_image(params, batch["image"], fold_keys(keys, "encode"))
        return Start(sdedit_start(pipe, source, noise, strength, sampling), control)

    return Alignment(start, strength=strength, control_scale=control_scale)


def controlnet_depth(strength: float = 1.0, control_scale: float = 1.0) -> Alignment:
    """Return an alignment that keeps the depth of a scene, by ControlNet.

    The ControlNet sees `depth_condition` of the batch's `depth` and `mask`. The arguments are `controlnet`'s.
    """
    return controlnet(see_depth, strength=strength, control_scale=control_scale)


def inpaint(
    strength: float = 1.0,
    paste: bool = False,
    *,
    conditions: tuple[Condition, ...] = (),
    control_scale: float | tuple[float, ...] = 1.0,
) -> Alignment:
    """Return an alignment that keeps the batch's `image` where `keep` is True and generates the rest.

    An inpainting UNet (9 channels; Rombach et al., arXiv 2112.10752) sees the mask and the masked image.
    With any other UNet, the kept latents are put back after each step (RePaint, Lugmayr et al., arXiv
    2201.09865, without its resampling).

    - `strength` in (0,1]: SDEdit's, as in `Alignment`.
    - `paste`: copy the kept pixels of the original into the result, so that they are exactly the same.
      Otherwise they pass through the VAE, which changes them a little.
    - `conditions`, `control_scale`: for a pipeline that has ControlNets besides, as in `controlnet`.
    """

    def start(pipe, params, batch, keys, sampling):
        image, keep = batch["image"], batch["keep"]
        expect_shape("keep", keep, (*image.shape[:3], 1), "a mask has the size of its image")
        noise = first_noise(pipe, image, keys)
        encode_keys = fold_keys(keys, "encode")
        source = pipe.encode_image(params, image, encode_keys)
        mask = latent_mask(keep, pipe.downscale)
        latents = noise if strength == 1 else sdedit_start(pipe, source, noise, strength, sampling)
        control = see(batch, conditions) if conditions else None
        if pipe.inpaints:
            masked = pipe.encode_image(params, jnp.where(keep, image, 0.5), encode_keys)
            return Start(latents, control, Keep(mask, masked, None))
        return Start(latents, control, Keep(mask, source, noise))

    def finish(images, batch):
        return jnp.where(batch["keep"], batch["image"], images) if paste else images

    return Alignment(start, finish, strength, control_scale)


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
    - `uncond` float `[1,L,D]`: the states of the negative prompt. None, or a guidance scale of 1: there is no
      guidance, and each step passes through the network once instead of twice.
    - `batch`: the arrays that the alignment reads; the module's docstring lists them.
    - `keys` `[B]`: one per image. An image depends on its own key and row, not on the rest of the batch.

    A pure function, differentiable to `context`. Raises ValueError for shapes that do not fit, before it
    compiles.
    """
    start = alignment.start(pipe, params, batch, keys, sampling)
    if isinstance(sampling.guidance_scale, int | float) and sampling.guidance_scale == 1:
        uncond = None
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
        economy=sampling.economy,
    )
    return alignment.finish(pipe.decode(params, latents), batch)


def check_alignment(
    pipe: Pipeline, params: Params, batch: Batch | HostBatch, alignment: Alignment, sampling: Sampling
) -> None:
    """Raise ValueError if `generate` would refuse a batch like this one. Nothing is computed.

    Shapes and dtypes alone count: `params` and `batch` may be trees of `jax.ShapeDtypeStruct`. The error is
    that of `generate`, or names the array that the alignment reads and the batch does not have.
    """

    def start(params: Params, batch: Batch, keys: jax.Array) -> jax.Array:
        start = alignment.start(pipe, params, batch, keys, sampling)
        text = pipe.text_encoder
        context = jnp.zeros((len(keys), text.max_position_embeddings, text.hidden_size))
        pipe.check_inputs(
            start.latents,
            context,
            None,
            sampling.eta,
            fold_keys(keys, "denoise"),
            start.control,
            alignment.control_scale,
            start.keep,
        )
        size = (side * pipe.downscale for side in start.latents.shape[1:3])
        return alignment.finish(jnp.zeros((len(keys), *size, pipe.vae.in_channels)), batch)

    sampling.solver(pipe.schedule, sampling.num_steps, alignment.strength, sampling.eta)
    sampling.economy.check()
    count = jax.tree.leaves(batch)[0].shape[0]
    keys = jax.eval_shape(lambda: jax.random.split(jax.random.key(0), count))
    try:
        jax.eval_shape(start, params, batch, keys)
    except KeyError as error:
        raise ValueError(
            f"the alignment reads the array {error}, which the examples do not have; they have "
            f"{', '.join(batch)}: add it to them, or give the task another alignment"
        ) from error


def latent_mask(mask: jax.Array, downscale: int) -> jax.Array:
    """Return a mask of pixels, boolean `[B,H,W,1]`, at the latents' size `[B,H/f,W/f,1]`, f = `downscale`.

    A latent takes the value of its first pixel (nearest neighbour), as in diffusers' inpainting pipeline.
    """
    return mask[:, ::downscale, ::downscale]


def fold_keys(keys: jax.Array, purpose: str) -> jax.Array:
    """Return keys for a purpose, "noise", "encode", "denoise" or "terms", from those of the images; `[B]`."""
    number = {"noise": 0, "encode": 1, "denoise": 2, "terms": 3}[purpose]
    return jax.vmap(lambda key: jax.random.fold_in(key, number))(keys)


def see_depth(batch: Batch) -> jax.Array:
    """Return `depth_condition` of the batch's `depth` and `mask`."""
    return depth_condition(batch["depth"], batch["mask"])


def see(batch: Batch, conditions: tuple[Condition, ...]) -> jax.Array:
    """Return what n ControlNets see of a batch, float `[B,H,W,3n]`: their conditions, one after the other."""
    seen = [condition(batch) for condition in conditions]
    return seen[0] if len(seen) == 1 else jnp.concatenate(seen, -1)


def first_noise(pipe: Pipeline, images: jax.Array, keys: jax.Array) -> jax.Array:
    """Draw standard normal latents for images of the size of `images` `[B,H,W,…]`, by `keys` `[B]`."""
    height, width = (side // pipe.downscale for side in images.shape[1:3])
    shape = (height, width, pipe.vae.latent_channels)
    return jax.vmap(lambda key: jax.random.normal(key, shape))(fold_keys(keys, "noise"))


def sdedit_start(
    pipe: Pipeline, source: jax.Array, noise: jax.Array, strength: float, sampling: Sampling
) -> jax.Array:
    """Noise `source`, scaled latents `[B,h,w,C]`, to where sampling of this strength begins (SDEdit)."""
    return pipe.add_noise(
        source, noise, num_steps=sampling.num_steps, strength=strength, solver=sampling.solver
    )
