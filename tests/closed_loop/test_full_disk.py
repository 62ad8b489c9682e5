"""A disk that is full at every moment of a run: one line says so, and the same command goes on.

It ends with the same bits as on a disk with space.
The disk is a tmpfs, for which the test must be root. A page of it is freed after each failure.
"""

import re
import shutil
import subprocess
from types import SimpleNamespace

import jax
import numpy as np
import pytest

from gap_jax.checkpoint import check_config
from gap_jax.closed_loop.measurements import ModelKey, write_measurements
from gap_jax.closed_loop.run import Run
from gap_jax.errors import one_line_errors
from gap_jax.models.depth_unet import DepthUNet
from gap_jax.report import page, pictures, results
from gap_jax.stages.evaluate import CLEAN
from gap_jax.weights.depth import save_depth
from tests.report import sample
from tests.stages import test_generate, test_optimize, toy_training

PAGE = 4096
pytestmark = [
    pytest.mark.slow,
    pytest.mark.filterwarnings("error::pytest.PytestUnraisableExceptionWarning"),  # a trace on stderr
]


@pytest.fixture
def disk(tmp_path):
    """A disk of 4 MB."""
    folder = tmp_path / "disk"
    folder.mkdir()
    mounted = subprocess.run(["mount", "-t", "tmpfs", "-o", "size=4m", "tmpfs", folder], capture_output=True)
    if mounted.returncode:
        pytest.skip(f"tmpfs cannot be mounted here: {mounted.stderr.decode()}")
    yield folder
    subprocess.run(["umount", "--lazy", folder], check=True)


def fill(disk, free):
    """Leave `free` pages on the disk, by a file that takes the rest."""
    ballast = disk / "ballast"
    ballast.unlink(missing_ok=True)
    with ballast.open("wb") as stream:
        stream.write(bytes(shutil.disk_usage(disk).free - free * PAGE))


def grow_until_done(disk, stage, more=lambda free: free + 1):
    """Run a stage, with more free pages on the disk after each failure; return the paths of the failures."""
    failed, free = [], 0
    while True:
        fill(disk, free)
        try:
            with one_line_errors():
                stage()
        except SystemExit as stop:
            message = str(stop)
            assert re.fullmatch(r"error: .*; [\d,]+ MB are free on its disk.*", message), message
            assert len(message) < 600
            failed.append(re.search(rf"{re.escape(str(disk))}\S*", message)[0])
            free = more(free)
        else:
            return failed


def content(folder):
    """Return the files of a folder that every run writes alike: no events, of checkpoints the digests."""
    files = {path.relative_to(folder): path for path in folder.rglob("*") if path.is_file()}
    return {
        str(name): path.read_bytes()
        for name, path in files.items()
        if not {"events", "d", "ocdbt.process_0"} & {*name.parts}
        and name.name
        not in ("_METADATA", "_CHECKPOINT_METADATA", "commit_success.txt", "manifest.ocdbt", "_sharding")
        and not name.name.startswith("events.")
    }


def assert_survives(disk, tmp_path, stage, kinds, **growth):
    """Assert that `stage(folder)` fails at each of `kinds`, and ends as on a disk with space."""
    failed = grow_until_done(disk, lambda: stage(disk / "work"), **growth)
    print(len(failed), sorted({re.sub(".*/work/", "", path) for path in failed}))
    assert {kind for kind in kinds if any(re.search(kind, path) for path in failed)} == set(kinds)
    stage(tmp_path / "work")
    assert content(disk / "work") == content(tmp_path / "work")


def test_generating(disk, tmp_path):
    kinds = ("config.json", r"chunks/.*npz", "images", "tfds", "summary.json")
    assert_survives(disk, tmp_path, lambda folder: test_generate.run(folder, count=6), kinds)


def test_optimizing(disk, tmp_path, sd15):
    examples = {"depth": np.random.default_rng(0).random((2, 24, 24, 1), np.float32)}  # of several pages

    def stage(folder):
        test_optimize.run(sd15, folder, steps=2, population=24, examples=examples, picture_every=2)

    kinds = ("config.json", "metrics.jsonl", "pictures/", "trajectory", "checkpoints:", "prompts")
    assert_survives(disk, tmp_path, stage, kinds)


def test_training(disk, tmp_path):
    def probe(params):
        picture = np.random.default_rng(0).random((64, 64, 3))  # of several pages
        return {"error": float(np.abs(params["w"]).sum())}, {"picture": picture}

    def stage(folder):
        options = {"steps": 4, "probe": probe, "probe_every": 4, "select": "error", "checkpoint_every": 4}
        toy_training.run(folder, **options)

    kinds = ("metrics.jsonl", "events", "pictures/", "checkpoints:", "best:")
    assert_survives(disk, tmp_path, stage, kinds)


def test_what_leaves_the_library(disk, tmp_path):
    model = DepthUNet(2, 8)
    params = jax.jit(model.init)(jax.random.key(0), *model.example_inputs())["params"]
    learner = SimpleNamespace(save=lambda params, folder: save_depth(model, params, folder))
    run = SimpleNamespace(world=SimpleNamespace(models=SimpleNamespace(learner=learner)))

    def stage(folder):
        check_config(folder / "config.json", {"steps": 5})
        write_measurements(folder / "evaluate.json", {ModelKey("control"): {CLEAN: {"l1": 0.25}}})
        Run._save_model(run, params, folder / "model")

    assert_survives(
        disk,
        tmp_path,
        stage,
        (r"work/config\.json", r"\.model", "evaluate.json"),
        more=lambda free: free + free // 2 + 1,
    )


def test_reporting(disk, tmp_path):
    made = sample.results(tmp_path, size=64, examples=0, prompts=0, seeds=(0,))

    def stage(folder):
        pictures.save(folder / "pictures" / "label.png", np.zeros((4, 4, 3)))
        results.save(folder / "results.json", made)
        page.write_page(folder / "results.json", folder / "report")

    kinds = ("pictures/", "results.json", r"report/figures/.*svg")
    assert_survives(disk, tmp_path, stage, kinds, more=lambda free: 2 * free + 1)
