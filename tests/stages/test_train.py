"""The training loop on a small regression: learning, resume, devices, probes, averages and NaN."""

import os
import signal
import socket
import subprocess
import sys
import time
from pathlib import Path

import chex
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from PIL import Image

from gap_jax.data.loader import Batches
from tests.metric_lines import read_metrics
from tests.stages import toy_training as toy

SCRIPT = Path(toy.__file__)


@pytest.fixture(scope="module")
def whole(tmp_path_factory):
    """The folder of an uninterrupted training, and its parameters."""
    folder = tmp_path_factory.mktemp("whole") / "toy"
    return folder, jax.device_get(toy.run(folder))


@pytest.fixture(scope="module")
def uninterrupted(whole):
    return whole[1]


def assert_same(params, expected):
    chex.assert_trees_all_equal(jax.device_get(params), expected)


def test_it_learns(uninterrupted):
    assert np.abs(uninterrupted["w"] - toy.TRUE).max() < 1.2


class Interrupted(Batches):
    """Batches that raise KeyboardInterrupt at the step `stop`."""

    stop: int

    def load(self, step, rows):
        if step == self.stop:
            raise KeyboardInterrupt
        return super().load(step, rows)


def test_ctrl_c_saves_and_the_next_run_ends_as_an_uninterrupted_one(tmp_path, whole, capsys):
    batches = Interrupted(toy.source(), toy.transform, size=16, seed=0)
    batches.stop = 23
    with pytest.raises(KeyboardInterrupt):
        toy.run(tmp_path, batches=batches)
    saved = max(int(path.name) for path in (tmp_path / "checkpoints").iterdir() if path.name.isdecimal())
    assert 7 < saved <= 23 and "run the same command to go on" in capsys.readouterr().out
    assert_same(toy.run(tmp_path), whole[1])
    assert (tmp_path / "metrics.jsonl").read_bytes() == (whole[0] / "metrics.jsonl").read_bytes()
    assert len(list((tmp_path / "pending").iterdir())) <= 3


def test_killed_and_run_again_it_ends_with_the_same_bits(tmp_path):
    def start(folder):
        return subprocess.Popen([sys.executable, SCRIPT, folder, "60"], cwd=SCRIPT.parents[2])

    uninterrupted = start(tmp_path / "whole")
    folder = tmp_path / "killed"
    process = start(folder)
    while not (folder / "checkpoints" / "14").exists():
        assert process.poll() is None
        time.sleep(0.005)
    process.send_signal(signal.SIGKILL)
    process.wait()
    assert not (folder / "result.npz").exists()
    assert start(folder).wait() == 0
    assert uninterrupted.wait() == 0
    results = [np.load(tmp_path / name / "result.npz") for name in ("whole", "killed")]
    for name in ("w", "b"):
        np.testing.assert_array_equal(results[0][name], results[1][name])
    lines = [(tmp_path / name / "metrics.jsonl").read_bytes() for name in ("whole", "killed")]
    assert lines[0] == lines[1]


def test_sigterm_to_one_of_two_processes_stops_both_after_the_same_step(tmp_path):
    folder, steps = tmp_path / "stopped", 300  # enough for JAX, which looks for the signal once a second
    with socket.socket() as probe:
        probe.bind(("localhost", 0))
        port = probe.getsockname()[1]
    processes = [
        subprocess.Popen(
            [sys.executable, SCRIPT, folder, str(steps), str(port), str(number)],
            cwd=SCRIPT.parents[2],
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )
        for number in range(2)
    ]
    while not (folder / "checkpoints" / "14").exists():
        assert all(process.poll() is None for process in processes)
        time.sleep(0.005)
    processes[1].send_signal(signal.SIGTERM)
    printed = [process.communicate() for process in processes]
    assert [process.returncode for process in processes] == [143, 143], printed
    saved = max(int(path.name) for path in (folder / "checkpoints").iterdir() if path.name.isdecimal())
    assert 14 <= saved < steps and not (folder / "result.npz").exists()
    for out, err in printed:
        assert f"stopped at step {saved}, saved in {folder}" in out and "run the same command again" in err
    params, whole = (
        jax.device_get(toy.run(path, steps=saved + 1, config={"steps": steps}))
        for path in (folder, tmp_path / "whole")
    )
    for name in ("w", "b"):  # the order of sums over processes differs
        np.testing.assert_allclose(params[name], whole[name], atol=1e-4)


def test_twelve_devices_do_what_one_does(tmp_path):
    """Four of them have a quarter of the batch of 16 each, and the others repeat their work."""
    processes = []
    for count in (1, 12):
        flags = f"{os.environ.get('XLA_FLAGS', '')} --xla_force_host_platform_device_count={count}"
        command = [sys.executable, SCRIPT, tmp_path / str(count), "20"]
        environment = os.environ | {"XLA_FLAGS": flags}
        processes.append(subprocess.Popen(command, cwd=SCRIPT.parents[2], env=environment))
    assert [process.wait() for process in processes] == [0, 0]
    results = [np.load(tmp_path / str(count) / "result.npz") for count in (1, 12)]
    for name in ("w", "b"):
        np.testing.assert_allclose(results[1][name], results[0][name], atol=1e-5)


def test_the_step_is_compiled_once_over_steps_and_a_resume(tmp_path):
    chex.clear_trace_counter()
    loss = chex.assert_max_traces(toy.loss, n=1)
    toy.run(tmp_path / "parts", steps=5, loss=loss, config={"a": 1})
    resumed = jax.device_get(toy.run(tmp_path / "parts", steps=12, loss=loss, config={"a": 1}))
    assert_same(toy.run(tmp_path / "whole", steps=12, loss=loss, config={"a": 1}), resumed)


def test_a_finished_training_is_not_repeated(tmp_path, uninterrupted):
    toy.run(tmp_path)
    batches = Interrupted(toy.source(), toy.transform, size=16, seed=0)
    batches.stop = 0
    assert_same(toy.run(tmp_path, batches=batches), uninterrupted)


def test_without_an_average_the_parameters_come_back(tmp_path, uninterrupted):
    params = toy.run(tmp_path, average=None)
    assert np.abs(params["w"] - uninterrupted["w"]).max() > 0


def test_probes_are_written_and_drawn(tmp_path):
    def probe(params):
        return {"w": float(params["w"].mean())}, {"row": np.full((4, 8, 3), 0.5)}

    toy.run(tmp_path, steps=10, probe=probe, probe_every=5)
    lines = [line for line in read_metrics(tmp_path) if "w" in line]
    assert [line["step"] for line in lines] == [5, 10]
    picture = np.asarray(Image.open(tmp_path / "pictures" / "row-000010.png"))
    assert picture.shape == (4, 8, 3) and (picture == 128).all()


def test_the_best_parameters_on_a_probe_are_returned_also_after_a_resume(tmp_path):
    def distance(params):  # smallest somewhere on the way
        return {"distance": abs(float(params["w"][0, 1]) - 0.5)}, {}

    options = dict(probe=distance, probe_every=5, select="distance")
    batches = Interrupted(toy.source(), toy.transform, size=16, seed=0)
    batches.stop = 43
    with pytest.raises(KeyboardInterrupt):
        toy.run(tmp_path / "cut", batches=batches, **options)
    best = jax.device_get(toy.run(tmp_path / "whole", **options))
    values = {
        line["step"]: line["distance"] for line in read_metrics(tmp_path / "whole") if "distance" in line
    }
    step = min(values, key=values.get)
    assert step < 60 and abs(best["w"][0, 1] - 0.5) == pytest.approx(values[step], abs=1e-6)
    assert_same(toy.run(tmp_path / "cut", **options), best)
    assert_same(toy.run(tmp_path / "whole", **options), best)


@pytest.mark.filterwarnings("error::pytest.PytestUnraisableExceptionWarning")  # a trace on stderr
def test_damaged_best_parameters_are_never_replaced_by_others(tmp_path):
    def probe(params):
        return {"distance": abs(float(np.asarray(params["w"])[0, 0]) - 0.1)}, {}

    options = dict(steps=14, probe=probe, probe_every=7, select="distance")
    best = jax.device_get(toy.run(tmp_path, **options))
    assert_same(toy.run(tmp_path, **options), best)
    for path in (tmp_path / "best").rglob("*"):
        if path.is_file() and path.name not in ("config.json", "digest.json"):
            path.write_bytes(path.read_bytes()[::-1])
    with pytest.raises(ValueError, match=rf"best/\d+ is damaged, .* Delete {tmp_path} and run"):
        toy.run(tmp_path, **options)


def test_another_configuration_is_refused(tmp_path):
    toy.run(tmp_path, steps=5, config={"rate": 1})
    with pytest.raises(ValueError, match="rate is 2, saved was 1"):
        toy.run(tmp_path, steps=5, config={"rate": 2})


def test_updates_that_are_not_finite_end_it_with_the_last_good_parameters(tmp_path):
    def explodes(params, frozen, batch, keys):
        value, values = toy.loss(params, frozen, batch, keys)
        late = batch["x"].sum() * 0 + jnp.where(params["w"].sum() > 3, jnp.nan, 0.0)
        return value + late * params["w"].sum(), values

    with pytest.raises(FloatingPointError, match="4 updates in a row were not finite"):
        toy.run(tmp_path, loss=explodes, max_skipped=4, log_every=1)
    saved = max(int(path.name) for path in (tmp_path / "checkpoints").iterdir() if path.name.isdecimal())
    params = toy.run(tmp_path, steps=saved, config={"steps": 60})
    assert np.isfinite(params["w"]).all()
