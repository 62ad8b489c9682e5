"""Measurements of several seeds and iterations as the columns and curves of the results."""

import numpy as np
import pytest

from gap_jax.closed_loop.arms import ARMS
from gap_jax.closed_loop.collect import _columns, _efficiency, _history, _prompt, _result_arms, _style
from gap_jax.closed_loop.measurements import ModelKey
from gap_jax.closed_loop.programs import Programs
from gap_jax.closed_loop.run import Produced, Run
from gap_jax.closed_loop.settings import Optimizing, Settings
from gap_jax.experiments.depth.settings import SmallRooms
from gap_jax.experiments.depth.small_world import build
from gap_jax.report.results import CONSTANT
from gap_jax.stages.evaluate import CLEAN, SetKey

FOG, TARGET = SetKey("cc", "fog", 2), SetKey("domain", "fog")


def scores(*values):
    """One seed's measurements, of models with their values on every set."""
    return {key: {test_set: {"l1": value} for test_set in (CLEAN, FOG, TARGET)} for key, value in values}


def test_every_iteration_is_an_arm_of_its_own():
    settings = Settings(arms=("control", "adversarial"), iterations=2)
    arms = _result_arms(settings)
    assert arms == {
        "control, iteration 1": ModelKey("control", 0),
        "control": ModelKey("control", 1),
        "adversarial, iteration 1": ModelKey("adversarial", 0),
        "adversarial": ModelKey("adversarial", 1),
    }
    values = [(key, i / 10) for i, key in enumerate(arms.values())]
    seeds = [scores(*values, (ModelKey(CONSTANT), 1.0)), scores(*values, (ModelKey(CONSTANT), 1.0))]
    columns = list(_columns(seeds, arms, ("l1",)))
    assert [(column.kind, column.name, column.severity) for column in columns] == [CLEAN, FOG, TARGET]
    for column in columns:
        assert {arm: score["l1"] for arm, score in column.scores.items()} == {
            "control, iteration 1": (0.0, 0.0),
            "control": (0.1, 0.1),
            "adversarial, iteration 1": (0.2, 0.2),
            "adversarial": (0.3, 0.3),
            CONSTANT: (1.0, 1.0),
        }


def test_an_earlier_iteration_looks_like_its_arm_with_another_marker():
    first, second, last = (_style(ModelKey("adversarial", i), 3) for i in range(3))
    style, own = first, ARMS["adversarial"].style
    assert style.label == "Adversarial, iteration 1" and style.colour == own.colour
    assert len({style.marker, own.marker, second.marker}) == 3 and style.earlier_of == "adversarial"
    assert last == own


def test_a_constant_prediction_under_corruption_is_that_on_clean_images():
    constant = {CLEAN: {"l1": 0.5}, TARGET: {"l1": 0.7}}
    seed = scores((ModelKey("control"), 0.1)) | {ModelKey(CONSTANT): constant}
    columns = list(_columns([seed], {"control": ModelKey("control")}, ("l1",)))
    assert [column.scores[CONSTANT]["l1"] for column in columns] == [(0.5,), (0.5,), (0.7,)]


@pytest.mark.parametrize(("window", "chosen"), [(1, 4), (3, 2)])
def test_the_chosen_step_of_a_prompt_that_stopped_is_the_one_after_the_windows_oldest_update(window, chosen):
    before = np.arange(6, dtype=np.float32)[:, None, None, None]  # update i begins with the embedding i
    before[4:] = chosen  # it stopped in update 3, the fourth one
    trajectory = {
        "embeddings": before,
        "adversarial": np.arange(6.0)[:, None],
        "stopped": np.array([0, 0, 0, 1, 1, 1.0])[:, None],
    }
    last = np.full((1, 1), chosen, np.float32)
    losses, stopped, paths = _history(trajectory, 0, last, Optimizing(window=window))
    assert stopped == chosen and losses["adversarial"] == (0, 1, 2, 3)
    assert list(paths) == sorted({0, 1, 2, 3, chosen})
    assert {step: float(embedding[0, 0]) for step, embedding in paths.items()} == {s: s for s in paths}


def test_earlier_prompts_that_take_no_step_are_shown_as_they_are(tmp_path):
    settings = Settings(arms=("adversarial",), optimizing=Optimizing(prompts=1, steps=0))
    run = Run(Programs(settings, build(SmallRooms(original=2), held_out=1)), tmp_path, seed=0)
    (prompt_set,) = run.prompts("adversarial", run.world.models.model.params, 0)
    work = Produced(ModelKey("adversarial"), [prompt_set], tmp_path / "seed-0", tmp_path, None)
    drawn = []

    class Gallery:
        def examples(self, work, prompt_set, index, number, paths):
            drawn.append(paths)
            return ()

    prompt = _prompt(run, Gallery(), work, prompt_set, 0, 0)
    assert prompt.steps == 0 and len(prompt.words) == 3
    np.testing.assert_array_equal(drawn[0][0], prompt_set.embeddings[0])


@pytest.mark.parametrize("in_both", [True, False])
def test_a_curve_has_the_control_fewer_images_of_every_seed_and_all(in_both):
    few = ModelKey("guided", images=10)
    models = [(ModelKey("control"), 0.4), (ModelKey("guided"), 0.1), (ModelKey("agnostic"), 0.3)]
    both = [*models, (few, 0.2), (ModelKey("agnostic", images=10), 0.35)]
    seeds = [scores(*both), scores(*(both if in_both else models))]
    arms = {name: ModelKey(name) for name in ("control", "guided")}
    curves = _efficiency(seeds, arms, TARGET, {"guided": 64}, (10,), "l1")
    expected = [(0, (0.4, 0.4)), (10, (0.2, 0.2)), (64, (0.1, 0.1))]
    if not in_both:
        del expected[1]
    assert list(curves) == ["guided"]
    assert [(point.images, point.score) for point in curves["guided"]] == expected
