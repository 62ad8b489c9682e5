"""The shipped models of the wildlife: small, readable by torch, and biased where they should be."""

import diffusers
import jax
import numpy as np
import pytest

import gap_jax
from gap_jax.diffusion.align import Sampling, inpaint
from gap_jax.small_worlds import wildlife
from gap_jax.small_worlds.probe import measures
from gap_jax.small_worlds.probe.wildlife import EXPERIMENTS, correctness, mean_by_group
from gap_jax.small_worlds.wildlife import Words, render_kinds
from gap_jax.stages.evaluate import in_steps
from gap_jax.weights.classifier import load_classifier
from gap_jax.weights.repo import ASSETS, shipped
from tests.torch_references.folders import nchw, nhwc

WORDS = [Words("landbird", "lake"), Words("zebra", "forest", "night"), Words("waterbird", "grass", "dusk")]
ORIGINALS = [
    Words("landbird", "grass"),
    Words("zebra", "savanna"),
    Words("waterbird", "sea"),
]  # animals are kept


def test_all_small_worlds_together_are_small():
    assert sum(path.stat().st_size for path in ASSETS.rglob("*") if path.is_file()) < 32e6


def test_torch_diffusers_generates_the_same_images():
    pipe, params = gap_jax.load_pipeline("wildlife")
    theirs = diffusers.StableDiffusionPipeline.from_pretrained(shipped("wildlife"))
    theirs.set_progress_bar_config(disable=True)
    captions = [wildlife.caption(words) for words in WORDS]
    size = pipe.unet.sample_size
    noise = np.array(jax.random.normal(jax.random.key(0), (len(WORDS), size, size, pipe.unet.in_channels)))
    context, uncond = (pipe.encode_text(params, pipe.tokenize(texts)) for texts in (captions, [""]))
    latents = pipe.denoise(params, noise, context, uncond, num_steps=5, guidance_scale=2.0)
    options = {"num_inference_steps": 5, "guidance_scale": 2.0, "output_type": "pt"}
    expected = theirs(captions, latents=nchw(noise), **options).images
    np.testing.assert_allclose(pipe.decode(params, latents), nhwc(expected), atol=1e-3)


def test_backgrounds_are_those_asked_for_and_kept_pixels_the_originals():
    pipe, params = gap_jax.load_pipeline("wildlife")
    words, originals = WORDS * 4, ORIGINALS * 4
    batch = wildlife.render(wildlife.SPLITS["test"], range(len(originals)), originals).as_batch()
    captions = [wildlife.caption(target) for target in words]
    align, sampling = inpaint(paste=True), Sampling(5, 1.5, 1.0)
    images = measures.generate_images(pipe, params, captions, batch, align, sampling)
    keep = np.broadcast_to(batch["keep"], images.shape)
    np.testing.assert_array_equal(images[keep], batch["image"][keep])
    clip = gap_jax.load_clip("wildlife")
    accuracy = measures.zero_shot_accuracy(*clip, images, words, wildlife.AXES, wildlife.caption)
    assert min(accuracy["place"], accuracy["light"]) > 0.7, accuracy


@pytest.mark.parametrize("experiment", EXPERIMENTS)
def test_the_classifier_fails_where_it_has_not_been_and_the_critic_does_not(experiment):
    classes, kinds = EXPERIMENTS[experiment]
    seen, unseen = (render_kinds("test", kinds[split], range(160)) for split in ("train", "test"))
    means = {}
    for part in (experiment, f"{experiment}_critic"):
        module, params = load_classifier("wildlife", part=part)
        assert module.num_labels == len(classes)
        means[part] = [
            mean_by_group(in_steps(correctness(module), params, batch), batch["group"])
            for batch in (seen, unseen)
        ]
    (on_seen, on_unseen), (_, critic_on_unseen) = means.values()
    assert on_seen["mean"] > 0.8 and critic_on_unseen["mean"] > 0.8
    assert min(on_unseen.values()) < on_seen["mean"] - 0.2
