"""The terms of arms: every arm has the same ones, with the weights that its kind and the settings give."""

import dataclasses
import json

import numpy as np
import pytest

from gap_jax.closed_loop.arms import ARMS
from gap_jax.closed_loop.experiment import optimize_jointly
from gap_jax.closed_loop.programs import Programs
from gap_jax.closed_loop.run import Run
from gap_jax.closed_loop.settings import Generating, Optimizing, SamplingSettings, Settings
from gap_jax.closed_loop.terms import ArmTerms
from gap_jax.experiments.depth.settings import SmallRooms
from gap_jax.experiments.depth.small_world import build
from gap_jax.stages.optimize import load_trajectory

ARM = "guided-adversarial-set"
SETTINGS = Settings(
    arms=(ARM,),
    optimizing=Optimizing(
        prompts=2,
        steps=2,
        batch=2,
        micro_batch=1,
        denoising_steps=1,
        guidance_weight=3.0,
        diversity_weight=0.5,
    ),
    generating=Generating(images=3, batch=2, denoising_steps=1, difficulty=(0.2, 0.7)),
)


@pytest.fixture(scope="module")
def world():
    world = build(SmallRooms(original=2), held_out=1)
    name, target = next(iter(world.targets.items()))
    return dataclasses.replace(world, targets={name: target})


def weights(world, settings, arm):
    return {term.name: term.weight for term in ArmTerms(world, settings)(ARMS[arm], None)}


def test_set_terms_are_there_if_the_settings_use_them(world):
    assert set(weights(world, Settings(), "guided-adversarial")) == {"adversarial", "guidance"}
    plain = dataclasses.replace(SETTINGS, arms=("adversarial",))
    assert set(weights(world, plain, "adversarial")) == {"adversarial", "diversity"}


@pytest.mark.parametrize(
    ("arm", "adversarial", "guidance", "set_guidance", "diversity"),
    [
        (ARM, 1, 0, 3, 0.5),
        ("guided-set", 0, 0, 3, 0.5),
        ("guided-adversarial", 1, 3, 0, 0.5),
        ("control", 0, 0, 0, 0),
    ],
)
def test_every_arm_has_all_terms_with_weights_of_its_own(
    world, arm, adversarial, guidance, set_guidance, diversity
):
    settings = dataclasses.replace(SETTINGS, arms=("guided", ARM))
    assert weights(world, settings, arm) == {
        "adversarial": adversarial,
        "guidance": guidance,
        "set guidance": set_guidance,
        "diversity": diversity,
    }
    assert ARMS["guided-set"].guided


@pytest.mark.slow
def test_a_set_guided_arm_with_diversity_generates_its_number_of_images_in_a_band(world, tmp_path):
    run = Run(Programs(SETTINGS, world), tmp_path, seed=0)
    (produced,) = run.run_until("generate")
    label = produced.prompt_sets[0].label
    trajectory = load_trajectory(produced.optimized / label)
    for name in ("set guidance", "diversity"):
        assert (
            np.ptp(trajectory[name], 1).max() < 1e-5 and (np.abs(np.diff(trajectory[name], axis=0)) > 0).all()
        )
    assert np.isfinite(trajectory["loss"]).all()
    expected = sum(
        weight * trajectory[name]
        for name, weight in {"adversarial": 1, "set guidance": 3, "diversity": 0.5}.items()
    )
    np.testing.assert_allclose(trajectory["loss"], expected, rtol=1e-4)
    summary = json.loads((produced.generated / "summary.json").read_text())
    assert summary["images"] == 3 and summary["dropped"]["model_loss above the band"] > 0


def test_settings_that_the_new_terms_cannot_have_are_refused():
    with pytest.raises(ValueError, match="several prompts to compare: set prompts to 2 or more; found 1"):
        Settings(optimizing=Optimizing(prompts=1, diversity_weight=0.1))
    with pytest.raises(ValueError, match="set_temperature must be above 0; found 0"):
        Settings(optimizing=Optimizing(set_temperature=0.0))
    for band in ((0.8, 0.2), (-0.1, 0.5), (0.5, 1.1)):
        with pytest.raises(ValueError, match=r"difficulty must be (two numbers, the first|between 0 and 1)"):
            Settings(generating=Generating(difficulty=band))


@pytest.mark.parametrize(("general", "expected"), [(1.0, 0.8), (0.5, 0.5)])
def test_sdedit_has_its_own_strength_where_images_are_generated(world, general, expected):
    strengths = []

    def align(strength):
        strengths.append(strength)
        return world.task.align(strength)

    watched = dataclasses.replace(world, task=dataclasses.replace(world.task, align=align))
    settings = Settings(
        sampling=SamplingSettings(strength=general), generating=Generating(sdedit_strength=0.8)
    )
    programs = Programs(settings, watched)
    strengths.clear()
    for arm in ("adversarial-sdedit", "adversarial"):
        programs.draw(ARMS[arm].sdedit)
    assert strengths == [expected, general]


def test_populations_of_arms_and_seeds_run_as_one_where_chips_would_idle(world, tmp_path, monkeypatch):
    arms = ("control", "adversarial", "guided", "guided-adversarial", "adversarial-sdedit")
    config = Optimizing(prompts=8, batch=8, adversarial_start=3)
    programs = Programs(Settings(arms=arms, optimizing=config), world)
    runs = [Run(programs, tmp_path, seed) for seed in range(3)]
    model = world.models.model.params
    tasks = [task for run in runs for name in arms[:-1] for task in run.tasks(name, model)]
    assert len(tasks) == 9 and programs.groups(tasks) == [[i] for i in range(9)]  # on one device
    monkeypatch.setattr("jax.device_count", lambda: 64 * 9)
    assert programs.groups(tasks) == [list(range(9))]
    tasks[4] = tasks[4]._replace(params=dict(model))  # another model
    assert programs.groups(tasks) == [[0, 1, 2, 3, 5, 6, 7, 8], [4]]
    sets = dataclasses.replace(programs.settings, arms=(*arms, "guided-set"))
    assert Programs(sets, world).groups(tasks) == [[i] for i in range(9)]

    optimised = []
    monkeypatch.setattr("gap_jax.closed_loop.experiment.optimize_as_one", optimised.append)
    optimize_jointly(runs)
    [work] = optimised
    places = {(run.seed, task.folder.parent.name) for run, task in work}
    assert len(work) == len(places) == 9  # arms that share prompts are there once
    weights = [run.population_run(task, 72).optimizer.weights.terms for run, task in work[:3]]
    assert [(float(term[0]), int(term[1])) for terms in weights for term in terms] == [
        (1, 0),
        (0, 0),
        (0, 3),
        (1, 0),
        (1, 3),
        (1, 0),
    ]
