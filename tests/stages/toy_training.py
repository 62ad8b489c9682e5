"""A small regression trained by `stages.train`, to be killed and compared.

`toy_training.py FOLDER STEPS`; for one of two processes, `toy_training.py FOLDER STEPS PORT NUMBER`.
"""

import sys
import time
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import optax

from gap_jax import parallel
from gap_jax.data.loader import Batches
from gap_jax.errors import exit_when_stopped
from gap_jax.stages.train import train

ADAM = optax.adam(0.1)
TRUE = np.arange(6.0, dtype=np.float32).reshape(3, 2)


def source(count=64):
    x = np.random.default_rng(0).normal(size=(count, 3)).astype(np.float32)
    return [{"x": row, "y": row @ TRUE} for row in x]


def transform(example, random):
    return {"x": example["x"] + random.normal(0, 0.01, 3).astype(np.float32), "y": example["y"]}


def loss(params, frozen, batch, keys):
    noise = jax.vmap(lambda key: jax.random.normal(key, (2,)))(keys)
    error = jnp.square(batch["x"] @ params["w"] + params["b"] + 0.01 * noise - batch["y"]).mean()
    return error, {"size": jnp.abs(params["w"]).mean()}


def start():
    return {"w": jnp.zeros((3, 2)), "b": jnp.zeros(2)}


def run(folder, steps=60, loss=loss, config=None, batches=None, **options):
    return train(
        loss,
        start(),
        ADAM,
        batches or Batches(source(), transform, size=16, seed=0),
        steps=steps,
        key=jax.random.key(0),
        folder=folder,
        config=config or {"steps": steps},
        **({"average": 0.9, "checkpoint_every": 7} | options),
    )


if __name__ == "__main__":

    def slow(params):
        time.sleep(0.02)
        return {}, {}

    if len(sys.argv) > 3:
        parallel.initialize(f"localhost:{sys.argv[3]}", 2, int(sys.argv[4]))
    with exit_when_stopped():
        params = run(Path(sys.argv[1]), int(sys.argv[2]), probe=slow, probe_every=1)
    np.savez(Path(sys.argv[1]) / "result.npz", **jax.device_get(params))
