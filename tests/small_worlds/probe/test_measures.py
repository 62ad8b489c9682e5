"""The measurements that both probes share."""

import dataclasses
from functools import partial

import numpy as np
import pytest

from gap_jax.diffusion.align import Sampling, inpaint
from gap_jax.small_worlds import rooms
from gap_jax.small_worlds.probe import measures

INPAINT = inpaint()


def test_means_are_of_the_words_there_are():
    styles = [rooms.Style("red"), rooms.Style("blue"), rooms.Style("grey")]
    means = measures.mean_by_word(np.array([1.0, 2.0, 6.0]), styles, rooms.AXES)
    assert means["mean"] == 3 and means["red"] == 1 and means["sharp"] == 3
    assert "foggy" not in means


def test_zero_shot_recognises_the_words_of_any_axes(monkeypatch, clip):
    axes = {"animal": ("cat", "dog"), "place": ("a room", "a photo", "room")}

    def caption(words, known):
        return ", ".join(word for word, is_known in zip(words, known, strict=True) if is_known)

    words = [("cat", "a photo"), ("dog", "room"), ("dog", "a room")]
    texts = clip.clip.tokenize([place for _, place in words])
    features = clip.clip.text_features(clip.params, texts, projected=True)
    monkeypatch.setattr(  # an image is its number
        type(clip.clip),
        "image_features",
        lambda self, params, images, projected: features[images.astype(int)],
    )
    accuracy = partial(measures.zero_shot_accuracy, clip.clip, clip.params, np.arange(3.0))
    right = accuracy(words, axes, caption)
    assert list(right) == ["animal", "place"] and right["place"] == 1
    wrong = [(animal, place) for (animal, _), (_, place) in zip(words, words[1:] + words[:1], strict=True)]
    assert accuracy(wrong, axes, caption)["place"] == 0


def test_equal_captions_and_labels_give_images_of_their_own(sd15):
    pipe = dataclasses.replace(sd15.pipe, controlnet=None)
    side = 8 * pipe.downscale
    image = np.random.default_rng(0).random((side, side, 3), np.float32)
    batch = {"image": np.stack([image] * 3), "keep": np.zeros((3, side, side, 1), bool)}
    sampling = Sampling(num_steps=2, guidance_scale=2.0, eta=1.0)
    generate = partial(measures.generate_images, pipe, sd15.params, ["a room"] * 3, images_per_step=2)
    images = generate(batch, INPAINT, sampling)
    assert images.shape == batch["image"].shape
    assert min(np.abs(images[i] - images[i - 1]).mean() for i in range(3)) > 1e-3
    np.testing.assert_array_equal(generate(batch, INPAINT, sampling), images)


def test_psnr_by_hand():
    images = np.zeros((1, 4, 4, 3), np.float32)
    assert measures.psnr(images, images + 0.1)[0] == pytest.approx(20, abs=1e-4)
