"""Stable Diffusion as pure functions of its parameters."""

import dataclasses
from collections.abc import Sequence
from functools import partial

import jax
import jax.numpy as jnp
import numpy as np

from gap_jax.diffusion.sampler import Keep, sample
from gap_jax.diffusion.schedule import Schedule, Solver, SolverCoefficients, ddim
from gap_jax.models.clip import CLIPTextModel
from gap_jax.models.controlnet import ControlNet
from gap_jax.models.tokenizer import Tokenizer
from gap_jax.models.unet import UNet2DCondition
from gap_jax.models.vae import AutoencoderKL

Params = dict


@dataclasses.dataclass(frozen=True)
class Pipeline:
    """Stable Diffusion's networks, schedule and tokenizer, without their weights.

    Frozen and hashable, so static under `jax.jit`. The weights are a plain dict with the keys
    `text_encoder`, `vae`, `unet` and, with a ControlNet, `controlnet`; `load_pipeline` returns both.
    Every method is jitted, checks its arguments' shapes before it compiles, and may be used inside
    `jit`, `grad`, `vmap` and `shard_map`.
    """

    text_encoder: CLIPTextModel
    vae: AutoencoderKL
    unet: UNet2DCondition
    controlnet: ControlNet | None
    schedule: Schedule
    tokenizer: Tokenizer

    @property
    def downscale(self) -> int:
        """Pixels per latent along a side."""
        return self.vae.downscale

    @property
    def inpaints(self) -> bool:
        """Whether the UNet was trained to inpaint: it sees a mask and a masked image too (9 channels)."""
        return self.unet.in_channels != self.vae.latent_channels

    def tokenize(self, texts: Sequence[str], placeholders: int = 0) -> np.ndarray:
        """Token ids, int32 `[B, 77]` (`max_position_embeddings`).

        With `placeholders` n > 0, `<0>` … `<n-1>` in a text name placeholder tokens; their ids follow the
        vocabulary's. A text that does not fit is cut, with one warning that quotes what was cut. Raises
        ValueError for a placeholder out of range.
        """
        text = self.text_encoder
        return self.tokenizer.encode(
            texts, length=text.max_position_embeddings, vocab_size=text.vocab_size, placeholders=placeholders
        )

    def encode_text(
        self, params: Params, token_ids: jax.Array, placeholders: jax.Array | None = None
    ) -> jax.Array:
        """The text encoder's last hidden state, float32 `[B,L,D]`.

        `token_ids` int `[B,L]`; ids from the vocabulary's size on stand for rows of `placeholders`, float
        `[n,D]`, to which the result is differentiable. Raises ValueError for an id out of range (unless
        traced, where ids cannot be seen) and for a wrong shape.
        """
        text = self.text_encoder
        _expect("token_ids", token_ids, (None, None))
        if token_ids.shape[1] > text.max_position_embeddings:
            raise ValueError(
                f"token_ids have length {token_ids.shape[1]}, the text encoder's is "
                f"{text.max_position_embeddings}"
            )
        if placeholders is not None:
            _expect("placeholders", placeholders, (None, text.hidden_size))
        if not isinstance(token_ids, jax.core.Tracer):
            count = 0 if placeholders is None else len(placeholders)
            low, high = int(np.min(token_ids, initial=0)), int(np.max(token_ids, initial=0))
            if low < 0 or high >= text.vocab_size + count:
                raise ValueError(
                    f"token id {low if low < 0 else high} is out of range: the vocabulary has "
                    f"{text.vocab_size} tokens, followed by {count} placeholders"
                )
        return self._encode_text(params, token_ids, placeholders)

    @partial(jax.jit, static_argnames="self")
    def _encode_text(self, params, token_ids, placeholders):
        variables = {"params": params["text_encoder"]}
        return self.text_encoder.apply(variables, token_ids, placeholders).last_hidden_state

    def encode_image(self, params: Params, images: jax.Array, key: jax.Array | None = None) -> jax.Array:
        """Scaled latents, float32 `[B,H/f,W/f,C]`: the posterior's mean or, given a key, a sample of it.

        `images` float `[B,H,W,3]` in [0,1], H and W divisible by `downscale`; `key` one or `[B]`.
        """
        _expect("images", images, (None, None, None, self.vae.in_channels))
        _expect_float("images", images)
        factor = self.downscale
        if images.shape[1] % factor or images.shape[2] % factor:
            raise ValueError(
                f"images of {images.shape[1]}x{images.shape[2]} pixels: both sides must be divisible by "
                f"{factor}"
            )
        return self._encode_image(params, images, _keys(key, len(images)))

    @partial(jax.jit, static_argnames="self")
    def _encode_image(self, params, images, keys):
        posterior = self.vae.apply({"params": params["vae"]}, 2 * images - 1, method="encode")
        latents = posterior.mean
        if keys is not None:
            noise = jax.vmap(lambda key: jax.random.normal(key, latents.shape[1:]))(keys)
            latents += jnp.exp(posterior.logvar / 2) * noise
        return latents * self.vae.scaling_factor

    def decode(self, params: Params, latents: jax.Array) -> jax.Array:
        """Images, float32 `[B,H,W,3]` clipped to [0,1], of scaled latents `[B,h,w,C]`."""
        _expect("latents", latents, (None, None, None, self.vae.latent_channels))
        return self._decode(params, latents)

    @partial(jax.jit, static_argnames="self")
    def _decode(self, params, latents):
        scaled = latents / self.vae.scaling_factor
        images = self.vae.apply({"params": params["vae"]}, scaled, method="decode")
        return jnp.clip(images / 2 + 0.5, 0, 1)

    def add_noise(
        self, source: jax.Array, noise: jax.Array, *, num_steps: int, strength: float, solver: Solver = ddim
    ) -> jax.Array:
        """SDEdit's start (Meng et al., arXiv 2108.01073): `source` noised to the first step that is used.

        `source` scaled latents and `noise` standard normal, both `[B,h,w,C]`; the other arguments as they
        will be given to `denoise`.
        """
        _expect("source", source, (None, None, None, self.vae.latent_channels))
        _expect("noise", noise, source.shape)
        table = solver(self.schedule, num_steps, strength, 0.0)
        return table.alpha[0] * source + table.sigma[0] * noise

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
        control_scale: float = 1.0,
        keep: tuple[jax.Array, jax.Array, jax.Array | None] | None = None,
        solver: Solver = ddim,
        backprop_steps: int | None = None,
    ) -> jax.Array:
        """Carry latents from noise to a clean image's, float32 `[B,h,w,C]`.

        - `latents` `[B,h,w,C]`: standard normal noise or, with `strength` < 1, what `add_noise` returns.
        - `context` `[B,L,D]`, `uncond` `[B or 1,L,D]`: states of the prompt and of the negative prompt;
          classifier-free guidance is `e_uncond + guidance_scale (e_context - e_uncond)`. `uncond` None: none.
        - `num_steps` ≥ 1 over the whole schedule, of which `strength` in (0,1] keeps the last `⌊num_steps ·
          strength⌋`. `solver`: `ddim` or `dpm_solver`, with DDIM's `eta` in [0,1].
        - `key`: one or `[B]`, needed where `eta` > 0; step i of image b draws `normal(fold_in(key[b], i))`
          (a single key is split into B).
        - `control` `[B,H,W,3]` in [0,1] at image size, needed by and only by a pipeline with a ControlNet,
          whose residuals are multiplied by `control_scale`.
        - `keep` `(mask, source, noise)`: inpainting. `mask` boolean `[B,h,w,1]`, True = keep; `source` scaled
          latents; `noise` the noise that `latents` began with. After each step the kept latents are
          replaced by the source's at the next noise level. An inpainting UNet (9 channels) sees mask and
          source instead, `source` being the latents of the image with what is not kept set to grey 0.5,
          and `noise` is not used.
        - `backprop_steps` K ≥ 1: differentiate through the last K steps only (DRaFT-K); None: all.

        Differentiable to `context`, `uncond`, `latents`, `control`. Memory of the gradient does not grow
        with the number of steps. Raises ValueError for shapes and values that do not fit, before it compiles.
        """
        table = solver(self.schedule, num_steps, strength, eta)
        keep = None if keep is None else Keep(*keep)
        if backprop_steps is not None and backprop_steps < 1:
            raise ValueError(f"backprop_steps must be at least 1, found {backprop_steps}")
        self._check(params, latents, context, uncond, eta, key, control, keep)
        keys = _keys(key, len(latents)) if eta > 0 else None
        return self._denoise(
            params,
            latents,
            context,
            uncond,
            guidance_scale,
            keys,
            control,
            control_scale,
            keep,
            table,
            backprop_steps,
        )

    @partial(jax.jit, static_argnames=("self", "backprop_steps"))
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
        table: SolverCoefficients,
        backprop_steps: int | None,
    ) -> jax.Array:
        branches = 1
        if uncond is not None:
            branches = 2
            context = jnp.concatenate([jnp.broadcast_to(uncond, context.shape), context])

        def both(x):
            return jnp.concatenate([x] * branches)

        def predict(x, timestep):
            x = both(x)
            residuals = None
            if self.controlnet is not None:
                variables = {"params": params["controlnet"]}
                residuals = self.controlnet.apply(
                    variables, x, timestep, context, both(control), control_scale
                )
            if self.inpaints:
                repaint = 1 - keep.mask.astype(x.dtype)
                x = jnp.concatenate([x, both(repaint), both(keep.source)], -1)
            output = self.unet.apply({"params": params["unet"]}, x, timestep, context, residuals)
            output = output.astype(jnp.float32)
            if uncond is None:
                return output
            negative, positive = jnp.split(output, 2)
            return negative + guidance_scale * (positive - negative)

        return sample(
            predict,
            latents,
            table,
            prediction_type=self.schedule.prediction_type,
            keys=keys,
            keep=None if self.inpaints else keep,
            backprop_steps=backprop_steps,
        )

    def _check(self, params, latents, context, uncond, eta, key, control, keep):
        channels = self.vae.latent_channels
        _expect("latents", latents, (None, None, None, channels))
        batch, height, width, _ = latents.shape
        _expect("context", context, (batch, None, self.unet.cross_attention_dim))
        if uncond is not None:
            rows = 1 if uncond.shape[0] == 1 else batch
            _expect("uncond", uncond, (rows, *context.shape[1:]))
        if not 0 <= eta <= 1:
            raise ValueError(f"eta must be in [0, 1], found {eta}")
        if eta > 0 and key is None:
            raise ValueError(f"eta {eta} draws noise at every step: give a key")
        if (self.controlnet is None) != (control is None):
            raise ValueError(
                "control given, but the pipeline has no ControlNet: load one with gap_jax.add_controlnet"
                if self.controlnet is None
                else "the pipeline has a ControlNet: give its condition as control"
            )
        if control is not None:
            factor = self.downscale
            image = (batch, height * factor, width * factor, self.controlnet.conditioning_channels)
            _expect("control", control, image)
            _expect_float("control", control)
        if self.inpaints and keep is None:
            raise ValueError("the UNet is an inpainting one (9 channels): give keep=(mask, source, None)")
        if keep is not None:
            _expect("keep's mask", keep.mask, (batch, height, width, 1))
            if keep.mask.dtype != bool:
                raise ValueError(f"keep's mask must be boolean, True = keep; found {keep.mask.dtype}")
            _expect("keep's source", keep.source, latents.shape)
            if not self.inpaints:
                if keep.noise is None:
                    raise ValueError("keep's noise is missing: the noise that the latents began with")
                _expect("keep's noise", keep.noise, latents.shape)


def _keys(key: jax.Array | None, batch: int) -> jax.Array | None:
    """A key for each of a batch: as given, or split from one."""
    if key is None:
        return None
    if not jnp.issubdtype(key.dtype, jax.dtypes.prng_key):
        raise ValueError(f"key must be made by jax.random.key (not PRNGKey), found an array of {key.dtype}")
    if key.ndim == 0:
        return jax.random.split(key, batch)
    _expect("key", key, (batch,))
    return key


def _expect(name: str, array: jax.Array, shape: Sequence[int | None]) -> None:
    """Raise unless `array` has `shape`, where None stands for any size."""
    fits = array.ndim == len(shape) and all(
        size in (None, found) for size, found in zip(shape, array.shape, strict=True)
    )
    if not fits:
        wanted = ", ".join("*" if size is None else str(size) for size in shape)
        raise ValueError(f"{name} must have shape [{wanted}], found {list(array.shape)}")


def _expect_float(name: str, array: jax.Array) -> None:
    if not jnp.issubdtype(array.dtype, jnp.floating):
        raise ValueError(f"{name} must be floats in [0,1], found {array.dtype}: divide 8-bit images by 255")
