"""The probe of the wildlife: groups, scenes asked for, and animals before other backgrounds."""

import numpy as np
import pytest

from gap_jax.small_worlds import wildlife
from gap_jax.small_worlds.probe import wildlife as probe


def test_means_are_of_the_groups_and_cameras_there_are():
    means = probe.mean_by_group(np.array([1.0, 0.0, 1.0]), np.array([2, 2, 3]))
    expected = {"mean": 2 / 3, "landbird on water": 0.5, "waterbird on water": 1.0}
    assert means == pytest.approx(expected)
    means = probe.mean_by_group(np.array([1.0, 0.0]), np.array([31, -1]))
    assert means == {"mean": 0.5, "camera 31": 1.0}


def test_a_changed_scene_is_another_place_in_another_light():
    seen = set()
    for turn in range(10):
        for words in probe.EVERY_WORDS:
            changed = probe.change_scene(words, turn)
            assert changed.animal == words.animal
            assert changed.place != words.place and changed.light != words.light
            seen.add((words, changed))
    assert len(seen) == len(probe.EVERY_WORDS) * 5 * 2


def test_pasted_animals_are_kept_exactly_and_their_scene_is_not():
    words = [wildlife.Words("zebra", "savanna"), wildlife.Words("nothing", "sea", "night")]
    batch = wildlife.render(1, range(2), words).as_batch()
    wanted = [probe.change_scene(original, 0) for original in words]
    pasted = probe.paste_on_rendered(1, batch, wanted)
    keep = np.broadcast_to(batch["keep"], pasted.shape)
    np.testing.assert_array_equal(pasted[keep], batch["image"][keep])
    empty = [target._replace(animal="nothing") for target in wanted]
    expected = wildlife.render(1, range(2), empty).image / 255
    np.testing.assert_allclose(pasted[~keep], expected[~keep], atol=1e-6)
