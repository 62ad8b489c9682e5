"""Three populations that differ in everything that may differ, on a toy pipeline: apart, and as one."""

from functools import cache
from pathlib import Path
from unittest.mock import patch

import jax
import jax.numpy as jnp
import numpy as np
import optax

from gap_jax.diffusion.align import Alignment, Start
from gap_jax.models.network import Network
from gap_jax.stages.objective import Term, adversarial, objective
from gap_jax.stages.optimize import PopulationRun, optimize_together
from gap_jax.stages.prompt_optimizer import EarlyStop, PromptOptimizer, prompt_optimizer
from tests.toy_prompts import PLACEHOLDERS, WIDTH, ToyEncoder, draw_images, vectors

ROWS = 4
WORDS = vectors(20, WIDTH, seed=8)


def terms(weight: float, start: int, guidance: float, target: int) -> list[Term]:
    """Return an arm's terms: the model's loss from step `start` on, and the distance to a colour."""
    colour = jnp.asarray(vectors(2, 3, seed=6)[target])
    return [
        adversarial(
            lambda prediction, label: -jnp.abs(prediction - label["depth"]).mean((1, 2, 3)), weight, start
        ),
        Term(
            "target", lambda colour, s: jnp.square(s.images.mean((1, 2)) - colour).mean(-1), colour, guidance
        ),
    ]


@cache
def shared_optimizer() -> PromptOptimizer:
    made = prompt_optimizer(
        ToyEncoder(),
        {},
        Network(lambda _, images: images.mean(-1, keepdims=True), jnp.zeros(1)),
        terms(1.0, 2, 1.0, 0),
        Alignment(lambda *arguments: Start(None)),
        optax.adamw(0.1, eps=1e-5),
        placeholders=PLACEHOLDERS,
        negative_prompt=None,
        accumulation=1,
        axis_name="data",
        early_stop=EarlyStop(2, -1e6),
        words=jnp.asarray(WORDS),
    )

    def patched(function):
        def call(*arguments):
            with patch("gap_jax.stages.prompt_optimizer.generate", draw_images):
                return function(*arguments)

        return call

    return made._replace(step=patched(made.step), render=patched(made.render))


def population(
    folder: Path, prompts: int, seed: int, steps: int, threshold: float, words: bool, *arm: float
) -> PopulationRun:
    """Return a population of `prompts`, whose data, noise and start depend on the seed."""
    optimizer = shared_optimizer()
    weights = optimizer.weights._replace(
        terms=objective(terms(*arm))[1], threshold=np.float32(threshold), uses_words=np.bool_(words)
    )

    def load(step: int, rows: slice) -> dict[str, np.ndarray]:
        depth = np.random.default_rng([seed, step]).random((ROWS, 4, 4, 1), dtype=np.float32)
        return {"depth": depth[rows]}

    return PopulationRun(
        optimizer._replace(weights=weights),
        vectors(prompts, PLACEHOLDERS, WIDTH, seed=seed),
        load,
        steps,
        jax.random.key(seed),
        folder / str(seed),
        {"seed": seed},
        examples={"depth": np.ones((2, 4, 4, 1), np.float32) * seed / 10},
        tokens=[f"<{seed}-{i}>" for i in range(prompts)],
    )


def populations(folder: Path) -> list[PopulationRun]:
    """Return adversarial prompts that stop early, guided ones of words with fewer steps, and both at once."""
    return [
        population(folder, 2, 1, 7, -0.24, False, 1.0, 0, 0.0, 0),
        population(folder, 1, 2, 3, -np.inf, True, 0.0, 2, 1.0, 0),
        population(folder, 2, 3, 7, -1.0, False, 1.0, 2, 0.5, 1),
    ]


def run(runs: list[PopulationRun], **options) -> np.ndarray:
    """Optimise populations as one, without files of their prompts, and return all embeddings."""
    with patch("gap_jax.stages.optimize.save_prompts"):
        ends = optimize_together(
            ToyEncoder(), runs, images_per_step=ROWS, checkpoint_every=2, picture_every=3, **options
        )
    return np.concatenate(ends)
