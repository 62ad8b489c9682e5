"""The command line of experiments: signals, owners of a work folder, and its configuration."""

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from gap_jax.closed_loop import command
from gap_jax.closed_loop.command import Experiment, Options, Preset, execute
from gap_jax.closed_loop.settings import Settings
from gap_jax.experiments.depth.settings import SmallRooms

pytestmark = pytest.mark.usefixtures("one_process")
ROOT = Path(__file__).parents[2]


def options(work, seed=0, iterations=1, written=None):
    settings = Settings(seeds=(seed,), iterations=iterations, written=written)
    return Options(stage="report", preset="small", work=work, settings=settings, world=SmallRooms())


def experiment(build_world):
    return Experiment("depth", "", {"small": Preset(Settings(), SmallRooms())}, build_world)


class Deleted:
    """An object that takes a moment to delete, in which Python ignores exceptions."""

    def __init__(self, number):
        self.number = number

    def __del__(self):
        signal.raise_signal(self.number)
        time.sleep(0.1)


@pytest.mark.parametrize("ignored", [False, True])
@pytest.mark.parametrize(("number", "status"), [(signal.SIGTERM, 143), (signal.SIGINT, 130)])
def test_a_signal_stops_it_with_what_is_done(tmp_path, capsys, monkeypatch, number, status, ignored):
    events = []

    def run(*_):
        try:
            if ignored:
                Deleted(number)
            else:
                os.kill(os.getpid(), number)
            time.sleep(10)
        except KeyboardInterrupt:
            events.append("saved")
            raise

    monkeypatch.setattr(command, "_run", run)
    interrupt = signal.signal(signal.SIGINT, signal.default_int_handler)  # a job in the background ignores it
    before = signal.getsignal(signal.SIGTERM)
    with pytest.raises(SystemExit) as stopped:
        execute(experiment(None), options(tmp_path))
    assert stopped.value.code == status and events == ["saved"]
    printed = capsys.readouterr().err
    assert "run the same command again to continue" in printed and "Traceback" not in printed
    assert signal.getsignal(signal.SIGTERM) is before
    signal.signal(signal.SIGINT, interrupt)


OWNER = """
import sys, time
from pathlib import Path
from gap_jax import ownership
with ownership.only_job(Path(sys.argv[1])):
    print("owned", flush=True)
    time.sleep(60)
"""


def test_a_second_job_in_a_work_folder_is_refused(tmp_path):
    owner = subprocess.Popen(
        [sys.executable, "-c", OWNER, tmp_path], cwd=ROOT, stdout=subprocess.PIPE, text=True
    )
    assert owner.stdout.readline() == "owned\n"
    with pytest.raises(ValueError, match=rf"is in use by process {owner.pid} on .*: wait until it ends"):
        execute(experiment(None), options(tmp_path))
    owner.kill()
    owner.wait()

    def build_world(world, held_out):
        raise ValueError("built")

    with pytest.raises(ValueError, match="built"):  # a killed owner owns nothing
        execute(experiment(build_world), options(tmp_path))


def test_a_world_that_cannot_be_built_leaves_the_folder_free(tmp_path):
    def missing(world, held_out):
        raise FileNotFoundError("no such data")

    with pytest.raises(FileNotFoundError):
        execute(experiment(missing), options(tmp_path, seed=1))
    assert not (tmp_path / "config.json").exists()
    (tmp_path / "config.json").write_text(json.dumps(options(tmp_path, seed=1).identity()))
    with pytest.raises(FileNotFoundError):
        execute(experiment(missing), options(tmp_path, seed=2, iterations=2))  # these may share the folder
    (tmp_path / "prompts.txt").write_text("a room in fog")
    with pytest.raises(ValueError, match=r"written is .*fog.*, saved was None.* or delete .* to start anew"):
        execute(experiment(missing), options(tmp_path, written=tmp_path / "prompts.txt"))
