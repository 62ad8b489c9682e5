"""The depth experiment, stopped thirty times at random moments of all its stages; `-s` shows each stop."""

import signal
import subprocess

import numpy as np
import pytest

from tests.experiments.processes import assert_same_end, environment, stopped_in
from tests.experiments.test_depth import command

pytestmark = pytest.mark.slow
SIGNALS = (signal.SIGKILL, signal.SIGTERM, signal.SIGINT)
STAGES = ("optimise", "optimise", "generate", "finetune", *["evaluate"] * 2, *["draw"] * 2, *["report"] * 2)
MOMENT = 3.0  # seconds after the beginning of a stage in which the signal is sent


def experiment(work):
    """A run of all stages of two arms, with one model."""
    fewer = ["--arms", "control", "guided-adversarial", "--world.models", "--evaluating.efficiency"]
    return command(work, *fewer)


@pytest.fixture(scope="module")
def whole(tmp_path_factory):
    """The folder of an uninterrupted run."""
    work = tmp_path_factory.mktemp("whole") / "work"
    subprocess.run(experiment(work), env=environment(), check=True)
    return work


@pytest.mark.parametrize("turn", range(3))
def test_stopped_at_ten_random_moments_it_ends_with_the_same_results(whole, tmp_path, turn):
    """All stages are stopped, in their order; over the three turns, each moment gets each signal.

    A run that ends before a signal is compared, and another one begins.
    """
    random, met, seconds, run = np.random.default_rng(), [], [], 0
    for number, stage in enumerate(STAGES):
        how, status = SIGNALS[(turn + number) % len(SIGNALS)], 0
        while status == 0:
            delay = random.uniform(0, MOMENT)
            status, waited, reached, printed = stopped_in(experiment(tmp_path / f"{run}"), stage, delay, how)
            print(f"{how.name} {delay:.2f} s into {stage} met {reached}: status {status} in {waited:.2f} s")
            if status == 0:
                assert_same_end(tmp_path / f"{run}", whole)
                run += 1
        assert status == (-how if how == signal.SIGKILL else 128 + how), printed
        assert "Traceback" not in printed, printed
        met.append(reached)
        if how == signal.SIGTERM:
            seconds.append(waited)
    subprocess.run(experiment(tmp_path / f"{run}"), env=environment(), check=True)
    assert_same_end(tmp_path / f"{run}", whole)
    print(f"{len(met)} stops in {run + 1} runs, in {met}; seconds from SIGTERM to the exit: {seconds}")
