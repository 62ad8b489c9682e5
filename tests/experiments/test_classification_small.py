"""The experiments on classes in the small world: what its classifiers lack, and can be taught."""

import json

import jax
import numpy as np
import pytest
import torch
import transformers

from gap_jax.closed_loop.command import execute, parse
from gap_jax.data.masked.iwildcam import TEST_LOCATIONS
from gap_jax.data.masked.waterbirds import GROUPS
from gap_jax.experiments.depth.__main__ import EXPERIMENT as DEPTH
from gap_jax.experiments.iwildcam.__main__ import EXPERIMENT as IWILDCAM
from gap_jax.experiments.iwildcam.settings import SmallAnimals
from gap_jax.experiments.iwildcam.worlds import build_small
from gap_jax.experiments.segmentation.__main__ import EXPERIMENT as SEGMENTATION
from gap_jax.experiments.waterbirds.__main__ import EXPERIMENT as WATERBIRDS
from gap_jax.experiments.waterbirds.settings import SmallBirds
from gap_jax.experiments.waterbirds.worlds import build_small as build_birds
from gap_jax.models.resnet import ResNet
from gap_jax.report.results import AVERAGE, WORST, load
from gap_jax.small_worlds import rooms, wildlife
from gap_jax.tasks.classification import background_cross_entropy, uniform_cross_entropy
from gap_jax.weights.classifier import save_classifier


@pytest.fixture
def accuracies(tmp_path, one_process):
    """`accuracies(experiment, arms)`: by test set and arm, without images generated."""

    def accuracies(experiment, *arms):
        execute(
            experiment,
            parse(experiment, ["--work", str(tmp_path), "--evaluating.images", "40", "--arms", *arms]),
        )
        columns = load(tmp_path / "results.json").columns
        return {c.name: {arm: c.scores[arm]["accuracy"][0] for arm in arms} for c in columns}

    return accuracies


def test_birds_are_found_wherever_they_are_once_they_were_pasted_anywhere(accuracies, tmp_path):
    found = accuracies(WATERBIRDS, "control", "copy-paste")
    assert set(found) == {"clean", *GROUPS, AVERAGE, WORST}
    assert found[WORST]["control"] < 0.2
    assert found[WORST]["copy-paste"] > 0.7 and found["clean"]["copy-paste"] > 0.8  # it does not guess
    for arm, accuracy in found["clean"].items():  # transformers reads the fine-tuned models
        folder = tmp_path / "seed-0" / arm / "finetune" / "model"
        network = transformers.AutoModelForImageClassification.from_pretrained(folder)
        config = json.loads((folder / "preprocessor_config.json").read_text())
        test = build_birds(SmallBirds(original=4), held_out=40).data.test
        images = (test["image"] - config["image_mean"]) / config["image_std"]
        logits = network(torch.tensor(images, dtype=torch.float32).permute(0, 3, 1, 2)).logits
        assert np.mean(logits.argmax(-1).numpy() == test["label"]) == pytest.approx(accuracy)


def test_unseen_cameras_are_harder_and_other_pictures_help(accuracies):
    found = accuracies(IWILDCAM, "control", "randaugment")
    assert set(found) == {"clean", *(f"camera {number}" for number in TEST_LOCATIONS), AVERAGE, WORST}
    assert found["clean"]["control"] > 0.9
    assert found[WORST]["control"] < found[WORST]["randaugment"] < found["clean"]["randaugment"]


@pytest.mark.parametrize("experiment", [DEPTH, SEGMENTATION, WATERBIRDS, IWILDCAM])
def test_models_and_targets_that_cannot_be_used_are_told_before_anything_is_rendered(
    experiment, tmp_path, monkeypatch
):
    monkeypatch.delattr(rooms, "render")
    monkeypatch.delattr(wildlife, "render_kinds")
    model = ResNet(4, (8, 16), (1, 1), num_labels=5)
    params = jax.jit(model.init)(jax.random.key(0), *model.example_inputs())["params"]
    save_classifier(model, params, tmp_path / "five")
    cases = {
        "there is no .*missing/model": ["--world.models", "missing/model"],
        "photos/night looks like a path": ["--world.targets", "night", "photos/night"],
    }
    if experiment in (WATERBIRDS, IWILDCAM):
        cases["the five must have [27] classes like the data; found 5"] = [
            "--world.models",
            str(tmp_path / "five"),
        ]
    for message, options in cases.items():
        with pytest.raises((ValueError, FileNotFoundError), match=message):
            experiment.build_world(parse(experiment, options).world, 4)


def test_settings_can_be_chosen_by_cameras_of_their_own():
    chosen = build_small(SmallAnimals(unseen="validation", adversarial="uniform"), held_out=8)
    tested = build_small(SmallAnimals(), held_out=8)
    assert list(chosen.data.domains) == ["camera 34", "camera 35"]
    assert list(chosen.targets) == [
        f"{name}, {time}" for name in chosen.data.domains for time in ("day", "night")
    ]
    assert not pictures(chosen) & pictures(tested)
    for name in ("validation", "test"):
        np.testing.assert_equal(getattr(chosen.data, name), getattr(tested.data, name))
    assert (chosen.task.adversarial, tested.task.adversarial) == (
        uniform_cross_entropy,
        background_cross_entropy,
    )


def pictures(world):
    """Return the pictures of the unseen cameras, of targets and of test sets, as bytes."""
    shown = [domain["image"] for domain in world.data.domains.values()]
    shown += [target.images for target in world.targets.values()]
    return {image.tobytes() for image in np.concatenate(shown)}
