"""Tests that other generators draw what diffusers' pipelines draw, from text, noise and labels to pixels."""

import dataclasses

import diffusers
import jax
import numpy as np
import torch

import gap_jax
from gap_jax.diffusion.align import Sampling, first_noise, fold_keys, generate, inpaint
from tests.torch_references.folders import nchw, nhwc, relative_error

BATCH, HEIGHT, WIDTH = 2, 32, 48
PROMPTS, NEGATIVE = ["a room", "a room, photo"], "cartoon"


def draw_labels():
    """An original image, the pixels to keep of it, and the condition of a ControlNet."""
    rng = np.random.default_rng(0)
    image, control = rng.random((2, BATCH, HEIGHT, WIDTH, 3), np.float32)
    keep = np.zeros((BATCH, HEIGHT, WIDTH, 1), bool)
    keep[:, 5:19, 7:] = True
    return image, keep, control


def test_controlnet_with_an_inpainting_unet_equals_diffusers(models):
    other, inpainting = models("sd15"), models("inpaint")
    pipe = dataclasses.replace(inpainting.pipe, controlnet=other.pipe.controlnet)
    params = inpainting.params | {"controlnet": other.params["controlnet"]}
    image, keep, control = draw_labels()
    keys = jax.random.split(jax.random.key(0), BATCH)
    ours = generate(
        pipe,
        params,
        pipe.encode_text(params, pipe.tokenize(PROMPTS)),
        pipe.encode_text(params, pipe.tokenize([NEGATIVE])),
        {"image": image, "keep": keep, "edges": control},
        keys,
        inpaint(conditions=(lambda batch: batch["edges"],), control_scale=0.7),
        Sampling(num_steps=5, guidance_scale=7.0),
    )

    masked = np.where(keep, image, np.float32(0.5))
    latents = pipe.encode_image(params, masked, fold_keys(keys, "encode"))
    theirs = diffusers.StableDiffusionControlNetInpaintPipeline(
        **inpainting.torch.components, controlnet=other.torch.controlnet, requires_safety_checker=False
    )
    theirs.set_progress_bar_config(disable=True)

    def encode(image, generator):  # torch would draw another sample of the same posterior
        np.testing.assert_allclose(nhwc(image), 2 * masked - 1, atol=1e-6)
        return nchw(np.asarray(latents))

    theirs._encode_vae_image = encode
    expected = theirs(
        PROMPTS,
        image=nchw(image),
        mask_image=nchw(1 - keep.astype(np.float32)),
        control_image=nchw(control),
        strength=1.0,
        num_inference_steps=5,
        guidance_scale=7.0,
        negative_prompt=[NEGATIVE] * BATCH,
        latents=nchw(np.asarray(first_noise(pipe, image, keys))),
        controlnet_conditioning_scale=0.7,
        output_type="np",
    ).images
    assert relative_error(ours, expected) < 1e-3


def test_a_latent_consistency_model_equals_diffusers(models, monkeypatch, tmp_path):
    """The UNet is told the scale of guidance, and there is no second pass for a negative prompt."""
    model, steps = models("lcm"), 3
    pipe, params = model.pipe, model.params
    *_, control = draw_labels()
    noise = np.random.default_rng(1).standard_normal((BATCH, 8, 12, 4), np.float32)
    keys = jax.random.split(jax.random.key(0), BATCH)
    context = pipe.encode_text(params, pipe.tokenize(PROMPTS))
    scheduler = diffusers.LCMScheduler.from_config(model.torch.scheduler.config)
    monkeypatch.setattr(model.torch, "scheduler", scheduler)

    torch_draws: list[torch.Tensor] = []
    monkeypatch.setattr(
        "diffusers.schedulers.scheduling_lcm.randn_tensor", lambda *_, **__: torch_draws.pop(0)
    )

    def draw(step):
        return jax.vmap(lambda key: jax.random.normal(jax.random.fold_in(key, step), noise.shape[1:]))(keys)

    for scale in (8.0, 1.5):
        latents = pipe.denoise(
            params,
            noise,
            context,
            context[:1],  # plays no part
            num_steps=steps,
            guidance_scale=scale,
            control=control,
            key=keys,
            solver=gap_jax.lcm,
        )
        noises = [nchw(np.asarray(draw(step))) for step in range(steps)]
        torch_draws.extend(noises[: steps - 1])
        theirs = model.torch(
            PROMPTS,
            nchw(control),
            latents=nchw(noise),
            num_inference_steps=steps,
            guidance_scale=scale,
            output_type="latent",
        ).images
        assert relative_error(latents, nhwc(theirs)) < 1e-4 and not torch_draws

    gap_jax.save_pipeline(pipe, params, tmp_path / "saved")
    again = diffusers.UNet2DConditionModel.from_pretrained(tmp_path / "saved", subfolder="unet")
    assert again.config.time_cond_proj_dim == 25
    for name, weight in model.torch.unet.state_dict().items():
        assert torch.equal(again.state_dict()[name], weight), name
