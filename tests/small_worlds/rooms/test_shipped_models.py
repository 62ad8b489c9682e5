"""The shipped models of the rooms: small, readable by torch, and good where they should be."""

import diffusers
import jax
import numpy as np
import pytest
import torch
import transformers
from safetensors.torch import load_file

import gap_jax
from gap_jax.diffusion.align import Sampling, controlnet
from gap_jax.small_worlds import rooms
from gap_jax.small_worlds.probe import rooms as probe
from gap_jax.small_worlds.probe.measures import generate_images, zero_shot_accuracy
from gap_jax.weights.repo import shipped
from tests.models.test_depth_unet import TorchUNet
from tests.torch_references.folders import nchw, nhwc

STYLES = (rooms.Style("red", camera="blurry"), rooms.Style("blue", "dark"), rooms.Style(air="foggy"))


@pytest.fixture(scope="module")
def truth():
    return rooms.render(rooms.SPLITS["test"], range(len(STYLES)), STYLES)


def test_all_of_it_is_small():
    files = [path for path in shipped("small").rglob("*") if path.is_file()]
    assert sum(path.stat().st_size for path in files) < 20e6


def test_torch_diffusers_generates_the_same_images(truth):
    pipe, params = gap_jax.load_pipeline("small")
    theirs = diffusers.StableDiffusionControlNetPipeline.from_pretrained(shipped("small"))
    theirs.set_progress_bar_config(disable=True)
    captions = [rooms.caption(style) for style in STYLES]
    size = pipe.unet.sample_size
    noise = np.array(jax.random.normal(jax.random.key(0), (len(STYLES), size, size, pipe.unet.in_channels)))
    control = np.array(rooms.condition(truth.as_batch()))
    context, uncond = (pipe.encode_text(params, pipe.tokenize(texts)) for texts in (captions, [""]))
    latents = pipe.denoise(params, noise, context, uncond, num_steps=5, guidance_scale=2.0, control=control)
    expected = theirs(
        captions,
        nchw(control),
        latents=nchw(noise),
        num_inference_steps=5,
        guidance_scale=2.0,
        output_type="pt",
    ).images
    np.testing.assert_allclose(pipe.decode(params, latents), nhwc(expected), atol=1e-3)


def test_torch_transformers_sees_the_same_in_clip(truth):
    clip, params = gap_jax.load_clip("small")
    theirs = transformers.CLIPModel.from_pretrained(shipped("small", "clip")).float().eval()
    images = truth.image.astype(np.float32) / 255
    pixels = (images - np.array(clip.image_mean)) / np.array(clip.image_std)
    with torch.no_grad():
        expected = theirs.vision_model(nchw(pixels).float()).pooler_output
    np.testing.assert_allclose(clip.image_features(params, images), expected, atol=1e-3)


@pytest.mark.parametrize(("part", "width"), [("depth", 8), ("critic", 16)])
def test_the_depth_models_end_with_the_relu_that_they_were_trained_with(part, width):
    model, params = gap_jax.load_depth("small", part)
    theirs = TorchUNet(3, width)
    theirs.load_state_dict(load_file(shipped("small", part) / "model.safetensors"))
    images = np.random.default_rng(0).random((4, 4, 4, 3), np.float32).repeat(16, 1).repeat(16, 2)
    bias = np.float32([-0.5])  # so that the ReLU has something to do
    with torch.no_grad():
        theirs.last_conv2.bias[:] = torch.from_numpy(bias)
        before = theirs(nchw(images))
    lowered = params | {"last_conv2": params["last_conv2"] | {"bias": bias}}
    depth = jax.jit(model.apply)({"params": lowered}, images)
    assert before.min() < -0.01 and before.max() > 0.01
    np.testing.assert_allclose(depth, nhwc(torch.relu(before)), rtol=1e-3, atol=1e-3)


def test_clip_tells_the_styles():
    styles = [rooms.draw_style(rooms.SPLITS["test"], i) for i in range(128)]
    images = rooms.render(rooms.SPLITS["test"], range(128), styles).image.astype(np.float32) / 255
    accuracy = zero_shot_accuracy(*gap_jax.load_clip("small"), images, styles, rooms.AXES, rooms.caption)
    assert min(accuracy.values()) > 0.85, accuracy


def test_a_room_alone_is_a_usual_one():
    truth = rooms.render(rooms.SPLITS["test"], range(16), [rooms.Style()] * 16)
    batch = truth.as_batch()
    pipe, params = gap_jax.load_pipeline("small")
    images = generate_images(
        pipe, params, ["a room"] * 16, batch, controlnet(rooms.condition), Sampling(5, 1.5)
    )
    accuracy = zero_shot_accuracy(
        *gap_jax.load_clip("small"), images, truth.styles, rooms.AXES, rooms.caption
    )
    assert min(accuracy[axis] for axis in ("light", "air", "camera")) > 0.7, accuracy


def test_torch_transformers_predicts_the_same_with_the_dpt(truth):
    model, params = gap_jax.load_depth("small", "dpt")
    theirs = transformers.DPTForDepthEstimation.from_pretrained(shipped("small", "dpt")).float().eval()
    images = truth.image.astype(np.float32) / 255
    with torch.no_grad():
        expected = theirs(nchw((images - 0.5) / 0.5)).predicted_depth
    depth = jax.jit(model.apply)({"params": params}, images)
    np.testing.assert_allclose(depth[..., 0], expected, atol=1e-5)


def test_the_supervised_models_fail_in_fog_and_the_critic_does_not():
    seed, mean_depth = rooms.SPLITS["test"], probe.mean_depth_map(128)
    models = {part: probe.depth_model_errors("small", part) for part in ("depth", "dpt", "critic")}

    def errors(style):
        truth = rooms.render(seed, range(32), [style] * 32)
        images = truth.image.astype(np.float32) / 255
        l1 = {part: errors(images, truth).mean() for part, errors in models.items()}
        return l1 | {"mean map": probe.mean_map_errors(mean_depth, truth).mean()}

    clean, foggy = errors(rooms.Style()), errors(rooms.Style(air="foggy"))
    for part in ("depth", "dpt"):
        assert clean[part] < 0.5 * clean["mean map"]
        assert foggy[part] > 2 * clean[part]
    assert foggy["critic"] < 0.5 * foggy["mean map"]
