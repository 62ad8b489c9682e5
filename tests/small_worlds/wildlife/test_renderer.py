"""The renderer of animals: its masks, its backgrounds and their determinism."""

import itertools

import numpy as np
import pytest
from sklearn.linear_model import RidgeClassifier

from gap_jax.small_worlds import wildlife
from gap_jax.small_worlds.wildlife import Words
from gap_jax.small_worlds.wildlife.renderer import STRIP

EVERY_WORDS = [Words(*words) for words in itertools.product(*wildlife.AXES.values())]
ANIMALS = wildlife.AXES["animal"][1:]


def _drawn(seed, indices, allowed=wildlife.EVERY):
    return wildlife.render(seed, indices, [wildlife.draw_words(seed, i, allowed) for i in indices])


def test_the_same_arguments_give_the_same_bits_in_any_batch():
    words = [wildlife.draw_words(0, i) for i in (3, 8, 11)]
    together = wildlife.render(0, [3, 8, 11], words)
    alone = wildlife.render(0, [8], words[1:2])
    for whole, part in zip(together[:3], alone[:3], strict=True):
        np.testing.assert_array_equal(whole[1:2], part)


def test_shapes_and_ranges():
    rendered = wildlife.render(1, range(9), [Words(animal) for animal in wildlife.AXES["animal"]], size=80)
    assert rendered.image.shape == (9, 80, 80, 3) and rendered.image.dtype == np.uint8
    assert rendered.keep.shape == (9, 80, 80, 1) and rendered.keep.dtype == bool
    assert rendered.label.tolist() == [0, 0, 1, 1, 2, 3, 4, 5, 6] and rendered.label.dtype == np.int32


def test_splits_share_no_animal():
    words = [Words("zebra")] * 40
    keeps = [wildlife.render(seed, range(40), words).keep for seed in wildlife.SPLITS.values()]
    assert len(np.unique(np.concatenate(keeps).reshape(120, -1), axis=0)) == 120


def test_one_animal_stands_the_same_on_any_background():
    for animal in ANIMALS:
        words = [Words(animal, place) for place in wildlife.AXES["place"]]
        rendered = wildlife.render(0, [7] * len(words), words)
        without = wildlife.render(0, [7] * len(words), [each._replace(animal="nothing") for each in words])
        np.testing.assert_array_equal(rendered.keep, np.repeat(rendered.keep[:1], len(words), 0))
        differ = (rendered.image != without.image).any(-1, keepdims=True)
        assert differ[rendered.keep].mean() > 0.97  # some of its pixels have the background's colour
        inside = (rendered.image == rendered.image[:1]).all((0, 3)) & rendered.keep[0, ..., 0]
        assert inside.sum() > 0.5 * rendered.keep[0].sum()  # all but its edges
        assert differ[~rendered.keep].mean() < 0.08  # its edges


def test_a_larger_picture_is_the_same_picture():
    words = [Words(animal, "savanna") for animal in ANIMALS]
    small, large = (wildlife.render(0, range(8), words, size) for size in (64, 192))
    pooled = large.image.reshape(8, 64, 3, 64, 3, 3).mean((2, 4))
    assert np.abs(pooled - small.image).mean() < 2
    shares = large.keep.reshape(8, 64, 3, 64, 3, 1).mean((2, 4))
    np.testing.assert_array_equal((shares > 0.75) & ~small.keep, False)
    np.testing.assert_array_equal((shares < 0.25) & small.keep, False)


def test_animals_are_whole_and_leave_room_for_the_background():
    for animal in ANIMALS:
        keep = wildlife.render(2, range(60), [Words(animal)] * 60).keep[..., 0]
        assert not keep[:, [0, -1]].any() and not keep[:, :, [0, -1]].any(), animal
        shares = keep.mean((1, 2))
        assert shares.min() > 0.015 and shares.max() < 0.45, animal
        feet = 64 - keep.any(2)[:, ::-1].argmax(1)
        assert feet.min() > 48 and feet.max() <= 64 * (1 - STRIP), animal
    assert not wildlife.render(0, [0], [Words("nothing")]).keep.any()


def test_animals_vary():
    for animal in ANIMALS:
        keep = wildlife.render(0, range(30), [Words(animal)] * 30).keep.reshape(30, -1)
        assert len(np.unique(keep, axis=0)) == 30
        assert keep.sum(1).max() > 1.3 * keep.sum(1).min()


def test_every_word_changes_the_background():
    plain = wildlife.render(0, [5], [Words()])
    for axis, change in (("place", 20), ("light", 20)):
        for word in set(wildlife.AXES[axis]) - set(Words()):
            changed = wildlife.render(0, [5], [Words()._replace(**{axis: word})])
            assert np.abs(changed.image.astype(int) - plain.image).mean() > change, word


def test_night_is_dark_and_almost_without_colour():
    night = _drawn(0, range(60), {"light": ("night",)}).image.astype(float)
    day = _drawn(0, range(60), {"light": ("day",)}).image.astype(float)
    assert night.mean() < 0.45 * day.mean()
    assert np.ptp(night, axis=-1).mean() < 8 < 40 < np.ptp(day, axis=-1).mean()


def test_words_almost_determine_the_background():
    """The means of places and lights explain most of the variance of backgrounds."""
    words = [words for words in EVERY_WORDS if words.animal == "nothing" for _ in range(12)]
    images = wildlife.render(0, range(len(words)), words).image.astype(float).reshape(18, 12, -1)
    within = (images - images.mean(1, keepdims=True)).var()
    assert within < 0.12 * images.var()


def test_places_and_lights_are_told_by_colours_alone():
    """A linear classifier sees the mean colours of 8 × 8 blocks, with animals in front."""

    def blocks(seed, count):
        rendered = _drawn(seed, range(count))
        return rendered.image.reshape(count, 8, 8, 8, 8, 3).mean((2, 4)).reshape(
            count, -1
        ) / 255, rendered.words

    (train, taught), (test, asked) = blocks(0, 500), blocks(1, 200)
    for axis, least in ((1, 0.95), (2, 0.98)):
        model = RidgeClassifier().fit(train, [words[axis] for words in taught])
        assert model.score(test, [words[axis] for words in asked]) > least


def test_a_camera_always_sees_the_same_scene():
    nothing = Words("nothing", "forest", "day")
    seen = np.concatenate([wildlife.render(seed, [3], [nothing], camera=287).image for seed in (0, 1, 2)])
    high = round(64 * (1 - STRIP))
    np.testing.assert_array_equal(seen[1:, :high], seen[:-1, :high])
    assert (seen[1:, high:] != seen[:-1, high:]).any()  # the time
    zebra = wildlife.render(0, [3], [nothing._replace(animal="zebra")], camera=287)
    anywhere = wildlife.render(0, [3], [nothing._replace(animal="zebra")])
    np.testing.assert_array_equal(zebra.keep, anywhere.keep)


def test_cameras_see_different_scenes():
    high = round(64 * (1 - STRIP))
    scenes = [
        wildlife.render(0, [0], [Words(place=camera.place)], camera=number).image[:, :high].tobytes()
        for number, camera in wildlife.CAMERAS.items()
    ]
    assert len(set(scenes)) == len(wildlife.CAMERAS)


def test_wrong_sizes_words_and_cameras_are_refused():
    with pytest.raises(ValueError, match="size must be at least 64 pixels, found 32"):
        wildlife.render(0, [0], [Words()], size=32)
    with pytest.raises(ValueError, match="every picture needs words, found 2 pictures and 1 words"):
        wildlife.render(0, [0, 1], [Words()])
    with pytest.raises(ValueError, match="'moon'"):
        wildlife.render(0, [0], [Words(place="moon")])
    with pytest.raises(ValueError, match=r"camera must be one of 11, .*288, found 5"):
        wildlife.render(0, [0], [Words()], camera=5)
    with pytest.raises(ValueError, match="camera 287 stands in the place 'forest', found 'grass'"):
        wildlife.render(0, [0], [Words()], camera=287)
