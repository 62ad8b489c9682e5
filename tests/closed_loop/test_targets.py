"""Target domains in every form: as a command line gives them, which arms they guide, and in which terms."""

import dataclasses

import jax
import numpy as np
import pytest
import torch
from PIL import Image

from gap_jax.closed_loop.arm_prompts import populations, targets_of
from gap_jax.closed_loop.arms import ARMS
from gap_jax.closed_loop.collect import _target_note
from gap_jax.closed_loop.command import parse
from gap_jax.closed_loop.requirements import check_requirements
from gap_jax.closed_loop.settings import Optimizing, Settings
from gap_jax.closed_loop.targets import read_target, with_targets
from gap_jax.closed_loop.terms import ArmTerms
from gap_jax.closed_loop.world import TargetDomain
from gap_jax.experiments.depth.__main__ import EXPERIMENT as DEPTH
from gap_jax.experiments.depth.settings import SmallRooms
from gap_jax.experiments.depth.small_world import build
from gap_jax.experiments.iwildcam.__main__ import EXPERIMENT as IWILDCAM
from gap_jax.experiments.waterbirds.__main__ import EXPERIMENT as WATERBIRDS
from gap_jax.stages.guidance import FeatureStatistics, l2

GUIDED = (
    "guided",
    "guided-text",
    "guided-inversion",
    "guided-adversarial",
    "guided-adversarial-text",
    "guided-adversarial-inversion",
)


@pytest.fixture(scope="module")
def given(tmp_path_factory):
    """The values that a command line gives, by the forms of the targets."""
    folder = tmp_path_factory.mktemp("targets")
    (folder / "images").mkdir()
    for i in range(2):
        grey = np.full((20, 30, 3), 100 * i, np.uint8)
        Image.fromarray(grey).save(folder / "images" / f"{i}.png")
    torch.save({"mean": torch.ones(128), "std": torch.ones(128)}, folder / "features.pt")
    torch.save(torch.ones(32, 96), folder / "states.pt")
    return {
        "images": str(folder / "images"),
        "features of images": str(folder / "features.pt"),
        "a text": "a dark room",
        "text states": str(folder / "states.pt"),
    }


@pytest.fixture(scope="module")
def world():
    return build(SmallRooms(original=2, target_images=2), held_out=1)


def settings(*arms, **optimizing):
    return Settings(arms=arms, optimizing=Optimizing(batch=2, **optimizing))


def test_a_value_is_a_folder_a_file_or_a_text(given):
    targets = {form: read_target(value, 8) for form, value in given.items()}
    assert {form: target.form for form, target in targets.items()} == {form: form for form in given}
    images = targets["images"].images
    np.testing.assert_allclose(images, np.stack([np.zeros((8, 8, 3)), np.full((8, 8, 3), 100 / 255)]))
    assert targets["a text"].text == "a dark room"
    np.testing.assert_array_equal(targets["text states"].text.mean, np.ones((32, 96)))
    np.testing.assert_array_equal(targets["features of images"].images.std, np.ones(128))
    assert read_target("fog", 8).text == "fog" and read_target("a room, 1/2 dark", 8).text


@pytest.mark.parametrize("value", ["night.pt", "data/night", "./night"])
def test_a_path_that_does_not_exist_is_not_taken_for_a_text(value):
    with pytest.raises(FileNotFoundError, match=f"the target {value} looks like a path, but there is no"):
        read_target(value, 8)


@pytest.mark.parametrize("experiment", [DEPTH, WATERBIRDS, IWILDCAM])
def test_the_command_line_of_every_preset_takes_targets(experiment):
    for preset in experiment.presets:
        form = ["--world.targets.replica", "x"] if preset == "replica" else ["--world.targets", "night", "x"]
        options = parse(experiment, ["--preset", preset, *form])
        assert set(options.world.targets.values()) == {"x"}


def test_given_targets_replace_the_worlds_and_guide_the_arms_that_can_use_them(world, given):
    assert with_targets(world, {}) is world
    world = with_targets(world, given)
    assert world.targets["images"].images.shape == (2, 64, 64, 3)
    found = {name: set(targets_of(ARMS[name], world)) for name in ("control", *GUIDED[:3])}
    assert found == {
        "control": set(given),
        "guided": {"images", "features of images"},
        "guided-text": {"a text", "text states"},
        "guided-inversion": {"images"},
    }
    assert populations(ARMS["guided-adversarial-inversion"], world) == [("images", None)]
    check_requirements(settings(*GUIDED, image_distance="standardised-l2"), world)


def test_every_arm_has_the_terms_of_all_arms_with_weights_of_its_own(world, given):
    world = with_targets(world, given)
    terms = ArmTerms(world, settings(*GUIDED, image_distance="l2", text_distance="l2", guidance_weight=3.0))
    names = ["adversarial", "guidance", "text guidance", "textual inversion"]
    weights = {
        name: [term.weight for term in terms(ARMS[name], None if name == "adversarial" else "images")]
        for name in ("adversarial", "guided-adversarial", "guided-text", "guided-adversarial-inversion")
    }
    assert weights == {
        "adversarial": [1, 0, 0, 0],
        "guided-adversarial": [1, 3, 0, 0],
        "guided-text": [0, 0, 1, 0],
        "guided-adversarial-inversion": [1, 0, 0, 1],
    }
    shapes = []
    for name, target in (("guided", "images"), ("guided", "features of images"), ("guided-text", "a text")):
        found = terms(ARMS[name], target)
        assert [term.name for term in found] == names
        shapes.append(jax.tree.map(np.shape, [term.params for term in found]))
    assert shapes[0] == shapes[1] == shapes[2] != []  # so that one compiled program serves all of them
    (_, image, text, _) = terms(ARMS["guided-text"], "text states")
    np.testing.assert_array_equal(text.params.mean, np.ones((32, 96)))
    assert image.params["target"].mean.shape == (128,)
    features = np.random.default_rng(0).random((1, 128), dtype=np.float32)
    target = terms(ARMS["guided"], "features of images")[1].params["target"]
    np.testing.assert_allclose(l2(features, target), ((features - 1) ** 2).mean(1), rtol=1e-6)


def test_terms_that_no_arm_needs_are_left_out(world):
    names = [term.name for term in ArmTerms(world, settings("control", "guided"))(ARMS["guided"], "fog")]
    assert names == ["adversarial", "guidance"]
    assert len(ArmTerms(world, settings("adversarial"))(ARMS["adversarial"], None)) == 1


@pytest.mark.parametrize(
    ("arm", "form", "needed"),
    [
        ("guided", "a text", "as images or as features of images"),
        ("guided-adversarial-text", "features of images", "as a text or as text states"),
        ("guided-inversion", "features of images", "as images"),
    ],
)
def test_an_arm_without_a_target_that_it_can_use_is_refused(world, given, arm, form, needed):
    world = with_targets(world, {"night": given[form]})
    why = rf"the arm {arm} needs a target domain given {needed}; found night \({form}\): give one with"
    with pytest.raises(ValueError, match=why):
        check_requirements(settings("control", arm), world)


def test_features_that_do_not_fit_are_refused_before_anything_runs(world):
    other = {"night": TargetDomain(images=FeatureStatistics(np.zeros(1024), None))}
    with pytest.raises(ValueError, match=r"target domain night: the mean .* \[128\], found \[1024\]"):
        check_requirements(settings("guided"), dataclasses.replace(world, targets=other))
    single = {"night": TargetDomain(images=np.zeros((1, 64, 64, 3), np.float32))}
    with pytest.raises(ValueError, match="target domain night has one image, and standardised-l2 needs"):
        check_requirements(
            settings("guided", image_distance="standardised-l2"), dataclasses.replace(world, targets=single)
        )
    text = {"night": TargetDomain(text="a dark room")}
    with pytest.raises(ValueError, match="target domain night has one text, and standardised-l2 needs"):
        check_requirements(
            settings("guided-text", text_distance="standardised-l2"), dataclasses.replace(world, targets=text)
        )


def test_the_report_says_what_guided_a_prompt_if_it_was_no_picture(given):
    targets = {form: read_target(value, 8) for form, value in given.items()}
    notes = [_target_note("guided", target) for target in (targets["images"], targets["features of images"])]
    notes += [_target_note("guided-text", target) for target in (targets["a text"], targets["text states"])]
    notes.append(_target_note("guided-text", TargetDomain(text=("a lake", "a river"))))
    assert notes[:4] == ["", "features from a file", "“a dark room”", "text states from a file"]
    assert notes[4] == "“a lake”, “a river”"
    assert _target_note("adversarial", None) == ""
