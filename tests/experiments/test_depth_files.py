"""The depth experiment on miniatures of real data, in their layouts, with small random models in theirs."""

import csv
import math
import shlex
from itertools import chain

import numpy as np
import pytest
import torch

from gap_jax.closed_loop.arms import ARMS
from gap_jax.closed_loop.command import execute, parse
from gap_jax.data.__main__ import main as prepare
from gap_jax.data.prepared import Prepared
from gap_jax.experiments.depth.__main__ import EXPERIMENT
from gap_jax.experiments.depth.files import build
from gap_jax.experiments.depth.settings import DepthFiles
from gap_jax.experiments.depth.task import depth_task
from gap_jax.report.results import load
from tests.data import depth_files
from tests.models.test_depth_unet import TorchUNet
from tests.torch_references.depth import transformers_dpt

SIDE = 64
BUILDINGS = {"oak": "train", "elm": "val", "ash": "test"}
SHORT = shlex.split(
    "--optimizing.steps 2 --optimizing.batch 2 --optimizing.micro-batch 2 --optimizing.denoising-steps 2 "
    "--sampling.size 64 --optimizing.random-prompts 2 --generating.images 4 --generating.batch 2 "
    "--generating.denoising-steps 2 --finetuning.steps 2 "
    "--finetuning.batch 2 --evaluating.images 4 --evaluating.severities 1"
)


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    """Taskonomy and Replica, raw and prepared, and a corruption of Taskonomy's test images."""
    root = tmp_path_factory.mktemp("data")
    for number, building in enumerate(BUILDINGS):
        for point in range(6):
            paths = depth_files.taskonomy(root / "taskonomy", building, point)
            depth_files.write(paths, depth_files.draw(10 * number + point, (SIDE, SIDE)))
            corrupted = root / "3dcc" / "occlusion" / "1" / paths[0].relative_to(root / "taskonomy")
            depth_files.save(corrupted, depth_files.draw(100 + point, (SIDE, SIDE)).image)
    with (root / "taskonomy" / "splits.csv").open("w", newline="") as stream:
        lines = csv.writer(stream)
        lines.writerow(("id", "train", "val", "test"))
        for building, split in BUILDINGS.items():
            lines.writerow((building, *(int(split == name) for name in ("train", "val", "test"))))
    for point in range(12):
        paths = depth_files.omnidata(root / "omnidata", "replica", "hall", point)
        depth_files.write(paths, depth_files.draw(50 + point, (SIDE, SIDE)))
    made = ["--data-dir", str(root / "prepared"), "--size", str(SIDE)]
    prepare(["prepare", "taskonomy", "--root", str(root / "taskonomy"), *made])
    prepare(
        [
            "prepare",
            "omnidata",
            "--root",
            str(root / "omnidata"),
            *made,
            "--component",
            "replica",
            "--far",
            "8000",
        ]
    )
    return root


@pytest.fixture
def run(data, sd15, clip, tmp_path, one_process):
    """`run(preset, model, …)`: the results of the experiment on the miniatures."""

    def run(preset, model, *more):
        given = ["--preset", preset, "--quick", "--work", str(tmp_path / "work"), *SHORT]
        given += ["--world.data", str(data / "prepared" / "taskonomy"), "--world.model", str(model)]
        given += ["--world.pipeline", str(sd15.folder), "--world.controlnet", str(sd15.folder / "controlnet")]
        given += ["--world.clip", str(clip.folder), "--world.size", str(SIDE), *more]
        execute(EXPERIMENT, parse(EXPERIMENT, given))
        assert (tmp_path / "work" / "report" / "index.html").stat().st_size > 50_000
        return load(tmp_path / "work" / "results.json")

    return run


def scores(results):
    """L1 of every arm by the kind and name of the set."""
    found = {(column.kind, column.name): column.scores for column in results.columns}
    assert all(math.isfinite(v) for s in found.values() for m in s.values() for vs in m.values() for v in vs)
    return found


@pytest.fixture
def unet(tmp_path):
    torch.manual_seed(0)
    path = tmp_path / "rgb2depth_consistency.pth"
    torch.save(TorchUNet(2, 8).state_dict(), path)
    return path


def test_taskonomy_with_the_unet_runs_through_all_stages(data, run, unet):
    arms = ("control", "agnostic", "agnostic-random", "guided-adversarial")
    results = run("taskonomy-unet", unet, "--world.corrupted", str(data / "3dcc"), "--arms", *arms)
    found = scores(results)
    assert ("clean", "clean") in found and ("3dcc", "occlusion") in found and ("cc", "fog") in found
    assert results.generated["guided-adversarial"].kept == 4
    targets = {prompt.target for prompt in results.prompts if prompt.arm == "guided-adversarial"}
    assert targets == {"fog", "blur"}
    words = [len(prompt.words) for prompt in results.prompts if prompt.arm == "agnostic-random"]
    assert words == [1, 1]  # prompts of one placeholder each


@pytest.mark.slow
def test_every_arm_runs_with_targets_of_every_form_several_models_and_iterations(
    data, run, unet, clip, tmp_path
):
    width = clip.clip.model.vision_model.hidden_size
    torch.save({"mean": torch.randn(width), "std": torch.rand(width)}, tmp_path / "night.pt")
    torch.save(torch.randn(77, 48), tmp_path / "text.pt")
    (tmp_path / "shown").mkdir()
    for i in range(2):
        depth_files.save(tmp_path / "shown" / f"{i}.png", depth_files.draw(i, (SIDE, SIDE)).image)
    torch.manual_seed(1)
    torch.save(TorchUNet(2, 8).state_dict(), tmp_path / "other.pth")
    arms = [name for name, arm in ARMS.items() if not arm.baseline]
    targets = {"fog": "a room in fog", "night": "night.pt", "text": "text.pt", "shown": "shown"}
    given = chain(*((name, value if " " in value else tmp_path / value) for name, value in targets.items()))
    more = [
        "--arms",
        *arms,
        "--world.targets",
        *map(str, given),
        "--world.models",
        str(tmp_path / "other.pth"),
    ]
    more += ["--iterations", "2", "--optimizing.backprop-steps", "1", "--evaluating.severities"]
    results = run("taskonomy-unet", unet, *more)
    aims = {name: {prompt.target for prompt in results.prompts if prompt.arm == name} for name in arms}
    assert aims["guided"] == aims["guided-adversarial"] == {"night", "shown"}
    assert aims["guided-text"] == aims["guided-adversarial-text"] == {"fog", "text"}
    assert aims["guided-inversion"] == aims["guided-adversarial-inversion"] == {"shown"}
    assert ("domain", "fog") in scores(results) and ("domain", "blur") not in scores(results)
    assert {name for name, style in results.arms.items() if style.earlier_of} == {
        f"{name}, iteration 1" for name in arms
    }
    assert [row.name for row in results.models][-1] == "prompts against other"
    assert all(list(row.scores) == ["f", "other"] for row in results.models)


@pytest.mark.slow
def test_replica_is_target_and_test_with_dpt(data, run, tmp_path):
    transformers_dpt("hybrid").save_pretrained(tmp_path / "dpt")
    replica = str(data / "prepared" / "omnidata")
    more = [
        "--world.domains.replica",
        replica,
        "--world.targets.replica",
        replica,
        "--world.loss",
        "midas",
    ]
    results = run("replica", tmp_path / "dpt", *more)
    assert ("domain", "replica") in scores(results)
    guided = [prompt for prompt in results.prompts if prompt.arm == "guided-adversarial"]
    assert {prompt.target for prompt in guided} == {"replica"} and len(guided[0].targets) == 8


def test_data_that_is_not_prepared_says_how_to(tmp_path, data):
    with pytest.raises(FileNotFoundError, match=r"gap_jax\.data prepare"):
        Prepared(tmp_path, "train")
    with pytest.raises(ValueError, match="several data sets: name one of"):
        Prepared(data / "prepared", "train")
    with pytest.raises(ValueError, match="no examples in the split 'test'"):
        Prepared(data / "prepared" / "omnidata", "test")
    with pytest.raises(ValueError, match="lack keep; found depth, file, id, image, mask"):
        Prepared(data / "prepared" / "omnidata", "train", fields=("image", "keep"))
    with pytest.raises(FileNotFoundError, match=r"occlusion/2 lacks|has no folders"):
        build(DepthFiles(data=data / "prepared" / "taskonomy", corrupted=data / "taskonomy"), 2)
    with pytest.raises(ValueError, match="domains must not be named fog"):
        build(DepthFiles(data=data / "prepared" / "taskonomy", domains={"fog": data}), 2)
    few = Prepared(data / "prepared" / "omnidata", "train")
    assert few.select(np.array([3, 1])).files() == [few.files()[3], few.files()[1]]


def test_labels_are_brought_to_the_predictions_size():
    label = np.zeros((1, 8, 8, 1), np.float32)
    label[:, 4:] = 1
    batch = {"depth": label, "mask": np.ones(label.shape, bool)}
    prediction = np.zeros((1, 4, 4, 1), np.float32)
    prediction[:, 2:] = 1
    assert depth_task().loss(prediction, batch) == 0
    assert depth_task().adversarial(prediction[:, ::-1], batch) == -1
