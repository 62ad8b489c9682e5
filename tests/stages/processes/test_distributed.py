"""Forced CPU devices and real processes: the same global batch gives the same result as on one device."""

import os
import socket
import subprocess
import sys

import numpy as np
import pytest

from tests.torch_references.folders import relative_error
from tests.toy_prompts import whole_gradient


def start(devices, *arguments):
    flags = f"{os.environ['XLA_FLAGS']} --xla_force_host_platform_device_count={devices}"
    module = "tests.stages.processes.distributed_steps"
    command = [sys.executable, "-W", "ignore", "-m", module, *map(str, arguments)]
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
    """What one process with eight devices ends with, and two with four each, which run at the same time."""
    model, folder = models("sd15").folder, tmp_path_factory.mktemp("steps")
    with socket.socket() as probe:
        probe.bind(("localhost", 0))
        port = probe.getsockname()[1]
    single = start(8, model, folder / "single.npz")
    cluster = [start(4, model, folder / "cluster.npz", 2, process, port) for process in range(2)]
    finish(single, *cluster)
    return dict(np.load(folder / "single.npz")) | dict(np.load(folder / "cluster.npz"))


def moved(results, name, count):
    """Return how far embeddings are from the one-device run's, relative to how far these have moved."""
    one, start = results["one_device"][:count], results["start"][:count]
    return relative_error(results[name] - start, one - start)


def test_eight_devices_equal_one(results):
    assert relative_error(results["eight_devices"], results["one_device"][:1]) < 1e-5
    assert moved(results, "eight_devices", 1) < 1e-3


def test_a_population_equals_separate_runs(results):
    assert relative_error(results["population"], results["one_device"]) < 1e-5
    assert moved(results, "population", 4) < 1e-3


def test_two_processes_equal_one_device(results):
    assert relative_error(results["two_processes"], results["one_device"][:1]) < 1e-5
    assert moved(results, "two_processes", 1) < 1e-3


def test_prompts_that_do_not_divide_equal_separate_runs(results):
    assert relative_error(results["padded"], results["one_device"][:3]) < 1e-5


@pytest.mark.parametrize("name", ["stage", "stage_on_two_processes"])
def test_the_stage_fills_the_devices_and_ends_with_the_prompts_of_one(results, name):
    """Three prompts of four images on eight devices; a run goes on from one device, or one part each."""
    assert results[name].shape == results["stage_on_one_device"].shape
    assert relative_error(results[name], results["stage_on_one_device"]) < 1e-5


@pytest.mark.parametrize("name", ["set", "set_padded", "set_on_two_processes"])
def test_set_terms_see_the_whole_population_over_devices_and_processes(results, name):
    """Four prompts on four parts of the devices, and on eight with copies of the last."""
    assert relative_error(results[name], whole_gradient()[1]) < 1e-4


@pytest.mark.parametrize("name", ["joined", "joined_on_two_processes"])
def test_populations_that_run_as_one_end_as_each_does_on_one_device(results, name):
    """Five prompts, of three populations, and a copy on two parts of the devices; four images on four."""
    np.testing.assert_allclose(results[name], results["apart"], rtol=1e-5, atol=1e-6)


def test_a_difficulty_band_keeps_the_same_images_over_devices_and_processes(results):
    assert len(results["banded"]) == 12
    np.testing.assert_array_equal(results["banded_on_two_processes"], results["banded"])
