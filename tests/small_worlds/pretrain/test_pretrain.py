"""The recipes of the small worlds, shortened: trained, killed and continued, exported, probed."""

import json
import os
import signal
import subprocess
import sys
import time

import pytest

from gap_jax.small_worlds import rooms, wildlife
from gap_jax.small_worlds.probe import rooms as rooms_probe
from gap_jax.small_worlds.probe import wildlife as wildlife_probe

DIFFUSION = ("diffusion", "refine", "polish")
GENERATOR = ("vae", "clip", *DIFFUSION)
CLASSIFIERS = ("animals", "waterbirds", "waterbirds_critic", "iwildcam", "iwildcam_critic")
PARTS = {
    "rooms": (*GENERATOR, "depth", "critic", "dpt", "segmentation"),
    "wildlife": (*GENERATOR, *CLASSIFIERS),
}
FOLDERS = {"rooms": "small", "wildlife": "wildlife"}
FILES = {"rooms": 9, "wildlife": 8}


def start(world, work, cache):
    """Start a recipe of few steps; equal settings let the parts of the diffusion model share a program."""
    environment = os.environ | {
        "JAX_COMPILATION_CACHE_DIR": str(cache),
        "JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS": "0",
    }
    command = [sys.executable, "-m", "gap_jax.small_worlds.pretrain", "--world", world, "--work", str(work)]
    command.append("--few")
    for part in PARTS[world]:
        flag = part.replace("_", "-")
        command += [f"--{flag}.steps", "4", f"--{flag}.batch", "4"]
        if part in DIFFUSION:
            command += [f"--{flag}.learning-rate", "3e-3"]
    command += ["--vae.learning-rate", "4e-5"]  # so few updates at the full rate would undo the PCA
    return subprocess.Popen(command, env=environment, stdout=subprocess.PIPE, stderr=subprocess.STDOUT)


def finish(process):
    output, _ = process.communicate(timeout=3600)
    assert process.returncode == 0, output.decode()


def weights(folder):
    return {path.relative_to(folder): path.read_bytes() for path in sorted(folder.rglob("*.safetensors"))}


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
    """`trained(world)`, made once: the folder of a finished recipe and of the programs compiled for it."""
    folders = {}

    def make(world):
        if world not in folders:
            folders[world] = tmp_path_factory.mktemp(world)
            finish(start(world, folders[world] / "whole", folders[world] / "cache"))
        return folders[world]

    return make


@pytest.mark.slow
@pytest.mark.parametrize("world", PARTS)
def test_killed_in_every_part_it_ends_with_the_same_weights(world, trained):
    folder = trained(world)
    work, name = folder / "killed", FOLDERS[world]
    for part in PARTS[world]:
        process = start(world, work, folder / "cache")
        while not (work / part / "checkpoints" / "2").exists():
            assert process.poll() is None, process.communicate()[0].decode()
            time.sleep(0.05)
        process.send_signal(signal.SIGKILL)
        process.wait()
    assert not (work / name / PARTS[world][-1]).exists()
    finish(start(world, work, folder / "cache"))
    expected = weights(folder / "whole" / name)
    assert len(expected) == FILES[world] and weights(work / name) == expected


@pytest.mark.slow
def test_trained_models_of_rooms_are_probed(trained, tmp_path):
    small = trained("rooms") / "whole" / "small"
    config = rooms_probe.RoomsProbe(
        model=str(small),
        clip=str(small / "clip"),
        depth=str(small),
        rooms_per_style=1,
        steps=(5,),
        output=tmp_path / "probe.json",
    )
    results = rooms_probe.main(config)
    assert json.loads((tmp_path / "probe.json").read_text()) == results
    assert set(results["clip_zero_shot"]) == set(rooms.AXES)
    assert results["vae_psnr"]["mean"] > 15
    assert results["label_fidelity"]["5_steps_over_real"]["worst_style"].startswith("a ")


@pytest.mark.slow
def test_trained_models_of_wildlife_are_probed(trained, tmp_path):
    folder = trained("wildlife") / "whole" / "wildlife"
    config = wildlife_probe.WildlifeProbe(
        model=str(folder),
        clip=str(folder / "clip"),
        classifiers=str(folder),
        pictures_per_words=1,
        experiment_pictures=12,
        steps=(5,),
        output=tmp_path / "probe.json",
        picture=tmp_path / "probe.png",
    )
    results = wildlife_probe.main(config)
    assert json.loads((tmp_path / "probe.json").read_text()) == results
    assert set(results["clip_zero_shot"]["5_steps_pasted"]) == set(wildlife.AXES)
    assert results["vae_psnr"]["mean"] > 10
    assert list(results["waterbirds"]["groups"])[1:] == list(wildlife_probe.GROUPS)
    assert list(results["iwildcam_critic"]["groups"])[1:] == [f"camera {number}" for number in range(31, 36)]
    assert "zebra" not in results["waterbirds"]["real"] and "zebra" in results["iwildcam"]["moved"]
    assert (tmp_path / "probe.png").stat().st_size > 1000
