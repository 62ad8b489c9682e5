"""Tests that operations are counted as the formulas of matrix products and convolutions say."""

from types import SimpleNamespace

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.sharding import Mesh
from jax.sharding import PartitionSpec as P

from gap_jax.flops import count_flops, flops_to_report, utilisation
from gap_jax.models.layers import Conv

X, W = jnp.zeros((3, 5, 7)), jnp.zeros((7, 11))
PRODUCT = 2 * 3 * 5 * 7 * 11


def test_a_product_has_two_operations_per_multiplication():
    assert count_flops(jnp.matmul, X, W) == PRODUCT


def test_a_gradient_has_two_products_more():
    gradient = jax.grad(lambda x, w: jnp.sin(x @ w).sum(), (0, 1))
    assert count_flops(gradient, X, W) == 3 * PRODUCT


def test_a_loop_counts_all_its_rounds_and_recomputation_counts():
    @jax.checkpoint
    def step(x, _):
        return jnp.sin(x @ jnp.ones((7, 7))), None

    def run(x):
        return jax.lax.scan(step, x, None, length=4)[0].sum()

    square = PRODUCT / 11 * 7
    assert count_flops(jax.jit(run), X) == 4 * square
    assert count_flops(jax.grad(run), X) == 4 * 3 * square


@pytest.mark.parametrize(("stride", "side"), [(1, 8), (2, 4)])
def test_a_convolution_and_its_gradients(stride, side):
    """Each of the two gradients has as many products as the convolution."""
    conv = Conv(6, stride=stride)
    x = jnp.zeros((2, 8, 8, 5))
    params = conv.init(jax.random.key(0), x)
    expected = 2 * (2 * side**2 * 6) * (5 * 9)
    assert count_flops(conv.apply, params, x) == expected
    gradient = jax.grad(lambda params, x: jnp.square(conv.apply(params, x)).sum(), (0, 1))
    assert count_flops(gradient, params, x) == 3 * expected


def test_only_what_is_not_mapped_is_split_over_devices():
    mesh = Mesh(np.array(jax.devices()[:1]), ("data",))
    mapped = jax.shard_map(jnp.matmul, mesh=mesh, in_specs=(P("data"), P()), out_specs=P("data"))
    assert count_flops(mapped, X, W, devices=4) == PRODUCT
    assert count_flops(jnp.matmul, X, W, devices=4) == PRODUCT / 4


@pytest.mark.parametrize(
    ("kind", "peak"), [("TPU v5 lite", 197e12), ("TPU v4", 275e12), ("NVIDIA A100-SXM4-80GB", 312e12)]
)
def test_utilisation_is_a_share_of_the_published_peak(kind, peak):
    assert utilisation(peak / 2, 2.0, kind) == pytest.approx(0.25)
    assert utilisation(peak, 1.0, "cpu") is None


def test_operations_are_counted_only_where_the_peak_is_known(monkeypatch):
    assert flops_to_report(jnp.matmul, X, W, devices=1) is None
    monkeypatch.setattr(jax, "devices", lambda: [SimpleNamespace(device_kind="TPU v6 lite")])
    assert flops_to_report(jnp.matmul, X, W, devices=1) == PRODUCT
