"""Stable Diffusion as pure functions of its parameters."""

import dataclasses
from collections.abc import Sequence
from functools import partial

import jax
import jax.numpy as jnp
import numpy as np

from gap_jax.checks import expect_divisible, expect_float, expect_shape
from gap_jax.diffusion.sampler import DO_ALL, Economy, Keep, sample
from gap_jax.diffusion.schedule import Schedule, Solver, SolverCoefficients, ddim
from gap_jax.models.clip import CLIPTextModel
from gap_jax.models.controlnet import ControlNet, ControlNets
from gap_jax.models.layers import guidance_embedding, recomputes, row_by_row
from gap_jax.models.tokenizer import Tokenizer
from gap_jax.models.unet import UNet2DCondition
from gap_jax.models.vae import AutoencoderKL

Params = dict


@dataclasses.dataclass(frozen=True)
class Pipeline:
    """Stable Diffusion's networks, schedule and tokenizer, without their weights.

    It is frozen and hashable, so it can be a static argument of `jax.jit`. Its weights, `params`, are a plain
    dict with the keys `text_encoder`, `vae`, `unet` and, with a ControlNet, `controlnet`; `load_pipeline`
    returns both. Every method on arrays is jitted, checks its arguments before it compiles, and may be used
    inside `jit`, `grad`, `vmap` and `shard_map`.
    """

    text_encoder: CLIPTextModel
    vae: AutoencoderKL
    unet: UNet2DCondition
    controlnet: ControlNet | ControlNets | None
    schedule: Schedule
    tokenizer: Tokenizer

    @property
    def downscale(self) -> int:
        """The number of pixels per latent along a side."""
        return self.vae.downscale

    @property
    def inpaints(self) -> bool:
        """True if the UNet was trained to inpaint: its 9 channels include a mask and a masked image."""
        return self.unet.in_channels != self.vae.latent_channels

    @property
    def sees_guidance(self) -> bool:
        """True for a latent consistency model, whose UNet sees the scale of guidance itself."""
        return self.unet.time_cond_proj_dim is not None

    def tokenize(self, texts: Sequence[str], placeholders: int = 0) -> np.ndarray:
        """Return the token ids of `texts`, int32 `[B, 77]`; 77 is the text encoder's longest input.

        With `placeholders` n > 0, `<0>` to `<n-1>` in a text name placeholder tokens, whose ids follow the
        vocabulary's. A text that is too long is cut, and one warning quotes what was cut. The name of a
        textual inversion that the pipeline was saved with stands for all of its vectors, as in diffusers.
        Raises ValueError for a placeholder out of range, TypeError for a single string.
        """
        text = self.text_encoder
        return self.tokenizer.encode(
            texts,
            length=text.max_position_embeddings,
            vocab_size=text.vocab_size,
            placeholders=placeholders,
            expand_inversions=True,
        )

    def encode_text(
        self, params: Params, token_ids: jax.Array | np.ndarray, placeholders: jax.Array | None = None
    ) -> jax.Array:
        """Return the text encoder's last hidden state, float32 `[B,L,D]`.

        - `token_ids` int `[B,L]`, as `tokenize` returns them. An id beyond the vocabulary stands for a row of
          `placeholders`.
        - `placeholders` float `[n,D]`: embeddings, to which the result is differentiable.

        Raises ValueError for a wrong shape, and for an id out of range if the ids are not traced.
        """
        text = self.text_encoder
        expect_shape("token_ids", token_ids, (None, None))
        if token_ids.shape[1] > text.max_position_embeddings:
            raise ValueError(
                f"token_ids have length {token_ids.shape[1]}, but the text encoder takes at most "
                f"{text.max_position_embeddings}: make them with Pipeline.tokenize, which cuts long texts"
            )
        if placeholders is not None:
            expect_shape("placeholders", placeholders, (None, text.hidden_size))
        if not isinstance(token_ids, jax.core.Tracer):
            count = 0 if placeholders is None else len(placeholders)
            low, high = int(np.min(token_ids, initial=0)), int(np.max(token_ids, initial=0))
            if low < 0 or high >= text.vocab_size + count:
                raise ValueError(
                    f"token id {low if low < 0 else high} is out of range: the vocabulary has "
                    f"{text.vocab_size} tokens, followed by {count} placeholders; give a row of placeholders "
                    "for every placeholder token"
                )
        return self._encode_text(params, token_ids, placeholders)

    @partial(jax.jit, static_argnames="self")
    def _encode_text(self, params, token_ids, placeholders):
        variables = {"params": params["text_encoder"]}
        return self.text_encoder.apply(variables, token_ids, placeholders).last_hidden_state

    def encode_image(
        self, params: Params, images: jax.Array | np.ndarray, key: jax.Array | None = None
    ) -> jax.Array:
        """Encode images to scaled latents, float32 `[B,H/f,W/f,C]`, where f is `downscale`.

        - `images` float `[B,H,W,3]` in [0,1], H and W divisible by f.
        - `key`: one key or `[B]` keys to draw a sample of the posterior; None: return the posterior's mean.

        Raises ValueError for another shape or dtype.
        """
        expect_shape("images", images, (None, None, None, self.vae.in_channels))
        expect_float("images", images)
        expect_divisible("images", images, self.downscale)
        return self._encode_image(params, images, _keys_per_image(key, len(images)))

    @partial(jax.jit, static_argnames="self")
    def _encode_image(self, params, images, keys):
        posterior = self.vae.apply({"params": params["vae"]}, 2 * images - 1, method="encode")
        latents = posterior.mean
        if keys is not None:
            noise = jax.vmap(lambda key: jax.random.normal(key, latents.shape[1:]))(keys)
            latents += jnp.exp(posterior.logvar / 2) * noise
        return latents * self.vae.scaling_factor

    def decode(self, params: Params, latents: jax.Array) -> jax.Array:
        """Decode scaled latents `[B,h,w,C]` to images, float32 `[B,H,W,3]`, clipped to [0,1]."""
        expect_shape("latents", latents, (None, None, None, self.vae.latent_channels))
        return self._decode(params, latents)

    @partial(jax.jit, static_argnames="self")
    def _decode(self, params, latents):
        def decode(params, latents):
            return self.vae.apply({"params": params}, latents / self.vae.scaling_factor, method="decode")

        again = recomputes(self.vae.recompute, latents.shape[1:3])
        images = (partial(row_by_row, decode) if again else decode)(params["vae"], latents)
        return jnp.clip(images / 2 + 0.5, 0, 1)

    def add_noise(
        self, source: jax.Array, noise: jax.Array, *, num_steps: int, strength: float, solver: Solver = ddim
    ) -> jax.Array:
        """Noise `source` to the first step of `denoise`: SDEdit's start (Meng et al., arXiv 2108.01073).

        `source` (scaled latents) and `noise` (standard normal) are float `[B,h,w,C]`; the other arguments are
        those that `denoise` will be given. Raises ValueError for another shape or a value out of range.
        """
        expect_shape("source", source, (None, None, None, self.vae.latent_channels))
        expect_shape("noise", noise, source.shape)
        coefficients = solver(self.schedule, num_steps, strength, 0.0)
        return coefficients.alpha[0] * source + coefficients.sigma[0] * noise

    def denoise(
        self,
        params: Params,
        latents: jax.Array,
        context: jax.Array,
        uncond: jax.Array | None,
        *,
        num_steps: int,
        guidance_scale: float,
        strength: float = 1.0,
        eta: float = 0.0,
        key: jax.Array | None = None,
        control: jax.Array | None = None,
        control_scale: float | tuple[float, ...] = 1.0,
        keep: tuple[jax.Array, jax.Array, jax.Array | None] | None = None,
        solver: Solver = ddim,
        economy: Economy = DO_ALL,
    ) -> jax.Array:
        """Denoise latents: return the latents of clean images, float32 `[B,h,w,C]`.

        - `latents` float `[B,h,w,C]`: standard normal noise or, with `strength` < 1, what `add_noise`
          returns.
        - `context` `[B,L,D]` and `uncond` `[B or 1,L,D]`: states of the prompt and of the negative prompt.
          Classifier-free guidance is `e_uncond + guidance_scale (e_context - e_uncond)`. With `uncond` None
          there is no guidance. A latent consistency model (`sees_guidance`) is told the scale instead, and
          `uncond` plays no part.
        - `num_steps` ≥ 1 steps over the whole schedule; `strength` in (0,1] keeps the last `⌊num_steps ·
          strength⌋`. `solver` is `ddim`, with `eta` in [0,1], `dpm_solver`, `euler` or `lcm`.
        - `key`: one key or `[B]` keys, needed if `eta` > 0, and for `lcm`. A single key is split into B. Step
          i of image b draws `normal(fold_in(key[b], i))`.
        - `control` float `[B,H,W,3]` in [0,1], of the images' size: the condition of the ControlNet. A
          pipeline with a ControlNet needs it; any other refuses it. With n ControlNets it is `[B,H,W,3n]`,
          their conditions one after the other. `control_scale` multiplies the residuals: a number, or a tuple
          of n numbers.
        - `keep` `(mask, source, noise)`: the region that inpainting keeps, see `sampler.Keep`. `mask` boolean
          `[B,h,w,1]`, True = keep; `source` the scaled latents to keep; `noise` the noise that `latents`
          began with. After each step, the kept latents are replaced by the source's at the next noise level.
          An inpainting UNet (9 channels) sees mask and source instead: `source` is then the latents of the
          image whose other pixels are grey, 0.5, and `noise` is not used.
        - `economy`: the steps that are not guided, and those that are not differentiated; see
          `sampler.Economy`.

        Differentiable to `context`, `uncond`, `latents` and `control`. The memory of the gradient does not
        grow with the number of steps. Raises ValueError for shapes and values that do not fit, before it
        compiles.
        """
        coefficients = solver(self.schedule, num_steps, strength, eta)
        keep = None if keep is None else Keep(*keep)
        economy.check()
        self.check_inputs(latents, context, uncond, eta, key, control, control_scale, keep)
        uncond = None if self.sees_guidance else uncond
        draws = bool(np.any(coefficients.noise))
        if draws and key is None:
            raise ValueError("the solver draws noise between its steps: give a key")
        keys = _keys_per_image(key, len(latents)) if draws else None
        return self._denoise(
            params,
            latents,
            context,
            uncond,
            jnp.asarray(guidance_scale, jnp.float32),
            keys,
            control,
            jnp.asarray(control_scale, jnp.float32),
            keep,
            coefficients,
            economy,
        )

    @partial(jax.jit, static_argnames=("self", "economy"))
    def _denoise(
        self,
        params: Params,
        latents: jax.Array,
        context: jax.Array,
        uncond: jax.Array | None,
        guidance_scale: jax.Array,
        keys: jax.Array | None,
        control: jax.Array | None,
        control_scale: jax.Array,
        keep: Keep | None,
        coefficients: SolverCoefficients,
        economy: Economy,
    ) -> jax.Array:
        states = {1: context}  # by the number of branches, without and with guidance
        if uncond is not None:
            states[2] = jnp.concatenate([jnp.broadcast_to(uncond, context.shape), context])

        told = None
        if self.unet.time_cond_proj_dim is not None:
            scales = jnp.broadcast_to(guidance_scale, (len(latents),))
            told = guidance_embedding(scales, self.unet.time_cond_proj_dim)

        def predict(x, timestep, guided):
            branches = 2 if guided and uncond is not None else 1
            context = states[branches]

            def per_branch(x):
                return jnp.concatenate([x] * branches)

            x = per_branch(x)
            residuals = None
            if self.controlnet is not None:
                variables = {"params": params["controlnet"]}
                residuals = self.controlnet.apply(
                    variables, x, timestep, context, per_branch(control), control_scale
                )
            if self.inpaints and keep is not None:
                repaint = 1 - keep.mask.astype(x.dtype)
                x = jnp.concatenate([x, per_branch(repaint), per_branch(keep.source)], -1)
            output = self.unet.apply({"params": params["unet"]}, x, timestep, context, residuals, told)
            output = output.astype(jnp.float32)
            if branches == 1:
                return output
            negative, positive = jnp.split(output, 2)
            return negative + guidance_scale * (positive - negative)

        return sample(
            predict,
            latents,
            coefficients,
            prediction_type=self.schedule.prediction_type,
            keys=keys,
            keep=None if self.inpaints else keep,
            economy=economy,
        )

    def check_inputs(
        self,
        latents: jax.Array,
        context: jax.Array,
        uncond: jax.Array | None,
        eta: float,
        key: jax.Array | None,
        control: jax.Array | None,
        control_scale: float | tuple[float, ...],
        keep: Keep | None,
    ) -> None:
        """Raise ValueError for arguments of `denoise` that do not fit the pipeline or each other."""
        expect_shape("latents", latents, (None, None, None, self.vae.latent_channels))
        batch, height, width, _ = latents.shape
        expect_shape("context", context, (batch, None, self.unet.cross_attention_dim))
        if uncond is not None:
            rows = 1 if uncond.shape[0] == 1 else batch
            expect_shape("uncond", uncond, (rows, *context.shape[1:]))
        if not 0 <= eta <= 1:
            raise ValueError(f"eta must be in [0, 1], found {eta}")
        if eta > 0 and key is None:
            raise ValueError(f"eta {eta} draws noise at every step: give a key, or eta=0")
        if (self.controlnet is None) != (control is None):
            raise ValueError(
                "control given, but the pipeline has no ControlNet: load one with gap_jax.add_controlnet, or "
                "by the option controlnet"
                if self.controlnet is None
                else "the pipeline has a ControlNet: give its condition as control, or a pipeline without it"
            )
        if control is not None and self.controlnet is not None:
            factor = self.downscale
            image = (batch, height * factor, width * factor, self.controlnet.conditioning_channels)
            count = len(self.controlnet.networks) if isinstance(self.controlnet, ControlNets) else 1
            several = "1 ControlNet: give" if count == 1 else f"{count} ControlNets: give each of them"
            expect_shape("control", control, image, f"the pipeline has {several} one condition of this size")
            expect_float("control", control)
            if isinstance(control_scale, tuple) and (len(control_scale) != count or count == 1):
                raise ValueError(
                    f"control_scale must be a number or, with several ControlNets, a tuple of as many; found "
                    f"{len(control_scale)} numbers for {count}"
                )
        if self.inpaints and keep is None:
            raise ValueError("the UNet is an inpainting one (9 channels): give keep=(mask, source, None)")
        if keep is not None:
            expect_shape("keep's mask", keep.mask, (batch, height, width, 1))
            if keep.mask.dtype != bool:
                raise ValueError(f"keep's mask must be boolean, True = keep; found {keep.mask.dtype}")
            expect_shape("keep's source", keep.source, latents.shape)
            if not self.inpaints:
                if keep.noise is None:
                    raise ValueError(
                        "keep's noise is missing: give keep=(mask, source, noise) with the noise that "
                        "latents began with"
                    )
                expect_shape("keep's noise", keep.noise, latents.shape)


def _keys_per_image(key: jax.Array | None, batch: int) -> jax.Array | None:
    """Return a key for each image of a batch: the given ones, or those split from a single key."""
    if key is None:
        return None
    if not jnp.issubdtype(key.dtype, jax.dtypes.prng_key):
        raise ValueError(f"key must be made by jax.random.key (not PRNGKey), found an array of {key.dtype}")
    if key.ndim == 0:
        return jax.random.split(key, batch)
    expect_shape("key", key, (batch,), "give one key, or one for each image")
    return key
