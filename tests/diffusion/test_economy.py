"""Cheaper steps equal a loop of diffusers' schedulers in torch that leaves the same out."""

import diffusers
import jax
import jax.numpy as jnp
import numpy as np
import pytest
import torch

from gap_jax.diffusion.sampler import Economy, Stretch, sample, stretches
from gap_jax.diffusion.schedule import Schedule, ddim, dpm_solver
from tests.torch_references.folders import relative_error

CONFIG = dict(beta_start=0.00085, beta_end=0.012, beta_schedule="scaled_linear")
STEPS, SCALE = 5, 3.0
START = np.random.default_rng(0).standard_normal((1, 2, 3, 4), dtype=np.float32)
WEIGHT = np.float32(0.7)
SOLVERS = {
    "ddim": (ddim, diffusers.DDIMScheduler(**CONFIG, clip_sample=False)),
    "dpm": (dpm_solver, diffusers.DPMSolverMultistepScheduler(**CONFIG, timestep_spacing="leading")),
}


def ours(economy, solver=ddim):
    """Return the sum of a small network's samples, and its gradient to the network's weight."""

    def total(weight):
        def network(x, timestep, guided):
            positive, negative = jnp.tanh(x * weight + timestep / 1000), jnp.sin(x)
            return negative + SCALE * (positive - negative) if guided else positive

        coefficients = solver(Schedule(**CONFIG), STEPS)
        return sample(network, START, coefficients, prediction_type="epsilon", economy=economy).sum()

    return jax.jit(jax.value_and_grad(total))(WEIGHT)


def theirs(scheduler, differentiated, passed, guided):
    """Return the same in torch; `differentiated`, `passed` and `guided` are sets of steps.

    The networks are differentiated in the first set alone, and the solver in both.
    """
    weight, x = torch.tensor(WEIGHT, requires_grad=True), torch.tensor(START)
    scheduler.set_timesteps(STEPS)
    for i, timestep in enumerate(scheduler.timesteps):
        positive, negative = torch.tanh(x * weight + timestep / 1000), torch.sin(x)
        output = negative + SCALE * (positive - negative) if i in guided else positive
        output = output if i in differentiated else output.detach()
        x = scheduler.step(output, timestep, x).prev_sample
        if i not in differentiated | passed:
            x = x.detach()
            if hasattr(scheduler, "model_outputs"):  # of the steps before, which DPM-Solver looks back at
                kept = scheduler.model_outputs
                scheduler.model_outputs = [output if output is None else output.detach() for output in kept]
    x.sum().backward()
    return x.sum().detach(), weight.grad


@pytest.mark.parametrize("solver", ["ddim", "dpm"])
@pytest.mark.parametrize(
    ("economy", "differentiated", "passed", "guided"),
    [
        (Economy(), range(5), (), range(5)),
        (Economy(backprop_steps=2), (3, 4), (), range(5)),
        (Economy(1, 4), (0,), (1, 2, 3, 4), range(5)),  # SDO on the first step
        (Economy(1, 2, (1, 3)), (2,), (3, 4), (1, 2)),
        (Economy(shortcut_steps=1, guided_steps=(3, 9)), range(4), (4,), (3, 4)),
    ],
    ids=str,
)
def test_what_is_left_out_is_constant_in_torch(economy, differentiated, passed, guided, solver):
    ours_of, scheduler = SOLVERS[solver]
    value, gradient = ours(economy, ours_of)
    their_value, their_gradient = theirs(scheduler, set(differentiated), set(passed), set(guided))
    assert relative_error(value, their_value) < 1e-5
    assert relative_error(gradient, their_gradient) < 1e-4


def test_all_steps_are_the_plain_form_to_the_bit():
    plain = ours(Economy())
    for economy in (Economy(STEPS), Economy(STEPS + 1), Economy(None, 0, (0, STEPS))):
        np.testing.assert_array_equal(ours(economy), plain)
    assert list(stretches(STEPS, Economy(STEPS))) == [Stretch(0, STEPS, True, True, True)]


@pytest.mark.parametrize(
    ("economy", "message"),
    [
        (Economy(backprop_steps=0), "backprop_steps must be at least 1, found 0"),
        (Economy(shortcut_steps=-1), "shortcut_steps must be at least 0, found -1"),
        (Economy(shortcut_steps=5), "shortcut_steps must be less than the 5 steps that run"),
        (Economy(guided_steps=(2, 2)), r"guided_steps must be the first guided step.*found \(2, 2\)"),
    ],
)
def test_an_economy_without_sense_is_refused(economy, message):
    with pytest.raises(ValueError, match=message):
        ours(economy)
