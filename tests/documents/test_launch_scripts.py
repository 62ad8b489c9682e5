"""The launch scripts start the depth experiment with the arguments they were given."""

import os
import subprocess
from functools import wraps
from pathlib import Path

import pytest

from gap_jax.closed_loop.command import parse
from gap_jax.data import __main__ as data
from gap_jax.experiments.depth.__main__ import EXPERIMENT
from gap_jax.experiments.depth.settings import PRESETS
from tests.documents.blocks import ROOT, commands, local_links

FOLDER = ROOT / "experiments"
SCRIPTS = sorted(path.name for path in FOLDER.glob("*.sh"))
README = FOLDER / "README.md"
FAKES = {  # stand-ins for the programs that scripts call; python notes its arguments and two variables
    "python": 'printf "%s\\0" "$XLA_PYTHON_CLIENT_MEM_FRACTION" "${SLURM_STEP_NODELIST-none}" "$@" >"$NOTED"',
    "srun": 'while [[ $1 == -* ]]; do shift; done; exec "$@"',
    "gcloud": 'for word; do case $word in --command=*) exec bash -c "${word#--command=}";; esac; done',
}


@pytest.fixture
def launch(tmp_path):
    """`launch(script, *arguments, **variables)` returns the ended process and what python noted, or None."""
    programs = tmp_path / "programs"
    programs.mkdir()
    for name, body in FAKES.items():
        (programs / name).write_text(f"#!/usr/bin/env bash\n{body}\n")
        (programs / name).chmod(0o755)
    path = f"{programs}{os.pathsep}{os.environ['PATH']}"
    noted = tmp_path / "noted"
    kept = {name: value for name, value in os.environ.items() if not name.startswith(("SLURM", "XLA_PYTHON"))}

    def launch(script, *arguments, **variables):
        noted.unlink(missing_ok=True)
        environment = kept | {"PATH": path, "NOTED": str(noted), "CHECKOUT": str(tmp_path)} | variables
        ended = subprocess.run(
            [str(FOLDER / script), *arguments], cwd=tmp_path, env=environment, capture_output=True, text=True
        )
        return ended, noted.read_text().split("\0")[:-1] if noted.exists() else None

    return launch


TPU = {"TPU": "a-name", "ZONE": "a-zone"}


def test_there_is_a_script_for_each_kind_of_machine():
    assert SCRIPTS == ["gpu_host.sh", "one_gpu.sh", "slurm.sh", "tpu_pod.sh"]


@pytest.mark.parametrize("script", SCRIPTS)
def test_scripts_are_short_strict_and_executable(script):
    path = FOLDER / script
    lines = path.read_text().splitlines()
    assert len(lines) < 40 and "set -euo pipefail" in lines
    assert os.access(path, os.X_OK)
    subprocess.run(["bash", "-n", path], check=True)


@pytest.mark.parametrize("script", SCRIPTS)
def test_arguments_arrive_as_they_were_given(script, launch):
    given = ["--world.data", "my data/it's $HOME *", "--work", "shared/the run", "--seeds", "0", "1"]
    ended, noted = launch(script, "taskonomy-dpt", *given, **TPU)
    assert ended.returncode == 0, ended.stderr
    assert noted[2:4] == ["-m", "gap_jax.experiments.depth"]
    config = parse(EXPERIMENT, noted[4:])
    assert config.preset == "taskonomy-dpt" and config.settings.seeds == (0, 1)
    assert config.world.data == Path("my data/it's $HOME *") and config.work == Path("shared/the run")
    assert config.world.loss == PRESETS["taskonomy-dpt"].world.loss


@pytest.mark.parametrize("script", ["one_gpu.sh", "gpu_host.sh", "slurm.sh"])
def test_presets_have_a_work_folder_of_their_own(script, launch):
    _, noted = launch(script, "replica")
    assert parse(EXPERIMENT, noted[4:]).work == Path("runs/replica")
    assert 0.75 < float(noted[0]) < 1
    assert launch(script, "replica", XLA_PYTHON_CLIENT_MEM_FRACTION="0.5")[1][0] == "0.5"


@pytest.mark.parametrize("script", SCRIPTS)
def test_only_slurms_script_looks_for_other_tasks(script, launch):
    _, noted = launch(script, "replica", "--work", "w", SLURM_STEP_NODELIST="node[1-2]", **TPU)
    assert noted[1] == {"one_gpu.sh": "none", "gpu_host.sh": "none"}.get(script, "node[1-2]")


@pytest.mark.parametrize("script", SCRIPTS)
def test_missing_arguments_are_asked_for(script, launch):
    ended, noted = launch(script, **TPU)
    assert ended.returncode != 0 and noted is None
    assert "give a preset: taskonomy-unet, taskonomy-dpt or replica" in ended.stderr
    if script == "tpu_pod.sh":
        ended, noted = launch(script, "replica", "--world.data", "--working", **TPU)
        assert ended.returncode == 2 and noted is None and "give --work" in ended.stderr
        ended, noted = launch(script, "replica", "--work=w", ZONE="a-zone")
        assert ended.returncode != 0 and noted is None and "give the name of the TPU" in ended.stderr


def commands_of(program):
    """Return the README's commands that call a program or a module."""
    return [words for words in commands(README) if program in words[:4]]


def test_the_readmes_commands_are_understood(launch, monkeypatch):
    made = []

    @wraps(data.run_prepare)
    def prepare(layout, root, data_dir, size=None, tolerance=0.01):
        made.append((data_dir, size or layout.size))

    monkeypatch.setattr(data, "run_prepare", prepare)
    for words in commands_of("gap_jax.data"):
        data.main(words[words.index("gap_jax.data") + 1 :])
    folders = {folder for folder, _ in made}
    assert len(made) >= 3 and {size for _, size in made} == {256, 384, 448}
    started = set()
    for script in SCRIPTS:
        for words in commands_of(f"experiments/{script}"):
            ended, noted = launch(script, *words[words.index(f"experiments/{script}") + 1 :], **TPU)
            assert ended.returncode == 0, ended.stderr
            config = parse(EXPERIMENT, noted[4:])
            world = config.world
            targets = map(Path, world.targets.values())
            used = {world.data, world.held_out, *world.domains.values(), *targets} - {None}
            assert {Path(folder.name) for folder in used} <= {Path(folder.name) for folder in folders}, words
            started.add(config.preset)
        assert commands_of(f"experiments/{script}"), f"{script} has no example"
    assert started == set(PRESETS) - {"small"}


def test_the_readme_says_where_data_comes_from():
    assert "../docs/data.md" in local_links(README)
