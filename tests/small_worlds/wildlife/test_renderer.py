import itertools

import numpy as np
import pytest
from sklearn.linear_model import RidgeClassifier

from gap_jax.data.masked import iwildcam, waterbirds
from gap_jax.small_worlds import wildlife
from gap_jax.small_worlds.wildlife.renderer import Words

EVERY_WORD = [Words(*words) for words in itertools.product(*wildlife.AXES.values())]
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
    found = wildlife.render(1, range(9), [Words(animal) for animal in wildlife.AXES["animal"]], size=80)
    assert found.image.shape == (9, 80, 80, 3) and found.image.dtype == np.uint8
    assert found.keep.shape == (9, 80, 80, 1) and found.keep.dtype == bool
    assert found.label.tolist() == [0, 0, 1, 1, 2, 3, 4, 5, 6] and found.label.dtype == np.int32


def test_splits_share_no_animal():
    words = [Words("zebra")] * 40
    keeps = [wildlife.render(seed, range(40), words).keep for seed in wildlife.SPLITS.values()]
    assert len(np.unique(np.concatenate(keeps).reshape(120, -1), axis=0)) == 120


def test_one_animal_stands_the_same_on_any_background():
    for animal in ANIMALS:
        words = [Words(animal, place) for place in wildlife.AXES["place"]]
        found = wildlife.render(0, [7] * len(words), words)
        without = wildlife.render(0, [7] * len(words), [each._replace(animal="nothing") for each in words])
        np.testing.assert_array_equal(found.keep, np.repeat(found.keep[:1], len(words), 0))
        differ = (found.image != without.image).any(-1, keepdims=True)
        assert differ[found.keep].mean() > 0.97  # some of its pixels have the background's colour
        inside = (found.image == found.image[:1]).all((0, 3)) & found.keep[0, ..., 0]
        assert inside.sum() > 0.5 * found.keep[0].sum()  # all but its edges
        assert differ[~found.keep].mean() < 0.08  # its edges


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
        assert feet.min() > 48 and feet.max() <= 64 * (1 - wildlife.STRIP), animal
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
    """Of backgrounds' variance, words explain most, by places' and lights' means alone."""
    words = [words for words in EVERY_WORD if words.animal == "nothing" for _ in range(12)]
    images = wildlife.render(0, range(len(words)), words).image.astype(float).reshape(18, 12, -1)
    within = (images - images.mean(1, keepdims=True)).var()
    assert within < 0.12 * images.var()


def test_places_and_lights_are_told_by_colours_alone():
    """By a linear classifier of the mean colours of 8 x 8 blocks, animals in front."""

    def blocks(seed, count):
        found = _drawn(seed, range(count))
        return found.image.reshape(count, 8, 8, 8, 8, 3).mean((2, 4)).reshape(count, -1) / 255, found.words

    (train, taught), (test, asked) = blocks(0, 500), blocks(1, 200)
    for axis, least in ((1, 0.95), (2, 0.98)):
        model = RidgeClassifier().fit(train, [words[axis] for words in taught])
        assert model.score(test, [words[axis] for words in asked]) > least


def test_a_camera_always_sees_the_same_scene():
    nothing = Words("nothing", "forest", "day")
    seen = np.concatenate([wildlife.render(seed, [3], [nothing], camera=287).image for seed in (0, 1, 2)])
    high = round(64 * (1 - wildlife.STRIP))
    np.testing.assert_array_equal(seen[1:, :high], seen[:-1, :high])
    assert (seen[1:, high:] != seen[:-1, high:]).any()  # the time
    zebra = wildlife.render(0, [3], [nothing._replace(animal="zebra")], camera=287)
    anywhere = wildlife.render(0, [3], [nothing._replace(animal="zebra")])
    np.testing.assert_array_equal(zebra.keep, anywhere.keep)


def test_cameras_see_different_scenes():
    high = round(64 * (1 - wildlife.STRIP))
    scenes = [
        wildlife.render(0, [0], [Words(place=camera.place)], camera=number).image[:, :high].tobytes()
        for number, camera in wildlife.CAMERAS.items()
    ]
    assert len(set(scenes)) == len(wildlife.CAMERAS)


def test_cameras_for_testing_are_elsewhere_and_see_more_of_the_night():
    assert tuple(kind.camera for kind in wildlife.IWILDCAM["test"]) == iwildcam.TEST_LOCATIONS
    seen = {split: [kind.allowed for kind in kinds] for split, kinds in wildlife.IWILDCAM.items()}
    places = {split: {kind["place"][0] for kind in kinds} for split, kinds in seen.items()}
    assert not places["train"] & places["test"] and places["validation"] == places["train"] | places["test"]
    nights = {split: [np.mean(np.array(kind["light"]) == "night") for kind in seen[split]] for split in seen}
    assert 0 < max(nights["train"]) <= 0.2 and min(nights["test"]) >= 0.5


def test_classes_and_groups_are_those_of_the_real_data_sets():
    assert wildlife.BIRDS == waterbirds.CLASSES
    assert tuple(name.rstrip("s") for name in iwildcam.CLASSES[1:]) == wildlife.MAMMALS[1:]
    groups = [
        wildlife.group(wildlife.draw_words(0, i, kind.allowed), kind.camera)
        for kind in wildlife.WATERBIRDS["test"]
        for i in range(5)
    ]
    assert groups == [0] * 5 + [1] * 5 + [2] * 5 + [3] * 5
    kinds = wildlife.WATERBIRDS["train"]
    biased = {wildlife.group(wildlife.draw_words(0, i, kinds[i % 2].allowed)) for i in range(9)}
    assert biased == set(waterbirds.BIASED)
    assert wildlife.group(Words("zebra")) == -1 and wildlife.group(Words("zebra"), 288) == 288


def test_hours_go_with_the_light():
    for light, time in (("day", "day"), ("dusk", None), ("night", "night")):
        hours = {wildlife.hour(0, i, light) for i in range(200)}
        assert {iwildcam.time_of(hour) for hour in hours} == {time} and len(hours) > 1


def test_captions_say_the_words_and_parse_reads_them():
    assert wildlife.caption(Words("waterbird", "forest", "night")) == "a photo of a waterbird, forest, night"
    assert wildlife.caption(Words("elephant"), (True, False, False)) == "a photo of an elephant"
    assert wildlife.caption(Words("cattle"), (True, True, False)) == "a photo of cattle, grass"
    assert wildlife.caption(Words(), (False, True, True)) == "a photo, grass, day"
    for words in EVERY_WORD:
        assert wildlife.parse(wildlife.caption(words)) == words._asdict()


def test_words_are_drawn_from_those_allowed():
    allowed = {"animal": ("zebra",), "light": ("day", "dusk")}
    drawn = {wildlife.draw_words(0, i, allowed) for i in range(200)}
    assert drawn == {words for words in EVERY_WORD if words.animal == "zebra" and words.light != "night"}
    assert len({wildlife.draw_words(0, i) for i in range(2000)}) == len(EVERY_WORD)


def test_unknown_words_name_the_known_ones():
    with pytest.raises(ValueError, match=r"'lion' in 'a lion' is no word.*animal: nothing, landbird"):
        wildlife.parse("a lion")
    with pytest.raises(ValueError, match="weather"):
        wildlife.draw_words(0, 0, {"weather": ("fog",)})
    with pytest.raises(ValueError, match="'moon'"):
        wildlife.render(0, [0], [Words(place="moon")])


def test_wrong_sizes_and_cameras_are_refused():
    with pytest.raises(ValueError, match="64 pixels or more, found 32"):
        wildlife.render(0, [0], [Words()], size=32)
    with pytest.raises(ValueError, match="2 pictures need as many words, found 1"):
        wildlife.render(0, [0, 1], [Words()])
    with pytest.raises(ValueError, match=r"one of 11, .*288, found 5"):
        wildlife.render(0, [0], [Words()], camera=5)
    with pytest.raises(ValueError, match="camera 287 is in the place forest, found words of grass"):
        wildlife.render(0, [0], [Words()], camera=287)
