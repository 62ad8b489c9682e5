"""A run of a real pipeline, killed with SIGKILL at random moments, ends where an uninterrupted one does."""

import random
import subprocess
import sys
import time

import chex
import numpy as np

from gap_jax import prompts
from gap_jax.stages.optimize import load_trajectory
from tests.metric_lines import read_metrics
from tests.stages.processes import killable_run


def run(model, folder):
    module = "tests.stages.processes.killable_run"
    command = [sys.executable, "-W", "ignore", "-m", module, str(model), str(folder)]
    return subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)


def finish(process):
    output, _ = process.communicate(timeout=600)
    assert process.returncode == 0, output


def kill_at(process, folder, step, delay):
    """Kill the process a moment after it has written the metrics of `step`."""
    path = folder / "metrics.jsonl"
    while process.poll() is None and not (path.exists() and len(path.read_text().splitlines()) >= step):
        time.sleep(0.005)
    time.sleep(delay)
    process.kill()
    process.communicate()


def test_killed_at_random_moments_it_ends_bit_identical(models, tmp_path):
    model = models("sd15").folder
    whole, parts = tmp_path / "whole", tmp_path / "parts"
    killable_run.main(str(model), str(whole))  # compiles; the others find the program in the cache
    moments = sorted(random.sample(range(1, killable_run.STEPS), 2))
    for moment in moments:
        process = run(model, parts)
        kill_at(process, parts, moment, random.uniform(0, 0.3))
        assert process.returncode == -9, f"ended before it was killed at {moments}"
    finish(run(model, parts))
    for i in range(2):
        name = f"prompts/{i}/learned_embeds.safetensors"
        np.testing.assert_array_equal(prompts.load(parts / name), prompts.load(whole / name))
    assert read_metrics(parts) == read_metrics(whole)
    chex.assert_trees_all_equal(load_trajectory(parts), load_trajectory(whole))
