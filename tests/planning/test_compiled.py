"""Tests of plans: what they read from a program, what they print, and for TPUs that are not there."""

import importlib.util
import os
import subprocess
import sys
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.sharding import Mesh, NamedSharding
from jax.sharding import PartitionSpec as P

from gap_jax.chips import CHIPS, chip_of
from gap_jax.planning.compiled import StepCost, collectives, compile_step, describe
from gap_jax.planning.networks import Step
from gap_jax.planning.topologies import absent_tpus

ROOT = Path(__file__).parents[2]
LIBTPU = ROOT / ".libtpu"  # `make .libtpu` puts it there
PLAN = StepCost(9_000_000_000, 6_000_000_000, 197e12, 819e9 * 2, (), 8)


def test_a_plan_has_the_compiled_programs_memory_and_operations():
    one = NamedSharding(Mesh(np.array(jax.devices()[:1]), ("data",)), P())
    x = jax.ShapeDtypeStruct((64, 64), jnp.float32, sharding=one)
    plan = compile_step(Step(lambda x: jnp.sin(x @ x) @ x, (x,), 64), 1)
    array = 4 * 64**2
    assert plan.arguments == array and plan.temporary >= array and plan.traffic >= 2 * array
    assert plan.flops == 2 * 2 * 64**3 and plan.collectives == () and plan.images == 64


def test_collectives_are_found_with_their_bytes():
    program = """
  %all-reduce.1 = (f32[3,48]{1,0:T(8,128)}, bf16[]{:T(256)}) all-reduce(%a, %b), channel_id=1
  %gather = u32[8,2]{1,0} all-gather-start(%c), dimensions={0}
  %fused = f32[9]{0} fusion(%all-reduce.1)
"""
    assert collectives(program) == (("all-reduce", 4 * 3 * 48 + 2), ("all-gather", 64))


def test_the_bound_is_that_of_operations_or_of_traffic():
    chip = CHIPS["TPU v5 lite"]
    assert PLAN.seconds(chip) == 2 and PLAN._replace(flops=3 * 197e12).seconds(chip) == 3
    assert PLAN.fits(chip) and not PLAN._replace(temporary=8_000_000_000).fits(chip)
    text = describe(PLAN, chip)
    assert "fits 16 GB" in text and "at least 2e+03 ms, at most 4 images/s" in text
    assert "fits" not in describe(PLAN, None)


@pytest.mark.parametrize(
    ("kind", "name"),
    [
        ("TPU v5 lite", "TPU v5e"),
        ("TPU v5", "TPU v5p"),
        ("NVIDIA H100 80GB HBM3", "NVIDIA H100"),
        ("cpu", None),
    ],
)
def test_chips_are_known_by_jaxs_names(kind, name):
    chip = chip_of(kind)
    assert (chip and chip.name) == name


@pytest.mark.parametrize("topology", ["v5e", "v7:2x2", "v5e:2xa"])
def test_an_unknown_topology_is_refused(topology):
    with pytest.raises(ValueError, match="topology must be one of v4, v5e, v5p, v6e and a grid of chips"):
        absent_tpus(topology)


@pytest.mark.skipif(
    importlib.util.find_spec("libtpu") is None and not LIBTPU.exists(),
    reason="libtpu is not installed: make .libtpu",
)
@pytest.mark.parametrize(
    ("arguments", "expected"),
    [
        # whole maps would take 510 MB
        (["--preset", "taskonomy-unet", "--steps", "attention"], ("fits 16 GB", "no collectives")),
        pytest.param(
            ["--preset", "small", "--steps", "optimize"],
            ("fits 16 GB", "all-reduce"),
            marks=pytest.mark.slow,
        ),
    ],
    ids=["attention", "small world"],
)
def test_a_step_is_compiled_for_absent_tpus(arguments, expected):
    """In a process of its own, since libtpu can be loaded with one topology only."""
    command = [sys.executable, "-m", "gap_jax.planning", "--topology", "v5e:2x2", *arguments]
    paths = os.pathsep.join(filter(None, (str(LIBTPU), os.environ.get("PYTHONPATH"))))
    environment = os.environ | {"ALLOW_MULTIPLE_LIBTPU_LOAD": "1", "XLA_FLAGS": "", "PYTHONPATH": paths}
    done = subprocess.run(command, env=environment, cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    first, *_, plan = done.stdout.splitlines()
    assert first.endswith("4 × TPU v5e, mesh data 4 × prompt 1")
    assert all(part in plan for part in expected)
