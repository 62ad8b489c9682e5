"""Dynamic loss scaling of prompt optimisation in float16, on two devices with two micro-batches each."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import gap_jax
from gap_jax.diffusion.align import Alignment, Sampling
from gap_jax.models.network import Network
from gap_jax.stages.objective import adversarial
from gap_jax.stages.optimizers import adamw
from gap_jax.stages.prompt_optimizer import prompt_optimizer
from tests.stages.processes.distributed_steps import start_from_noise
from tests.stages.test_prompt_optimizer import KERNEL, PLACEHOLDERS, batch_of, predict_depth, start
from tests.torch_references.folders import relative_error

TINY = 1e-4  # a loss this many times the usual one has gradients that are 0 in float16


def product(prediction, batch):
    """Return a loss whose gradient with respect to a pixel is as large as the pixel's depth."""
    return -(prediction * batch["depth"]).mean((1, 2, 3))


def optimizer_in(dtype, models):
    pipe, params = gap_jax.load_pipeline(models("sd15").folder, dtype=dtype)
    return prompt_optimizer(
        dataclasses.replace(pipe, controlnet=None),
        params,
        Network(predict_depth, KERNEL),
        [adversarial(product)],
        Alignment(start_from_noise),
        adamw(2e-3),
        placeholders=PLACEHOLDERS,
        negative_prompt=None,
        sampling=Sampling(num_steps=2),
        accumulation=2,
        axis_name="data",
    )


@pytest.fixture(scope="module")
def half(models):
    """`(state, step)` in float16: the first state, and `step(state, batch) -> (state, metrics)`."""
    ours = optimizer_in("float16", models)
    on_devices = jax.jit(jax.vmap(ours.step, (None, None, 0), axis_name="data"))
    state = ours.init(jax.random.key(0), start())

    def step(before, batch):
        split = {name: array.reshape(2, -1, *array.shape[1:]) for name, array in batch.items()}
        states, metrics = on_devices(ours.weights, before._replace(key=state.key), split)
        results = states._replace(key=()), metrics
        jax.tree.map(lambda leaf: np.testing.assert_array_equal(*leaf), results)
        return jax.tree.map(lambda leaf: leaf[0], results)

    return state, step


def with_scale(state, **fields):
    return state._replace(loss_scale=state.loss_scale.replace(**fields))


def test_a_gradient_too_small_for_float16_is_not_lost(half):
    state, step = half
    usual, _ = step(state, batch_of(0))
    tiny_loss = batch_of(0) | {"depth": TINY * batch_of(0)["depth"]}
    tiny, metrics = step(state, tiny_loss)
    assert metrics["loss_scale"] == 2**16 and metrics["skipped"] == 0
    assert relative_error(tiny.opt_state[0].mu / TINY, usual.opt_state[0].mu) < 0.03
    unscaled, _ = step(with_scale(state, scale=jnp.float32(1)), tiny_loss)
    assert relative_error(unscaled.opt_state[0].mu / TINY, usual.opt_state[0].mu) > 0.9


def test_other_precisions_have_no_loss_scale(models):
    for dtype in ("float32", "bfloat16"):
        assert optimizer_in(dtype, models).init(jax.random.key(0), start()).loss_scale is None


def test_a_micro_batch_that_overflows_halves_the_scale_on_all_devices(half):
    state, step = half
    bad = batch_of(0)
    bad["depth"][0] = 1e9  # one image, on the first device and in its first micro-batch
    after, metrics = step(state, bad)
    assert metrics["loss_scale"] == after.loss_scale.scale == 2**15
    assert after.loss_scale.fin_steps == 1 and after.skipped == 1
    np.testing.assert_array_equal(after.embeddings, state.embeddings)


def test_a_scale_that_is_too_large_is_halved_until_the_gradient_is_finite(half):
    first, step = half
    state, skipped = with_scale(first, scale=jnp.float32(2**40)), []
    while not skipped or skipped[-1]:
        state, _ = step(state, batch_of(0))
        skipped.append(int(state.skipped))
    assert skipped == [*range(1, len(skipped)), 0] and 2 < len(skipped) < 20
    assert relative_error(state.embeddings, first.embeddings) > 0


def test_a_long_run_without_overflow_doubles_the_scale(half):
    state, step = half
    after, _ = step(with_scale(state, fin_steps=jnp.int32(1999)), batch_of(0))
    assert after.skipped == 0 and after.loss_scale.scale == 2**17
