"""The kinds of pictures of the two experiments, beside the real data sets."""

import numpy as np

from gap_jax.data.masked import iwildcam, waterbirds
from gap_jax.small_worlds import wildlife
from gap_jax.small_worlds.wildlife import Words


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
    assert biased == set(waterbirds.BIASED_GROUPS)
    assert wildlife.group(Words("zebra")) == -1 and wildlife.group(Words("zebra"), 288) == 288
