"""Tests that sampling equals diffusers': guidance, ControlNet, SDEdit, inpainting, solvers, gradients."""

import diffusers
import jax
import jax.numpy as jnp
import numpy as np
import pytest
import torch

import gap_jax
from gap_jax.diffusion.align import Alignment, Sampling, Start, generate, latent_mask
from gap_jax.diffusion.sampler import Economy
from tests.torch_references.folders import nchw, nhwc, relative_error
from tests.torch_references.sampler import torch_denoise

BATCH, HEIGHT, WIDTH = 2, 8, 12


def inputs(model, seed=0):
    """Return latents, states of prompts and of a negative prompt, and the ControlNet's condition."""
    rng = np.random.default_rng(seed)
    latents = rng.standard_normal((BATCH, HEIGHT, WIDTH, 4), dtype=np.float32)
    states = np.asarray(
        model.pipe.encode_text(model.params, model.pipe.tokenize(["a room", "photo", "cartoon"]))
    )
    factor = model.pipe.downscale
    control = rng.random((BATCH, HEIGHT * factor, WIDTH * factor, 3), dtype=np.float32)
    return latents, states[:2], states[2:], control if model.pipe.controlnet else None


def keep_left(source, noise):
    mask = np.zeros((BATCH, HEIGHT, WIDTH, 1), bool)
    mask[:, :, : WIDTH // 2] = True
    return mask, source, noise


def to_torch(keep):
    mask, *arrays = keep
    return (nchw(mask.astype(np.float32)), *(nchw(array) for array in arrays))


def both(model, latents, context, uncond, control=None, keep=None, key=None, solver=None, **options):
    """Denoise with gap_jax and with torch; return both results, NHWC."""
    steps, noises = options["num_steps"], None
    if key is not None:
        draw = jax.vmap(
            lambda key, i: jax.random.normal(jax.random.fold_in(key, i), latents.shape[1:]), (0, None)
        )
        noises = [nchw(draw(jax.random.split(key, BATCH), i)) for i in range(steps)]
    if solver is None:
        solver, scheduler = gap_jax.ddim, diffusers.DDIMScheduler.from_config(model.torch.scheduler.config)
    else:
        config = model.torch.scheduler.config
        scheduler = diffusers.DPMSolverMultistepScheduler.from_config(config, timestep_spacing="leading")
    ours = model.pipe.denoise(
        model.params, latents, context, uncond, control=control, keep=keep, key=key, solver=solver, **options
    )
    theirs = torch_denoise(
        model.torch,
        nchw(latents),
        torch.tensor(context),
        torch.tensor(uncond).expand(BATCH, -1, -1),
        control=None if control is None else nchw(control),
        keep=None if keep is None else to_torch(keep),
        noises=noises,
        scheduler=scheduler,
        **options,
    )
    return ours, nhwc(theirs)


@pytest.mark.parametrize("kind", ["sd15", "sd21"])
@pytest.mark.parametrize("solver", [None, gap_jax.dpm_solver], ids=["ddim", "dpm"])
def test_guided_controlnet_denoising_equals_torch(models, kind, solver):
    model = models(kind)
    latents, context, uncond, control = inputs(model)
    ours, theirs = both(
        model, latents, context, uncond, control, solver=solver, num_steps=5, guidance_scale=7.0
    )
    assert relative_error(ours, theirs) < 1e-4


@pytest.mark.parametrize(("eta", "strength"), [(0.0, 0.5), (1.0, 0.8)])
def test_sdedit_equals_torch(models, strength, eta):
    model = models("sd15")
    noise, context, uncond, control = inputs(model)
    source = np.random.default_rng(1).standard_normal(noise.shape, dtype=np.float32)
    start = model.pipe.add_noise(source, noise, num_steps=5, strength=strength)
    model.torch.scheduler.set_timesteps(5)
    first = model.torch.scheduler.timesteps[5 - int(5 * strength)]
    expected = nhwc(model.torch.scheduler.add_noise(nchw(source), nchw(noise), first[None]))
    assert relative_error(start, expected) < 1e-6
    ours, theirs = both(
        model,
        np.asarray(start),
        context,
        uncond,
        control,
        key=jax.random.key(3) if eta else None,
        num_steps=5,
        guidance_scale=7.0,
        strength=strength,
        eta=eta,
    )
    assert relative_error(ours, theirs) < 1e-4


@pytest.mark.parametrize(
    ("kind", "eta", "strength"), [("sd15", 0.0, 1.0), ("sd15", 1.0, 1.0), ("sd21", 1.0, 0.8)]
)
def test_inpainting_equals_torch(models, kind, eta, strength):
    model = models(kind)
    noise, context, uncond, control = inputs(model)
    source = np.random.default_rng(1).standard_normal(noise.shape, dtype=np.float32)
    keep = keep_left(source, noise)
    ours, theirs = both(
        model,
        noise,
        context,
        uncond,
        control,
        keep,
        key=jax.random.key(3) if eta else None,
        num_steps=5,
        guidance_scale=5.0,
        eta=eta,
        strength=strength,
    )
    assert relative_error(ours, theirs) < 1e-4
    np.testing.assert_allclose(np.asarray(ours)[:, :, : WIDTH // 2], source[:, :, : WIDTH // 2], atol=1e-6)


@pytest.mark.parametrize("eta", [0.0, 1.0])
def test_inpainting_unet_equals_torch(models, eta):
    model = models("inpaint")
    noise, context, uncond, _ = inputs(model)
    source = np.random.default_rng(1).standard_normal(noise.shape, dtype=np.float32)
    ours, theirs = both(
        model,
        noise,
        context,
        uncond,
        keep=keep_left(source, noise),
        key=jax.random.key(3) if eta else None,
        num_steps=5,
        guidance_scale=7.0,
        eta=eta,
    )
    assert relative_error(ours, theirs) < 1e-4


def test_prompt_to_image_equals_the_torch_pipeline(models):
    """Compares all from text and noise to pixels with diffusers' `StableDiffusionControlNetPipeline`."""
    model = models("sd15")
    noise, _, _, control = inputs(model)
    pipe, params = model.pipe, model.params
    context = pipe.encode_text(params, pipe.tokenize(["a room", "a room, photo"]))
    uncond = pipe.encode_text(params, pipe.tokenize(["cartoon"]))
    latents = pipe.denoise(params, noise, context, uncond, num_steps=5, guidance_scale=7.0, control=control)
    theirs = model.torch(
        ["a room", "a room, photo"],
        nchw(control),
        negative_prompt=["cartoon"] * 2,
        latents=nchw(noise),
        num_inference_steps=5,
        guidance_scale=7.0,
        output_type="np",
    ).images
    assert relative_error(pipe.decode(params, latents), theirs) < 1e-3


@pytest.mark.parametrize("kind", ["sd15", "sd21", "inpaint"])
def test_gradient_to_placeholders_equals_torch(models, kind):
    """Differentiates an image loss through the VAE, five guided steps and the text encoder."""
    model = models(kind)
    noise, _, uncond, control = inputs(model)
    pipe, params = model.pipe, model.params
    rng = np.random.default_rng(2)
    placeholders = rng.standard_normal((2, 48), dtype=np.float32) * 0.02
    source = rng.standard_normal(noise.shape, dtype=np.float32)
    keep = keep_left(source, noise) if kind == "inpaint" else None
    target = rng.random((BATCH, HEIGHT * 4, WIDTH * 4, 3), dtype=np.float32)
    ids = pipe.tokenize(["<0>,<1>, room"] * BATCH, placeholders=2)

    def loss(placeholders):
        context = pipe.encode_text(params, ids, placeholders)
        latents = pipe.denoise(
            params, noise, context, uncond, num_steps=5, guidance_scale=7.0, control=control, keep=keep
        )
        return jnp.mean(jnp.abs(pipe.decode(params, latents) - target))

    ours = jax.jit(jax.grad(loss))(placeholders)

    leaf = torch.tensor(placeholders, requires_grad=True)
    table = model.torch.text_encoder.get_input_embeddings().weight
    embeddings = torch.cat([table, leaf])[torch.from_numpy(np.asarray(ids)).long()]
    context = embed_through(model.torch.text_encoder, embeddings)
    latents = torch_denoise(
        model.torch,
        nchw(noise),
        context,
        torch.tensor(uncond).expand(BATCH, -1, -1),
        num_steps=5,
        guidance_scale=7.0,
        control=None if control is None else nchw(control),
        keep=None if keep is None else to_torch(keep),
    )
    image = model.torch.vae.decode(latents / model.torch.vae.config.scaling_factor).sample
    torch.mean(torch.abs((image / 2 + 0.5).clamp(0, 1) - nchw(target))).backward()
    assert relative_error(ours, leaf.grad) < 5e-3


def embed_through(text_encoder, embeddings):
    """Apply torch's text encoder to token embeddings, which replace its lookup for one call."""
    module = text_encoder.get_input_embeddings()
    hook = module.register_forward_hook(lambda *_: embeddings)
    try:
        return text_encoder(torch.zeros(embeddings.shape[:2], dtype=torch.long))[0]
    finally:
        hook.remove()


def test_gradient_to_the_first_latents_equals_torch(models):
    model = models("sd15")
    noise, context, uncond, control = inputs(model)
    options = dict(num_steps=3, guidance_scale=3.0)

    def loss(latents):
        return jnp.sum(
            model.pipe.denoise(model.params, latents, context, uncond, control=control, **options) ** 2
        )

    ours = jax.jit(jax.grad(loss))(noise)
    leaf = nchw(noise).requires_grad_()
    states = torch.tensor(context), torch.tensor(uncond).expand(BATCH, -1, -1)
    torch.sum(torch_denoise(model.torch, leaf, *states, control=nchw(control), **options) ** 2).backward()
    assert relative_error(ours, nhwc(leaf.grad)) < 1e-3


def test_without_uncond_there_is_no_guidance(models):
    model = models("sd15")
    noise, context, uncond, control = inputs(model)
    options = dict(num_steps=3, control=control)
    plain = model.pipe.denoise(model.params, noise, context, None, guidance_scale=7.0, **options)
    unit = model.pipe.denoise(model.params, noise, context, uncond, guidance_scale=1.0, **options)
    assert relative_error(plain, unit) < 1e-5


def test_guidance_in_some_steps_equals_torch(models):
    """Guidance of scale 1 is none, so torch has this scale in the other steps."""
    model = models("sd15")
    noise, context, uncond, control = inputs(model)
    options = dict(num_steps=3, control=control)
    ours = model.pipe.denoise(
        model.params,
        noise,
        context,
        uncond,
        guidance_scale=7.0,
        economy=Economy(guided_steps=(1, 2)),
        **options,
    )
    theirs = torch_denoise(
        model.torch,
        nchw(noise),
        torch.tensor(context),
        torch.tensor(uncond).expand(BATCH, -1, -1),
        guidance_scale=(1.0, 7.0, 1.0),
        **options | dict(control=nchw(control)),
    )
    assert relative_error(ours, nhwc(theirs)) < 1e-4


@pytest.mark.parametrize("scale, passes", [(1.0, 1), (1, 1), (1.5, 2)])
def test_without_guidance_there_is_no_second_pass(scale, passes):
    class Recorder:
        def denoise(self, params, latents, context, uncond, **_):
            self.passes = 1 if uncond is None else 2

        def decode(self, params, latents):
            return latents

    pipe, alignment = Recorder(), Alignment(lambda *_: Start(None))
    states, keys = np.zeros((1, 77, 48)), jax.random.split(jax.random.key(0), 2)
    generate(pipe, {}, states, states, {}, keys, alignment, Sampling(guidance_scale=scale))
    assert pipe.passes == passes


def test_an_image_does_not_depend_on_its_batch(models):
    """An image has its own key, so it is the same alone and among others."""
    model = models("sd15")
    noise, context, uncond, control = inputs(model)
    keys = jax.random.split(jax.random.key(5), BATCH)
    options = dict(num_steps=3, guidance_scale=7.0, eta=1.0)
    together = model.pipe.denoise(model.params, noise, context, uncond, control=control, key=keys, **options)
    alone = model.pipe.denoise(
        model.params, noise[1:], context[1:], uncond, control=control[1:], key=keys[1:], **options
    )
    assert relative_error(together[1:], alone) < 1e-5


def test_bfloat16_stays_close_and_keeps_a_float32_state(models):
    model = models("sd15")
    noise, context, uncond, control = inputs(model)
    pipe, params = gap_jax.load_pipeline(model.folder, dtype="bfloat16")
    assert params["unet"]["conv_in"]["kernel"].dtype == jnp.bfloat16
    options = dict(num_steps=5, guidance_scale=7.0, control=control)
    exact = model.pipe.denoise(model.params, noise, context, uncond, **options)
    rough = pipe.denoise(params, noise, context, uncond, **options)
    assert rough.dtype == jnp.float32
    images = model.pipe.decode(model.params, exact), pipe.decode(params, rough)
    assert relative_error(images[1], images[0]) < 3e-2


def test_gradient_memory_does_not_grow_with_the_steps(models):
    model = models("sd15")
    noise, context, uncond, control = inputs(model)

    def temporaries(num_steps):
        def loss(context):
            return jnp.sum(
                model.pipe.denoise(
                    model.params,
                    noise,
                    context,
                    uncond,
                    num_steps=num_steps,
                    guidance_scale=7.0,
                    control=control,
                )
            )

        return jax.jit(jax.grad(loss)).lower(context).compile().memory_analysis().temp_size_in_bytes

    assert temporaries(50) <= 1.25 * temporaries(5)


def test_latent_mask_is_nearest_neighbour():
    mask = np.random.default_rng(0).random((2, 64, 96, 1)) > 0.5
    expected = torch.nn.functional.interpolate(nchw(mask.astype(np.float32)), (8, 12))
    np.testing.assert_array_equal(latent_mask(mask, 8), nhwc(expected).astype(bool))
