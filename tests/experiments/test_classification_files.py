"""The experiments on classes on miniatures of real data in their layouts, with small random models."""

import json
import math
import shlex
import shutil
import subprocess
import sys

import jax
import numpy as np
import pytest
import torch
from PIL import Image

from gap_jax.closed_loop.arms import ARMS
from gap_jax.closed_loop.command import execute, parse
from gap_jax.data.__main__ import main as prepare
from gap_jax.data.masked.iwildcam import CATEGORIES
from gap_jax.data.masked.waterbirds import CLASSES
from gap_jax.data.prepared import Prepared
from gap_jax.experiments.classification.worlds import class_subsets
from gap_jax.experiments.iwildcam.__main__ import EXPERIMENT as IWILDCAM
from gap_jax.experiments.waterbirds.__main__ import EXPERIMENT as WATERBIRDS
from gap_jax.experiments.waterbirds.worlds import ALIA_TEXTS, SHARED
from gap_jax.models.resnet import ResNet
from gap_jax.report.results import AVERAGE, CONSTANT, WORST, load
from gap_jax.weights.classifier import save_classifier
from tests.data.masked_files import Bird, Shot, write_iwildcam, write_waterbirds
from tests.experiments.processes import (
    assert_images_agree,
    assert_same_end,
    assert_tables_agree,
    environment,
    stopped,
)

SIZE = 64
SHORT = shlex.split(
    "--preset paper --quick --sampling.size 64 --optimizing.prompts 1 --optimizing.steps 2 "
    "--optimizing.batch 2 --optimizing.micro-batch 2 --optimizing.denoising-steps 2 "
    "--optimizing.adversarial-start 0 "
    "--generating.images 8 --generating.batch 4 --generating.denoising-steps 2 --finetuning.steps 4 "
    "--finetuning.batch 4 --evaluating.images 16 --evaluating.severities --evaluating.efficiency 4 "
    "--world.size 64 --world.target-images 2"
)


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    """Waterbirds and iWildCam, raw and prepared."""
    root = tmp_path_factory.mktemp("data")
    train = [Bird(f"{i:03d}.Bird", i % 2, i % 2) for i in range(16) for _ in range(4)]
    held_out = [Bird("001.Bird", i // 2 % 2, i % 2, split) for split in (1, 2) for i in range(12)]
    write_waterbirds(root / "waterbirds", train + held_out)
    every = [Shot(y, 5, hour) for hour in (12, 23) for y in CATEGORIES]
    unseen = [Shot(y, place, hour) for y in list(CATEGORIES)[:4] for place in (287, 288) for hour in (12, 23)]
    tables = {"train": every, "train_extra": every, "val": every, "test": unseen}
    write_iwildcam(root / "iwildcam", tables)
    for name in ("waterbirds", "iwildcam"):
        given = ["prepare", name, "--root", str(root / name), "--data-dir", str(root / "prepared")]
        prepare([*given, "--size", str(SIZE)])
    return root / "prepared"


@pytest.fixture
def pipeline(sd15, tmp_path):
    """Stable Diffusion as it comes, without a ControlNet."""
    folder = tmp_path / "pipeline"
    shutil.copytree(sd15.folder, folder)
    index = json.loads((folder / "model_index.json").read_text())
    del index["controlnet"]
    (folder / "model_index.json").write_text(json.dumps(index))
    return folder


@pytest.fixture
def given(data, pipeline, clip, tmp_path):
    """`given(data set, classes, arms)`: the arguments of an experiment on the miniatures."""

    def given(name, classes, arms):
        for part, width in (("model", 8), ("student", 4)):
            model = ResNet(4, (width, 2 * width), (1, 1), num_labels=classes)
            params = jax.device_get(
                jax.jit(model.init)(jax.random.key(width), *model.example_inputs())["params"]
            )
            save_classifier(model, params, tmp_path / part)
        found = [*SHORT, "--arms", *arms, "--world.data", str(data / name)]
        found += ["--world.model", str(tmp_path / "model"), "--world.pipeline", str(pipeline)]
        return [*found, "--world.clip", str(clip.folder)]

    return given


@pytest.fixture
def run(given, tmp_path, one_process):
    """`run(experiment, data set, classes, arms, …)`: the results of an experiment on the miniatures."""

    def run(experiment, name, classes, arms, *more):
        execute(
            experiment,
            parse(experiment, [*given(name, classes, arms), "--work", str(tmp_path / "work"), *more]),
        )
        assert (tmp_path / "work" / "report" / "index.html").stat().st_size > 50_000
        return load(tmp_path / "work" / "results.json")

    return run


def domains(results):
    """The columns by name, of which all numbers are finite."""
    found = {column.name: column.scores for column in results.columns}
    assert all(math.isfinite(v) for s in found.values() for m in s.values() for vs in m.values() for v in vs)
    return found


def test_waterbirds_has_a_prompt_for_each_class_and_the_worst_group(run, tmp_path):
    arms = ("control", "written", "adversarial", "guided-adversarial", "guided-text", "cutmix", "copy-paste")
    results = run(WATERBIRDS, "waterbirds", 2, arms)
    found = domains(results)
    groups = ("landbird on land", "waterbird on land", "landbird on water", "waterbird on water")
    assert set(found) == {"clean", *groups, AVERAGE, WORST}
    for arm in arms:
        scores = [found[group][arm]["accuracy"][0] for group in groups]
        assert found[WORST][arm]["accuracy"][0] == min(scores)
        assert found[AVERAGE][arm]["accuracy"][0] == pytest.approx(np.mean(scores))
    aims = {(prompt.target, prompt.name) for prompt in results.prompts if prompt.target}
    guided = ("guided-adversarial", "guided-text")
    assert aims == {(SHARED, f"<{arm}-all-groups-{bird}-0>") for arm in guided for bird in CLASSES}
    written = {prompt.name for prompt in results.prompts if prompt.arm == "written"}
    assert written == set(ALIA_TEXTS) and len(written) == 7
    images = tmp_path / "work" / "seed-0" / "adversarial" / "generate" / "images" / "train"
    lines = (images / "metadata.jsonl").read_text().splitlines()
    assert len(lines) == 8
    for line in lines:
        assert ("landbird" in line.split('"text"')[1]) == ('"landbird/' in line)
    assert set(results.efficiency) == {AVERAGE, WORST}


TORCH_STUDENT = """
from torch import nn

def classifier():
    layers = nn.Conv2d(3, 4, 7, 4, 3), nn.BatchNorm2d(4), nn.ReLU(), nn.AdaptiveAvgPool2d(2), nn.Flatten()
    return nn.Sequential(*layers, nn.Linear(16, 7))
"""


def test_iwildcam_is_guided_by_camera_and_time_and_fine_tunes_the_last_layer_of_a_torch_module(
    run, tmp_path, monkeypatch, capsys
):
    (tmp_path / "torch_student.py").write_text(TORCH_STUDENT)
    monkeypatch.syspath_prepend(tmp_path)
    arms = ("control", "agnostic", "guided-adversarial", "balanced", "randaugment", "augmix")
    more = ("--world.student", "torch_student:classifier", "--optimizing.adversarial-start", "1")
    results = run(IWILDCAM, "i_wild_cam", 7, arms, *more)
    found = domains(results)
    cameras = ("camera 287", "camera 288")
    assert set(found) == {"clean", *cameras, AVERAGE, WORST}
    for arm in arms:
        scores = [found[camera][arm]["macro_f1"][0] for camera in cameras]
        assert found[AVERAGE][arm]["macro_f1"][0] == pytest.approx(np.mean(scores))
    tested = ", ".join(f"2 of {camera}, {time}" for camera in cameras for time in ("day", "night"))
    assert f"tested: {tested}\n" in capsys.readouterr().out
    assert AVERAGE in results.efficiency
    assert set(found["clean"]["control"]) == {"accuracy", "macro_f1", "macro_recall", "calibration"}
    aims = {prompt.target for prompt in results.prompts if prompt.arm == "guided-adversarial"}
    assert aims == {f"camera {camera}, {time}" for camera in (287, 288) for time in ("day", "night")}
    agnostic = [prompt.name for prompt in results.prompts if prompt.arm == "agnostic"]
    assert len(agnostic) == 7 and "a camera trap photo of a cattle" in agnostic
    assert not np.isnan(results.critic_real).any()


@pytest.fixture
def build(given):
    """`build(experiment, data set, classes, …)`: the world of an experiment on the miniatures."""

    def build(experiment, name, classes, *more):
        options = parse(experiment, [*given(name, classes, ("control",)), *more])
        return experiment.build_world(options.world, 16)

    return build


def test_waterbirds_checkpoints_are_chosen_by_the_biased_groups_and_its_target_has_all(build, data):
    biased = build(WATERBIRDS, "waterbirds", 2, "--world.target-images", "4")
    assert len(biased.data.validation["clean"]["label"]) == 6
    every = build(WATERBIRDS, "waterbirds", 2, "--world.validation", "all groups")
    assert len(every.data.validation["clean"]["label"]) == 12
    examples = Prepared(data / "waterbirds", "validation", fields=("image", "group"))
    groups = {examples[i]["image"].tobytes(): int(examples[i]["group"]) for i in range(len(examples))}
    assert sorted(groups[image.tobytes()] for image in biased.targets[SHARED].images) == [0, 1, 2, 3]
    chosen = biased.data.validation["clean"]["image"]
    assert sorted(groups[image.tobytes()] for image in chosen) == [0, 0, 0, 3, 3, 3]


def test_iwildcam_makes_images_of_the_targets_time_and_of_the_classes_that_are_kept(build, data):
    hours = Prepared(data / "i_wild_cam", "train", fields=("hour",)).column("hour")
    world = build(IWILDCAM, "i_wild_cam", 7, "--world.keep-classes", "zebras", "giraffes")
    assert set(world.data.subsets) == {"zebras", "giraffes"}
    for name, target in world.targets.items():
        assert set(hours[target.sources]) == {12 if name.endswith("day") else 23}
    night = build(IWILDCAM, "i_wild_cam", 7, "--world.time", "night")
    assert set(hours[np.concatenate(list(night.data.subsets.values()))]) == {23}
    assert all(target.sources is None for target in night.targets.values())
    with pytest.raises(ValueError, match=r"keep_classes must be among background, .*; found zebra$"):
        build(IWILDCAM, "i_wild_cam", 7, "--world.keep-classes", "zebra")


def test_a_classifier_of_other_classes_is_refused(run):
    with pytest.raises(ValueError, match="model must have 2 classes like the data; found 3"):
        run(WATERBIRDS, "waterbirds", 3, ("control",))


def test_a_class_of_which_nothing_is_kept_is_refused():
    label, kept = np.array([0, 1, 1, 2]), np.array([False, True, False, False])
    with pytest.raises(ValueError, match="no training image of zebra has a mask of its foreground"):
        class_subsets(label, kept, ("nothing", "impala", "zebra"), background=0)
    found = class_subsets(label, kept | (label == 2), ("nothing", "impala", "zebra"), background=0)
    assert {name: numbers.tolist() for name, numbers in found.items()} == {
        "impala": [1],
        "zebra": [3],
        "nothing": [0],
    }
    assert list(found)[-1] == "nothing"  # pictures of it would be a poor start


@pytest.fixture
def command(given):
    """`command(experiment, work, …)`: a process of its own, with arms of every kind."""

    def command(experiment, work, *more):
        name, classes = {"waterbirds": ("waterbirds", 2), "iwildcam": ("i_wild_cam", 7)}[experiment]
        rest = given(
            name, classes, ("control", "agnostic", "adversarial", "guided-adversarial", "copy-paste")
        )
        program = [sys.executable, "-m", f"gap_jax.experiments.{experiment}"]
        return [*program, *rest, "--optimizing.checkpoint-every", "1", "--work", str(work), *more]

    return command


@pytest.mark.slow
@pytest.mark.parametrize(
    ("experiment", "name", "classes"), [(WATERBIRDS, "waterbirds", 2), (IWILDCAM, "i_wild_cam", 7)]
)
def test_every_arm_runs_with_targets_of_every_form_a_student_and_several_models(
    run, clip, tmp_path, experiment, name, classes
):
    width = clip.clip.model.vision_model.hidden_size
    torch.save({"mean": torch.randn(width), "std": torch.rand(width)}, tmp_path / "night.pt")
    (tmp_path / "shown").mkdir()
    for i in range(2):
        Image.fromarray(np.full((SIZE, SIZE, 3), 90 * i, np.uint8)).save(tmp_path / "shown" / f"{i}.png")
    given = ["dusk", "a photo at dusk", "night", str(tmp_path / "night.pt"), "shown", str(tmp_path / "shown")]
    student = str(tmp_path / "student")
    more = ["--world.targets", *given, "--world.student", student, "--world.models", student]
    results = run(experiment, name, classes, tuple(ARMS), *more)
    aims = {arm: {prompt.target for prompt in results.prompts if prompt.arm == arm} for arm in ARMS}
    assert aims["guided"] == aims["guided-adversarial"] == {"night", "shown"}
    assert aims["guided-text"] == aims["guided-adversarial-text"] == {"dusk"}
    assert aims["guided-inversion"] == aims["guided-adversarial-inversion"] == {"shown"}
    assert set(domains(results)["clean"]) == {*ARMS, CONSTANT}
    assert [row.name for row in results.models][-1] == "prompts against student"


@pytest.mark.slow
@pytest.mark.parametrize("experiment", ["waterbirds", "iwildcam"])
def test_eight_devices_generate_the_same_images_and_end_with_the_table_of_one(command, experiment, tmp_path):
    works = tmp_path / "1", tmp_path / "8"
    more = [f"--{stage}.batch=8" for stage in ("optimizing", "generating", "finetuning")]
    for devices, work in zip((1, 8), works, strict=True):
        subprocess.run(command(experiment, work, *more), env=environment(devices, optimization=3), check=True)
    assert_images_agree(*works, "agnostic")  # of prompts that rounding cannot turn
    assert_tables_agree(*works, "accuracy")
    assert_tables_agree(*works, "calibration", rtol=0.02)


@pytest.mark.slow
def test_stopped_in_every_stage_it_ends_with_the_same_table(command, tmp_path):
    works = tmp_path / "stopped", tmp_path / "whole"
    arm = works[0] / "seed-0" / "guided-adversarial"
    for sign in (
        works[0] / "seed-0" / "adversarial" / "optimize" / "waterbird" / "checkpoints" / "1",
        arm / "optimize" / "landbird on water, landbird" / "checkpoints" / "1",
        arm / "generate" / "chunks",
        arm / "finetune" / "checkpoints" / "2",
        works[0] / "seed-0" / "copy-paste" / "finetune" / "checkpoints",
    ):
        stopped(command("waterbirds", works[0]), sign)
    for work in works:
        subprocess.run(command("waterbirds", work), env=environment(), check=True)
    assert_same_end(*works)
