"""Tests of the optimisation step in parts: together, they are the whole step."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.sharding import Mesh, NamedSharding
from jax.sharding import PartitionSpec as P

from gap_jax.flops import count_flops
from gap_jax.parallel import make_mesh
from gap_jax.planning.compiled import StepCost, compile_step
from gap_jax.planning.networks import Networks, Step
from gap_jax.planning.parts import add_up, parts


@pytest.fixture(scope="module")
def networks():
    return Networks("small", "float32")


def test_the_parts_have_the_operations_of_the_whole_step(networks):
    mesh = make_mesh(1, jax.devices()[:1])
    whole = networks.optimize(mesh, 3, 2)
    made = parts(networks, mesh, 3, 2)
    assert [whole.images // part.step.images for part in made] == [2, 2, 2]
    of_parts = sum(2 * count_flops(part.step.function, *part.step.arguments) for part in made)
    assert of_parts == pytest.approx(count_flops(whole.function, *whole.arguments), rel=1e-3)


def test_a_sum_has_the_weights_once_and_one_parts_temporary_memory():
    one = NamedSharding(Mesh(np.array(jax.devices()[:1]), ("data",)), P("data"))
    whole = Step(jnp.sin, (jax.ShapeDtypeStruct((8, 3), jnp.float32, sharding=one),), 8)
    costs = [StepCost(99, 5, 10.0, 100.0, (("all-reduce", 4),), 2), StepCost(99, 7, 1.0, 1.0, (), 4)]
    assert add_up(costs, whole) == StepCost(8 * 3 * 4, 7, 42.0, 402.0, (("all-reduce", 4),), 8)


@pytest.mark.slow
def test_the_parts_need_about_the_memory_of_the_whole_step(networks):
    mesh = make_mesh(1, jax.devices()[:1])
    whole = networks.optimize(mesh, 1, 1)
    costs = [part.cost(1) for part in parts(networks, mesh, 1, 1)]
    total, compiled = add_up(costs, whole), compile_step(whole, 1)
    assert total.arguments >= compiled.arguments  # XLA leaves out what it does not read: CLIP's text encoder
    assert total.temporary == pytest.approx(compiled.temporary, rel=0.3)
