"""One seed: the test sets that it measures, and the images that its prompts are shown on."""

import dataclasses

import numpy as np
import pytest

from gap_jax.closed_loop import run as module
from gap_jax.closed_loop.arm_prompts import PromptSet
from gap_jax.closed_loop.measurements import ModelKey
from gap_jax.closed_loop.programs import Programs
from gap_jax.closed_loop.run import Run, example_rows
from gap_jax.closed_loop.settings import Evaluating, Settings
from gap_jax.experiments.depth.settings import SmallRooms
from gap_jax.experiments.depth.small_world import build
from gap_jax.stages.evaluate import SetKey

SETTINGS = Settings(arms=("control",), evaluating=Evaluating(images=2, severities=(1, 2), efficiency=()))


@pytest.fixture(scope="module")
def world():
    return build(SmallRooms(original=4), held_out=1)


def test_the_progress_bar_of_evaluation_counts_every_set(world, tmp_path, monkeypatch):
    flash = [(SetKey("3dcc", "flash", severity), world.data.test["image"]) for severity in (1, 5)]
    data = dataclasses.replace(world.data, precomputed=lambda: flash, num_precomputed=len(flash))
    run = Run(Programs(SETTINGS, dataclasses.replace(world, data=data)), tmp_path, seed=0)
    bars = []

    def evaluate(predict, models, sets, metrics, total=None):
        bars.append((total, len(list(sets))))
        return {key: {} for key in models}

    monkeypatch.setattr(module, "evaluate", evaluate)
    run.evaluate({ModelKey("control"): None})
    total, count = bars[0]
    assert total == count == 1 + 6 + 2 * (15 + 10) + 2


def test_a_prompt_is_shown_on_its_subset_or_on_each_in_turn(world):
    of_all, of_a = PromptSet(("x",)), PromptSet(("x",), subset="a")
    assert example_rows(world, of_all).tolist() == [0, 1, 2]
    data = dataclasses.replace(world.data, subsets={"a": np.array([3, 1]), "b": np.array([0])})
    world = dataclasses.replace(world, data=data)
    assert example_rows(world, of_a).tolist() == [3, 1, 3]
    assert example_rows(world, of_all).tolist() == [3, 0, 1]
