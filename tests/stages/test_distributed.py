"""Forced CPU devices and real processes: the same global batch gives the one-device result."""

import os
import socket
import subprocess
import sys

import numpy as np
import pytest

from tests.torch_folders import relative_error


def start(devices, *arguments):
    flags = f"--xla_backend_optimization_level=0 --xla_force_host_platform_device_count={devices}"
    command = [sys.executable, "-W", "ignore", "-m", "tests.stages.distributed_steps", *map(str, arguments)]
    return subprocess.Popen(
        command,
        env=os.environ | {"XLA_FLAGS": flags},
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )


def finish(*processes):
    for process in processes:
        output, _ = process.communicate(timeout=600)
        assert process.returncode == 0, output


@pytest.fixture(scope="module")
def results(models, tmp_path_factory):
    output = tmp_path_factory.mktemp("steps") / "result.npz"
    finish(start(8, models("sd15").folder, output))
    return np.load(output)


def moved(results, name, count):
    """How far a run's embeddings are from the one-device run's, relative to how far they have moved."""
    one, start = results["one_device"][:count], results["start"][:count]
    return relative_error(results[name] - start, one - start)


def test_eight_devices_equal_one(results):
    assert relative_error(results["eight_devices"], results["one_device"][:1]) < 1e-5
    assert moved(results, "eight_devices", 1) < 1e-3


def test_a_population_equals_separate_runs(results):
    assert relative_error(results["population"], results["one_device"]) < 1e-5
    assert moved(results, "population", 4) < 1e-3


def test_two_processes_equal_one_device(results, models, tmp_path):
    with socket.socket() as probe:
        probe.bind(("localhost", 0))
        port = probe.getsockname()[1]
    output = tmp_path / "result.npz"
    finish(*(start(2, models("sd15").folder, output, 2, process, port) for process in range(2)))
    both = dict(np.load(output)) | {name: results[name] for name in ("one_device", "start")}
    assert relative_error(both["two_processes"], both["one_device"][:1]) < 1e-5
    assert moved(both, "two_processes", 1) < 1e-3
