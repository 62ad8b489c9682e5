"""The mesh, its batches, and joining a job of processes; stages/test_distributed.py computes on it."""

import math
import os
import subprocess
import sys

import jax
import numpy as np
import pytest

from gap_jax import parallel

JOIN = """
import jax
from gap_jax import parallel
parallel.initialize()
mesh = parallel.make_mesh()
print("RESULT", jax.process_count(), dict(mesh.shape), parallel.local_rows(mesh, 8))
"""


def join(**environment):
    flags = "--xla_force_host_platform_device_count=2"
    clean = {key: value for key, value in os.environ.items() if not key.startswith("SLURM")}
    command = [sys.executable, "-W", "ignore", "-c", JOIN]
    return subprocess.Popen(
        command,
        env=clean | {"XLA_FLAGS": flags} | environment,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )


def result(process):
    output, errors = process.communicate(timeout=120)
    assert process.returncode == 0, errors
    return next(line for line in output.splitlines() if line.startswith("RESULT"))


def test_a_single_process_joins_no_other():
    assert result(join()) == "RESULT 1 {'data': 2, 'prompt': 1} slice(0, 8, None)"


def test_slurm_tasks_join_each_other():
    slurm = {"SLURM_JOB_ID": str(20000 + os.getpid() % 4000), "SLURM_STEP_NODELIST": "localhost"}
    slurm |= {"SLURM_NTASKS": "2", "SLURM_STEP_NUM_TASKS": "2"}
    tasks = [join(**slurm, SLURM_PROCID=str(task), SLURM_LOCALID=str(task)) for task in range(2)]
    assert [result(task) for task in tasks] == [
        "RESULT 2 {'data': 4, 'prompt': 1} slice(0, 4, None)",
        "RESULT 2 {'data': 4, 'prompt': 1} slice(4, 8, None)",
    ]


def test_an_incomplete_address_is_refused():
    with pytest.raises(ValueError, match="must be given together"):
        parallel.initialize("localhost:1234")


@pytest.mark.parametrize("prompts", [0, len(jax.devices()) + 1])
def test_devices_must_divide_over_prompts(prompts):
    with pytest.raises(ValueError, match="the prompt axis must have a size that divides"):
        parallel.make_mesh(prompts)


@pytest.mark.parametrize(
    ("devices", "images", "prompts", "mesh", "each", "idle"),
    [
        (2, 4, 2, (2, 1), (2, 2), 0),  # images first
        (8, 8, 8, (8, 1), (1, 8), 0),
        (64, 8, 8, (8, 8), (1, 1), 0),  # prompts fill what images leave
        (3, 4, 2, (1, 3), (4, 1), 1),
        (12, 8, 8, (4, 3), (2, 3), 0),  # three parts have 3, 3 and 2 prompts
        (960, 8, 8, (8, 120), (1, 1), 896),
        (12, 32, 1, (4, 3), (8, 1), 8),
    ],
)
def test_images_and_prompts_fill_the_devices(devices, images, prompts, mesh, each, idle):
    chosen = parallel.layout(devices, images, prompts)
    assert (chosen.data, chosen.parts) == mesh and chosen.idle == idle
    assert (chosen.images_each, chosen.prompts_each) == each
    assert chosen.padded_prompts == mesh[1] * each[1] >= prompts
    busiest = [
        images // data * math.ceil(prompts / (devices // data))
        for data in range(1, devices + 1)
        if devices % data == 0 and images % data == 0
    ]
    assert math.prod(each) == min(busiest)


def test_a_layout_says_what_idles_and_what_would_not():
    full, partly, one = (parallel.layout(*numbers) for numbers in ((64, 8, 8), (960, 8, 8), (12, 32)))
    line = "optimise: 8 prompts × 8 images a step on 64 devices, at most 1 prompt × 1 image on each"
    assert full.describe("optimise") == line
    end = "896 of them only repeat work, and 120 prompts would keep all of them busy"
    assert partly.describe("optimise").endswith(end)
    assert parallel.layout(960, 8, 120).idle == 0
    assert one.describe("finetune") == (
        "finetune: 32 images a step on 12 devices, at most 8 images on each; 8 of them only repeat work, "
        "and a batch of 96 would keep all of them busy"
    )


def test_a_single_process_feeds_the_whole_batch():
    mesh = parallel.make_mesh()
    rows = 2 * len(jax.devices())
    depth = np.random.default_rng(0).random((rows, 3), dtype=np.float32)
    assert parallel.local_rows(mesh, rows) == slice(0, rows)
    np.testing.assert_array_equal(parallel.feed(mesh, rows, {"depth": depth})["depth"], depth)
    with pytest.raises(ValueError, match=f"depth must have rows 0 to {rows} .*; found 1 rows"):
        parallel.feed(mesh, rows, {"depth": depth[:1]})


@pytest.mark.parametrize("values", [np.array([1, 2**31]), np.array([1, 2**32], np.uint64)])
def test_integers_that_jax_would_change_are_refused(values):
    mesh = parallel.make_mesh(devices=jax.devices()[:1])
    with pytest.raises(ValueError, match=rf"time must be in the range of u?int32, .* found {values[1]}"):
        parallel.feed(mesh, 2, {"time": values})
    fed = parallel.feed(mesh, 2, {"time": values - 1})["time"]
    np.testing.assert_array_equal(np.asarray(fed), values - 1)


def test_an_array_that_occurs_twice_is_copied_once():
    mesh = parallel.make_mesh()
    unet = jax.numpy.ones(3)
    placed = parallel.replicate(mesh, {"pipeline": unet, "terms": (unet, jax.random.key(1))})
    assert placed["pipeline"] is placed["terms"][0]
    np.testing.assert_array_equal(
        jax.random.key_data(placed["terms"][1]), jax.random.key_data(jax.random.key(1))
    )
