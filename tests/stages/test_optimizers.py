"""AMSGrad against torch.optim.Adam(amsgrad=True) over 300 steps of three histories of gradients."""

import jax
import numpy as np
import optax
import pytest
import torch

from gap_jax.stages.optimizers import amsgrad

STEPS, RATE, DECAY = 300, 1e-2, 1e-3
DRAWS = np.random.default_rng(0).standard_normal((STEPS, 5)).astype(np.float32)
TIMES = np.arange(STEPS, dtype=np.float32)[:, None]
HISTORIES = {
    "noise": DRAWS,
    "decay": np.exp(-TIMES / 30) * (1 + 0.1 * DRAWS),
    "bursts and gradients as small as eps": np.where(TIMES % 97 == 50, 10 * DRAWS, 1e-7 * DRAWS),
}


def torch_parameters(gradients, rates):
    """Return the parameters after each step."""
    parameters = torch.ones(5, requires_grad=True)
    optimizer = torch.optim.Adam([parameters], amsgrad=True, weight_decay=DECAY)
    history = []
    for gradient, rate in zip(gradients, rates, strict=True):
        optimizer.param_groups[0]["lr"] = rate
        parameters.grad = torch.from_numpy(gradient)
        optimizer.step()
        history.append(parameters.detach().numpy().copy())
    return np.stack(history)


@pytest.mark.parametrize("history", HISTORIES)
def test_it_is_torchs(history):
    schedule = optax.cosine_decay_schedule(RATE, STEPS)
    optimizer = optax.chain(optax.add_decayed_weights(DECAY), amsgrad(schedule))

    def step(carry, gradient):
        parameters, state = carry
        updates, state = optimizer.update(gradient, state, parameters)
        parameters = optax.apply_updates(parameters, updates)
        return (parameters, state), parameters

    start = np.ones(5, np.float32)
    gradients = HISTORIES[history].astype(np.float32)
    _, ours = jax.jit(lambda: jax.lax.scan(step, (start, optimizer.init(start)), gradients))()
    theirs = torch_parameters(gradients, [float(schedule(i)) for i in range(STEPS)])
    moves = np.abs(theirs - start).max(0)
    assert (moves > 5 * RATE).all()
    np.testing.assert_allclose((ours - theirs) / moves, np.zeros_like(theirs), atol=1e-4)
