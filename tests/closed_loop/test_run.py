"""One seed: the test sets that it measures, and the images that its prompts are shown on."""

import dataclasses

import chex
import jax
import numpy as np
import pytest
from safetensors.numpy import load_file

from gap_jax.closed_loop import programs as programs_module
from gap_jax.closed_loop import run as module
from gap_jax.closed_loop.arm_prompts import PromptSet
from gap_jax.closed_loop.measurements import ModelKey, read_measurements
from gap_jax.closed_loop.programs import Programs
from gap_jax.closed_loop.run import CLEAN, Run, example_rows
from gap_jax.closed_loop.settings import Evaluating, Optimizing, SamplingSettings, Settings
from gap_jax.diffusion.schedule import euler
from gap_jax.experiments.depth.settings import SmallRooms
from gap_jax.experiments.depth.small_world import build
from gap_jax.stages.evaluate import SetKey
from gap_jax.weights.depth import load_depth

SETTINGS = Settings(arms=("control",), evaluating=Evaluating(images=2, severities=(1, 2), efficiency=()))


@pytest.fixture(scope="module")
def world():
    return build(SmallRooms(original=4), held_out=1)


def test_the_progress_bar_of_evaluation_counts_every_set(world, tmp_path, monkeypatch):
    flash = [(SetKey("3dcc", "flash", severity), world.data.test["image"]) for severity in (1, 5)]
    data = dataclasses.replace(world.data, precomputed=lambda: flash, num_precomputed=len(flash))
    run = Run(Programs(SETTINGS, dataclasses.replace(world, data=data)), tmp_path, seed=0)
    bars = []

    def evaluate(predict, models, sets, total=None, **options):
        bars.append((total, len(list(sets))))
        return {key: {} for key in models}

    monkeypatch.setattr(module, "evaluate", evaluate)
    run.evaluate({ModelKey("control"): None})
    total, count = bars[0]
    assert total == count == 1 + len(data.domains) + 2 * (15 + 10) + 2


def test_an_evaluation_measures_only_models_that_no_earlier_one_has_measured(world, tmp_path):
    settings = dataclasses.replace(SETTINGS, evaluating=Evaluating(images=2, severities=()))
    run = Run(Programs(settings, world), tmp_path, seed=0)
    params = world.models.model.params
    control, adversarial = ModelKey("control"), ModelKey("adversarial")
    run.evaluate({control: params})
    earlier = read_measurements(run.measurements)[control]
    untouched = run.measurements.stat().st_mtime_ns
    run.evaluate({control: params})
    assert run.measurements.stat().st_mtime_ns == untouched
    wrong = jax.tree.map(np.zeros_like, params)
    run.evaluate({control: wrong, adversarial: params})
    later = read_measurements(run.measurements)
    assert later[control] == later[adversarial] == earlier and CLEAN in earlier


def test_images_are_drawn_by_the_solver_of_the_settings_and_without_a_negative_prompt(world, monkeypatch):
    settings = dataclasses.replace(SETTINGS, sampling=SamplingSettings(solver="euler", guidance_scale=3.0))
    task = dataclasses.replace(world.task, negative_prompt=None)
    programs = Programs(settings, dataclasses.replace(world, task=task))
    weights = programs.generation_weights(np.zeros((1, 77, 8)), model=None)
    monkeypatch.setattr(programs_module, "sample", lambda *arguments: arguments)
    *_, uncond, _, _, _, sampling = programs.draw(1.0)(weights, {"prompt": np.array([0])}, None)
    assert uncond is None and sampling.solver is euler and sampling.guidance_scale == 3.0


def test_fine_tuned_models_and_drawn_prompts_are_written_once(world, tmp_path):
    settings = dataclasses.replace(SETTINGS, optimizing=Optimizing(random_prompts=2))
    run = Run(Programs(settings, world), tmp_path, seed=0)
    params = jax.tree.map(lambda leaf: leaf + 1, world.models.model.params)
    run._save_model(params, tmp_path / "model")
    chex.assert_trees_all_equal(load_depth(tmp_path / "model")[1], jax.device_get(params))
    (drawn,) = run.prompts("agnostic-random", world.models.model.params, 0)
    paths = [
        tmp_path / f"seed-0/agnostic-random/optimize/all/prompts/{i}/learned_embeds.safetensors"
        for i in range(2)
    ]
    for i, path in enumerate(paths):
        (token, embeddings), *_ = load_file(path).items()
        assert token == drawn.texts[i] == f"<agnostic-random-{i}>"
        np.testing.assert_array_equal(embeddings, drawn.embeddings[i])
    written = [path.stat().st_mtime_ns for path in (*paths, tmp_path / "model" / "config.json")]
    run._save_model(world.models.model.params, tmp_path / "model")
    run.prompts("agnostic-random", world.models.model.params, 0)
    assert written == [path.stat().st_mtime_ns for path in (*paths, tmp_path / "model" / "config.json")]


def test_a_prompt_is_shown_on_its_subset_or_on_each_in_turn(world):
    of_all, of_a = PromptSet(("x",)), PromptSet(("x",), subset="a")
    assert example_rows(world, of_all).tolist() == [0, 1, 2]
    data = dataclasses.replace(world.data, subsets={"a": np.array([3, 1]), "b": np.array([0])})
    world = dataclasses.replace(world, data=data)
    assert example_rows(world, of_a).tolist() == [3, 1, 3]
    assert example_rows(world, of_all).tolist() == [3, 0, 1]
