"""Tests that every form of attention equals torch's, with gradients, and that the right form is chosen."""

import contextlib

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import torch
from jax.experimental.pallas import tpu as pallas
from jax.sharding import Mesh
from jax.sharding import PartitionSpec as P

from gap_jax.models import attention as module
from gap_jax.models.attention import BLOCK, attention, by_blocks

BATCH, HEADS, WIDTH = 1, 2, 40  # heads of 40, as in Stable Diffusion 1.5
QUERIES, KEYS = 384, 256  # one block and a half, and one block
RNG = np.random.default_rng(0)
ARRAYS = [RNG.standard_normal((BATCH, n, HEADS * WIDTH), dtype=np.float32) for n in (QUERIES, KEYS, KEYS)]
COTANGENT = RNG.standard_normal((BATCH, QUERIES, HEADS * WIDTH), dtype=np.float32)


@pytest.fixture
def all_long(monkeypatch):
    """Take every sequence as a long one."""
    monkeypatch.setattr(module, "LONG", 1)


def torch_attention(arrays, cotangent):
    """The result of `scaled_dot_product_attention`, and its gradients to query, key and value."""
    leaves = [torch.tensor(array, dtype=torch.float64, requires_grad=True) for array in arrays]
    split = [x.reshape(*x.shape[:2], HEADS, -1).transpose(1, 2) for x in leaves]
    out = torch.nn.functional.scaled_dot_product_attention(*split).transpose(1, 2).flatten(2)
    out.backward(torch.tensor(cotangent, dtype=torch.float64))
    return [out.detach().numpy(), *(leaf.grad.numpy() for leaf in leaves)]


def our_attention(arrays, cotangent, **options):
    @jax.jit
    def run(*arrays):
        out, pull_back = jax.vjp(lambda *x: attention(*x, heads=HEADS, **options), *arrays)
        return out, *pull_back(cotangent.astype(out.dtype))

    return jax.device_get(run(*arrays))


@pytest.mark.parametrize("form", ["xla", "blocks", "flash", "auto"])
def test_every_form_equals_torch_with_gradients(form, all_long):
    with pallas.force_tpu_interpret_mode() if form == "flash" else contextlib.nullcontext():
        ours = our_attention(ARRAYS, COTANGENT, form=form)
    for found, expected in zip(ours, torch_attention(ARRAYS, COTANGENT), strict=True):
        np.testing.assert_allclose(found, expected, rtol=0, atol=3e-6 * np.abs(expected).max())


def test_blocks_sum_the_gradients_of_keys_and_values_in_float32():
    """In bfloat16, a sum over many blocks would lose most of what the later ones add."""
    arrays = [jnp.asarray(array, jnp.bfloat16) for array in ARRAYS]
    split = [x.reshape(*x.shape[:2], HEADS, WIDTH) for x in arrays]

    def total(*split):
        return by_blocks(*split, block=4).astype(jnp.float32).sum()

    found = np.asarray(jax.jit(jax.grad(total, 2))(*split), np.float32)
    rounded = [np.asarray(array, np.float32) for array in arrays]
    expected = torch_attention(rounded, np.ones_like(COTANGENT))[-1]
    assert np.abs(found.reshape(expected.shape) - expected).max() < 2**-8 * np.abs(expected).max()


def test_upcast_reaches_the_blocks(all_long):
    """In float16, the scaled query is rounded to float16 without it."""
    arrays = [(array * 16).astype(np.float16) for array in ARRAYS]

    def result(form, upcast):
        return jax.jit(lambda *x: attention(*x, heads=HEADS, form=form, upcast=upcast))(*arrays)

    upcast = result("blocks", True)
    np.testing.assert_array_equal(upcast, result("xla", True))
    assert not np.array_equal(upcast, result("blocks", False))


def test_blocks_never_hold_the_map():
    tokens = 8 * BLOCK
    shape = jax.ShapeDtypeStruct((1, tokens, 8), jnp.float32)

    def temporary(form):
        gradient = jax.grad(lambda x: attention(x, x, x, heads=1, form=form).sum())
        return jax.jit(gradient).lower(shape).compile().memory_analysis().temp_size_in_bytes

    assert temporary("xla") > 4 * tokens**2 > 2 * temporary("auto")


@pytest.fixture
def chosen(monkeypatch):
    """The names of the forms that long sequences were computed by, instead of computing them."""
    names = []
    for name in ("_whole", "by_blocks", "by_heads", "by_pallas"):
        monkeypatch.setattr(module, name, lambda q, *_, name=name: names.append(name) or q)
    monkeypatch.setattr(
        jax.nn, "dot_product_attention", lambda q, *_, implementation: names.append(implementation) or q
    )
    return names


@pytest.mark.parametrize(
    ("platform", "form", "dtype", "width", "tokens", "expected"),
    [
        ("cpu", "auto", "float32", 40, 2304, "by_heads"),
        ("cpu", "auto", "float32", 40, 256, "by_heads"),
        ("cpu", "auto", "float32", 40, 255, "_whole"),
        ("cpu", "blocks", "float32", 40, 576, "by_heads"),
        ("cpu", "xla", "float32", 40, 576, "_whole"),
        ("cpu", "flash", "bfloat16", 40, 2304, "by_pallas"),
        ("cpu", "flash", "float16", 40, 2304, "by_blocks"),
        ("cpu", "flash", "bfloat16", 40, 576, "_whole"),
        ("tpu", "auto", "bfloat16", 40, 2304, "by_pallas"),
        ("tpu", "auto", "float16", 40, 2304, "by_blocks"),
        ("tpu", "auto", "bfloat16", 40, 1600, "by_blocks"),
        ("tpu", "xla", "bfloat16", 40, 2304, "_whole"),
        ("gpu", "auto", "bfloat16", 40, 2304, "cudnn"),
        ("gpu", "flash", "float16", 160, 2304, "cudnn"),
        ("gpu", "auto", "float32", 40, 2304, "by_blocks"),
        ("gpu", "flash", "float32", 40, 2304, "by_blocks"),
        ("gpu", "auto", "bfloat16", 512, 2304, "by_blocks"),
        ("gpu", "auto", "bfloat16", 40, 77, "_whole"),
    ],
)
def test_the_form_fits_platform_dtype_and_shape(
    platform, form, dtype, width, tokens, expected, chosen, monkeypatch
):
    monkeypatch.setattr(jax, "default_backend", lambda: platform)
    monkeypatch.setattr(jax, "devices", lambda: [type("Gpu", (), {"compute_capability": "9.0"})])
    monkeypatch.setattr(jax, "device_count", lambda: 1)
    x = jnp.zeros((1, tokens, 2 * width), dtype)
    assert attention(x, x, x, heads=2, form=form).shape == x.shape
    assert chosen == [expected]


@pytest.mark.parametrize(
    ("capability", "expected"), [("8.0", "by_blocks"), ("7.5", "by_blocks"), ("gfx90a", "by_blocks")]
)
def test_older_gpus_and_those_of_amd_take_blocks(capability, expected, chosen, monkeypatch):
    """Heads of 160 need Hopper, cuDNN's kernel Ampere."""
    monkeypatch.setattr(jax, "default_backend", lambda: "gpu")
    monkeypatch.setattr(jax, "devices", lambda: [type("Gpu", (), {"compute_capability": capability})])
    x = jnp.zeros((1, 1024, 160), jnp.bfloat16)
    attention(x, x, x, heads=1)
    assert chosen == [expected]


def test_a_program_for_several_tpus_takes_pallas_only_where_it_is_mapped(chosen, monkeypatch):
    monkeypatch.setattr(jax, "default_backend", lambda: "tpu")
    monkeypatch.setattr(jax, "device_count", lambda: 4)
    x = jnp.zeros((1, 1024, 40), jnp.bfloat16)

    @jax.jit
    def run(x):
        return attention(x, x, x, heads=1)

    run(x)
    mesh = Mesh(np.array(jax.devices()[:1]), ("data",))
    jax.jit(jax.shard_map(run, mesh=mesh, in_specs=P("data"), out_specs=P("data")))(x)
    assert chosen == ["by_blocks", "by_pallas"]


def test_an_unknown_form_is_refused():
    x = jnp.zeros((1, 2, 4))
    with pytest.raises(ValueError, match="attention must be one of auto, xla, blocks, flash; found 'cudnn'"):
        attention(x, x, x, heads=1, form="cudnn")
