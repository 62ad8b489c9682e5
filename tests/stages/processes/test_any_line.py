"""Ctrl-C at any line of a training or an optimisation: the next run ends as an uninterrupted one."""

import signal
import sys

import jax
import numpy as np
import pytest

from gap_jax.stages import optimize, train
from tests.stages import test_optimize, toy_training


def run_training(model, folder):
    def probe(params):
        picture = np.full((2, 2, 3), np.asarray(params["b"])[0])
        return {"distance": abs(float(params["w"][0, 1]) - 0.3)}, {"b": picture}

    options = {"probe": probe, "probe_every": 2, "select": "distance", "log_every": 3, "checkpoint_every": 4}
    return toy_training.run(folder, steps=7, **options)


def run_optimization(model, folder):
    examples = test_optimize.load(0, slice(2))
    return test_optimize.run(model, folder, steps=5, examples=examples, picture_every=2)


STAGES = {"training": (run_training, train), "optimization": (run_optimization, optimize)}


def stopped_at(line, run, module):
    """Send Ctrl-C before this line, from 0, that a stage's module runs; return the number of lines."""
    count = 0

    def trace(frame, event, argument):
        nonlocal count
        if frame.f_code.co_filename != module.__file__:
            return None
        if event == "line":
            count += 1
            if count == line + 1:
                signal.raise_signal(signal.SIGINT)
        return trace

    handler = signal.signal(signal.SIGINT, signal.default_int_handler)
    sys.settrace(trace)
    try:
        run()
    except KeyboardInterrupt:
        pass
    finally:
        sys.settrace(None)
        signal.signal(signal.SIGINT, handler)
    return count


def end(run, folder):
    """Run a stage to its end; return its result and what is in the files of which every line counts."""
    result = jax.device_get(run(folder))
    paths = folder / "metrics.jsonl", *folder.rglob("*.png"), *folder.rglob("learned_embeds.safetensors")
    return result, {path.relative_to(folder): path.read_bytes() for path in paths}


@pytest.mark.parametrize("stage", STAGES)
@pytest.mark.parametrize("share", [0.02, pytest.param(1, marks=pytest.mark.slow)])
def test_stopped_at_any_line_it_ends_the_same(stage, share, tmp_path, sd15, capsys):
    stage_run, module = STAGES[stage]

    def run(folder):
        return stage_run(sd15, folder)

    expected, files = end(run, tmp_path / "whole")
    lines = stopped_at(-1, lambda: run(tmp_path / "counted"), module)
    random = np.random.default_rng()
    chosen = sorted(random.choice(lines, max(round(share * lines), 4), replace=False).tolist())
    different = []
    for line in chosen:
        folder = tmp_path / str(line)
        stopped_at(line, lambda folder=folder: run(folder), module)
        found, found_files = end(run, folder)
        same = jax.tree.map(np.array_equal, found, expected)
        if not (jax.tree.all(same) and found_files == files):
            different.append(line)
    with capsys.disabled():
        print(f"\n{stage}: stopped before {len(chosen)} of {lines} lines, different after {different}")
    assert not different
