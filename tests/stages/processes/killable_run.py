"""The program of `test_kill.py`: optimise prompts of a real pipeline, to be killed.

python -m tests.stages.processes.killable_run MODEL_FOLDER RUN_FOLDER
"""

import sys

import jax
import numpy as np

from gap_jax.stages.optimize import optimize
from tests.stages.processes.distributed_steps import PLACEHOLDERS, batch, make_optimizer

ROWS, STEPS = 4, 12


def main(model: str, folder: str) -> None:
    pipe, optimizer = make_optimizer(model)
    starts = np.random.default_rng(0).standard_normal((2, PLACEHOLDERS, 48), dtype=np.float32) * 0.03
    optimize(
        pipe,
        optimizer,
        starts,
        batch,
        images_per_step=ROWS,
        steps=STEPS,
        key=jax.random.key(5),
        folder=folder,
        config={"learning_rate": 1e-3},
        checkpoint_every=2,
    )


if __name__ == "__main__":
    main(*sys.argv[1:])
