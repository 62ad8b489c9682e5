"""The probe of the rooms: the baseline of its depth models."""

import numpy as np

from gap_jax.small_worlds import rooms
from gap_jax.small_worlds.probe import rooms as probe


def test_the_mean_map_predicts_better_than_any_one_room():
    truth = rooms.render(rooms.SPLITS["validation"], range(32), [rooms.Style()] * 32)
    mean_map_l1 = probe.mean_map_errors(probe.mean_depth_map(64), truth).mean()
    others = [probe.mean_map_errors(depth, truth).mean() for depth in truth.depth[:8]]
    assert mean_map_l1 < min(others)


def test_label_fidelity_by_hand():
    styles = [rooms.Style("red"), rooms.Style("red"), rooms.Style("blue")]
    errors = {
        "real": np.array([1.0, 1.0, 2.0]),
        "mean_map": np.array([4.0, 4.0, 8.0]),
        "generated_5_steps": np.array([2.0, 2.0, 8.0]),
    }
    fidelity = probe.label_fidelity(errors, styles, [5])
    worst = {"worst": 4.0, "worst_style": "a blue room, bright, clear, sharp"}
    assert fidelity == {
        "5_steps_over_real": {"all": 3.0, **worst},
        "5_steps_over_mean_map": {"all": 0.75, **worst, "worst": 1.0},
    }
