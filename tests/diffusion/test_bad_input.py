"""Tests that bad calls give an error that names the argument, before anything is compiled."""

import jax
import numpy as np
import pytest

import gap_jax

pytestmark = pytest.mark.usefixtures("no_compilation")


def zeros(*shape, dtype=np.float32):
    return np.zeros(shape, dtype)


LATENTS, STATES, IMAGES = zeros(2, 4, 8, 4), zeros(2, 77, 48), zeros(2, 16, 32, 3)
MASK = zeros(2, 4, 8, 1, dtype=bool)
KEEP = (MASK, LATENTS, LATENTS)


def denoise(**changes):
    """Return a call that fits a pipeline with a ControlNet, but for `changes`."""

    def call(pipe, params):
        given = dict(latents=LATENTS, context=STATES, uncond=STATES, control=IMAGES) | changes
        pipe.denoise(params, **(dict(num_steps=10, guidance_scale=7.5) | given))

    return call


def repaint(keep):
    return denoise(keep=keep, control=None)


def noised(**changes):
    given = dict(source=LATENTS, noise=LATENTS, num_steps=10, strength=0.5) | changes
    return lambda pipe, params: pipe.add_noise(**given)


CALLS = {
    # images and latents
    "image not divisible": (
        lambda pipe, params: pipe.encode_image(params, zeros(2, 16, 30, 3)),
        "images of 16x30 pixels: both sides must be divisible by 4",
    ),
    "image with alpha": (
        lambda pipe, params: pipe.encode_image(params, zeros(2, 16, 32, 4)),
        "images must have shape [*, *, *, 3], found [2, 16, 32, 4]",
    ),
    "image without batch": (
        lambda pipe, params: pipe.encode_image(params, zeros(16, 32, 3)),
        "images must have shape [*, *, *, 3], found [16, 32, 3]",
    ),
    "latents to decode": (
        lambda pipe, params: pipe.decode(params, zeros(2, 4, 8, 3)),
        "latents must have shape [*, *, *, 4], found [2, 4, 8, 3]",
    ),
    "latents to denoise": (
        denoise(latents=zeros(2, 4, 8, 9)),
        "latents must have shape [*, *, *, 4], found [2, 4, 8, 9]",
    ),
    "noise of another size": (
        noised(noise=zeros(2, 8, 8, 4)),
        "noise must have shape [2, 4, 8, 4], found [2, 8, 8, 4]",
    ),
    "source to noise": (
        noised(source=zeros(4, 8, 4)),
        "source must have shape [*, *, *, 4], found [4, 8, 4]",
    ),
    # text states
    "context of another width": (
        denoise(context=zeros(2, 77, 64)),
        "context must have shape [2, *, 48], found [2, 77, 64]",
    ),
    "context of another batch": (
        denoise(context=zeros(3, 77, 48)),
        "context must have shape [2, *, 48], found [3, 77, 48]",
    ),
    "uncond of another length": (
        denoise(uncond=zeros(1, 70, 48)),
        "uncond must have shape [1, 77, 48], found [1, 70, 48]",
    ),
    # ControlNet
    "control of another size": (
        denoise(control=zeros(2, 4, 8, 3)),
        "control must have shape [2, 16, 32, 3], found [2, 4, 8, 3]",
    ),
    "control with one channel": (
        denoise(control=zeros(2, 16, 32, 1)),
        "control must have shape [2, 16, 32, 3], found [2, 16, 32, 1]",
    ),
    "control of bytes": (
        denoise(control=np.zeros((2, 16, 32, 3), np.uint8)),
        "control must be floats in [0,1], found uint8: divide 8-bit images by 255",
    ),
    "no control": (denoise(control=None), "the pipeline has a ControlNet: give its condition as control"),
    # steps
    "no steps": (denoise(num_steps=0), "num_steps must be in 1..1000, found 0"),
    "negative steps": (denoise(num_steps=-5), "num_steps must be in 1..1000, found -5"),
    "too many steps": (denoise(num_steps=1001), "num_steps must be in 1..1000, found 1001"),
    "strength 0": (denoise(strength=0), "strength must be in (0, 1], found 0"),
    "strength above 1": (denoise(strength=1.1), "strength must be in (0, 1], found 1.1"),
    "strength NaN": (denoise(strength=float("nan")), "strength must be in (0, 1], found nan"),
    "strength of no step": (denoise(strength=0.09), "strength 0.09 leaves none of 10 steps: raise one"),
    "noise of no steps": (noised(num_steps=0), "num_steps must be in 1..1000, found 0"),
    "noise of strength 2": (noised(strength=2), "strength must be in (0, 1], found 2"),
    "noise of no step": (noised(strength=0.05), "strength 0.05 leaves none of 10 steps"),
    "eta without key": (denoise(eta=0.5), "eta 0.5 draws noise at every step: give a key"),
    "eta above 1": (denoise(eta=2), "eta must be in [0, 1], found 2"),
    "eta with a deterministic solver": (
        denoise(eta=1.0, solver=gap_jax.dpm_solver),
        "dpm_solver is deterministic: eta must be 0, found 1.0",
    ),
    "legacy key": (
        denoise(eta=1.0, key=zeros(2, dtype=np.uint32)),
        "key must be made by jax.random.key (not PRNGKey), found an array of uint32",
    ),
    "legacy key to encode": (
        lambda pipe, params: pipe.encode_image(params, IMAGES, zeros(2, dtype=np.uint32)),
        "key must be made by jax.random.key (not PRNGKey), found an array of uint32",
    ),
    "keys of another batch": (
        lambda pipe, params: denoise(eta=1.0, key=jax.random.split(jax.random.key(0), 3))(pipe, params),
        "key must have shape [2], found [3]",
    ),
    # tokens
    "placeholder out of range": (
        lambda pipe, params: pipe.tokenize(["a room", "<2>, photo"], placeholders=2),
        "<2> in '<2>, photo' is out of range: with 2 placeholders, the last is <1>",
    ),
    "placeholder without embedding": (
        lambda pipe, params: pipe.encode_text(params, zeros(1, 77, dtype=np.int32) + 518, zeros(1, 48)),
        "token id 518 is out of range: the vocabulary has 517 tokens, followed by 1 placeholders",
    ),
    "placeholder without any": (
        lambda pipe, params: pipe.encode_text(params, pipe.tokenize(["<0>"], placeholders=1)),
        "token id 517 is out of range: the vocabulary has 517 tokens, followed by 0 placeholders",
    ),
    "negative token": (
        lambda pipe, params: pipe.encode_text(params, zeros(1, 77, dtype=np.int32) - 1),
        "token id -1 is out of range",
    ),
    "placeholder of another width": (
        lambda pipe, params: pipe.encode_text(params, zeros(1, 77, dtype=np.int32), zeros(1, 64)),
        "placeholders must have shape [*, 48], found [1, 64]",
    ),
    "too many tokens": (
        lambda pipe, params: pipe.encode_text(params, zeros(1, 78, dtype=np.int32)),
        "token_ids have length 78, but the text encoder takes at most 77",
    ),
    "tokens without batch": (
        lambda pipe, params: pipe.encode_text(params, zeros(77, dtype=np.int32)),
        "token_ids must have shape [*, *], found [77]",
    ),
}
INPAINTING_CALLS = {
    "control without ControlNet": (
        denoise(keep=KEEP),
        "control given, but the pipeline has no ControlNet: load one with gap_jax.add_controlnet",
    ),
    "no mask": (denoise(control=None), "the UNet is an inpainting one (9 channels): give keep="),
    "mask of another size": (
        repaint((zeros(2, 16, 32, 1, dtype=bool), LATENTS, None)),
        "keep's mask must have shape [2, 4, 8, 1], found [2, 16, 32, 1]",
    ),
    "mask not boolean": (
        repaint((zeros(2, 4, 8, 1), LATENTS, None)),
        "keep's mask must be boolean, True = keep; found float32",
    ),
    "source of another size": (
        repaint((MASK, zeros(2, 4, 8, 9), None)),
        "keep's source must have shape [2, 4, 8, 4], found [2, 4, 8, 9]",
    ),
}
KEEPING_CALLS = {
    "mask of another size": (
        denoise(keep=(zeros(2, 4, 4, 1, dtype=bool), LATENTS, LATENTS)),
        "keep's mask must have shape [2, 4, 8, 1], found [2, 4, 4, 1]",
    ),
    "source of another batch": (
        denoise(keep=(MASK, zeros(1, 4, 8, 4), LATENTS)),
        "keep's source must have shape [2, 4, 8, 4], found [1, 4, 8, 4]",
    ),
    "no noise": (
        denoise(keep=(MASK, LATENTS, None)),
        "keep's noise is missing: give keep=(mask, source, noise) with the noise that latents began",
    ),
    "noise of another size": (
        denoise(keep=(MASK, LATENTS, zeros(2, 4, 4, 4))),
        "keep's noise must have shape [2, 4, 8, 4], found [2, 4, 4, 4]",
    ),
}


@pytest.mark.parametrize(
    ("kind", "calls", "name"),
    [
        pytest.param(kind, calls, name, id=f"{kind}: {name}")
        for kind, calls in (("sd15", CALLS), ("sd15", KEEPING_CALLS), ("inpaint", INPAINTING_CALLS))
        for name in calls
    ],
)
def test_bad_call_is_explained(models, kind, calls, name):
    call, message = calls[name]
    model = models(kind)
    with pytest.raises(ValueError) as caught:
        call(model.pipe, model.params)
    assert message in str(caught.value)


def test_shapes_are_checked_under_jit_too(sd15):
    with pytest.raises(ValueError, match="both sides must be divisible by 4"):
        jax.jit(sd15.pipe.encode_image)(sd15.params, zeros(2, 16, 30, 3))
    with pytest.raises(ValueError, match=r"control must have shape \[2, 16, 32, 3\]"):
        jax.jit(denoise(control=zeros(2, 8, 8, 3)), static_argnums=0)(sd15.pipe, sd15.params)


@pytest.mark.parametrize("shape", [(56, 56, 3), (2, 56, 56, 1)])
def test_clip_images_of_another_shape_are_explained(clip, shape):
    with pytest.raises(ValueError, match=r"images must have shape \[\*, \*, \*, 3\], found"):
        clip.clip.image_features(clip.params, zeros(*shape))


def test_texts_must_be_a_list(sd15):
    with pytest.raises(TypeError, match="texts must be a list of strings, found the string 'a room'"):
        sd15.pipe.tokenize("a room")
