"""The parts of tests that compare losses with torch: rows, their keys, gradients of parameters."""

import contextlib

import jax
import numpy as np

BATCH = 3
KEYS = jax.random.split(jax.random.key(5), BATCH)


def random(*shape, seed=0):
    return np.random.default_rng(seed).random(shape, np.float32)


def per_row(draw, *shape):
    return np.asarray(jax.vmap(lambda key: draw(key, shape))(KEYS))


def torch_gradients(module):
    return {name: parameter.grad.numpy() for name, parameter in module.named_parameters()}


@contextlib.contextmanager
def training():
    """Yield a function that clears and enables the gradients of a torch module until the end."""
    modules = []

    def make(module):
        modules.append(module)
        module.zero_grad()
        return module.requires_grad_()

    yield make
    for module in modules:
        module.requires_grad_(False)
