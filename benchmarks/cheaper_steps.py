"""What cheaper updates of prompts cost, and how adversarial the prompts become, in the small world of rooms.

    python -m benchmarks.cheaper_steps [--updates 12] [--images 32]

For each setting, prompts are optimised from the same embeddings, on the same images and with the same noise.
The columns are the operations and the seconds of an update, the cosine of the first gradient with that of the
full form, and the model's loss on images that are then generated in the usual way, all with the same noise:
the larger, the more adversarial. Other settings than the named ones are the experiment's defaults.
"""

import argparse
import dataclasses
import time
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from gap_jax import parallel
from gap_jax.closed_loop.arms import ARMS
from gap_jax.closed_loop.programs import Programs
from gap_jax.closed_loop.settings import Settings
from gap_jax.closed_loop.world import World, select
from gap_jax.experiments.depth.settings import SmallRooms
from gap_jax.experiments.depth.small_world import build
from gap_jax.flops import count_flops
from gap_jax.stages.generate import image_keys

FORMS: dict[str, dict[str, Any]] = {
    "all steps": {},
    "the last 2 steps": {"backprop_steps": 2},
    "the last step": {"backprop_steps": 1},
    "the first step, then a shortcut": {"backprop_steps": 1, "shortcut_steps": 4},
    "the middle step, then a shortcut": {"backprop_steps": 1, "shortcut_steps": 2},
    "guidance in steps 0 to 2": {"guided_steps": (0, 3)},
    "guidance in steps 2 to 4": {"guided_steps": (2, 5)},
    "3 denoising steps": {"denoising_steps": 3},
    "3 denoising steps of DPM-Solver": {"denoising_steps": 3, "solver": "dpm-solver"},
}
ARM = ARMS["adversarial"]


def settings_of(form: dict[str, Any], updates: int) -> Settings:
    """Return the experiment's settings with those of a form, and without early stopping."""
    settings = Settings(arms=("adversarial",))
    sampling = {name: value for name, value in form.items() if name == "solver"}
    changed = {name: value for name, value in form.items() if name != "solver"}
    return dataclasses.replace(
        settings,
        sampling=dataclasses.replace(settings.sampling, **sampling),
        optimizing=dataclasses.replace(settings.optimizing, steps=updates, threshold=None, **changed),
    )


class Comparison:
    """The prompts of all forms, compared on the same images."""

    def __init__(self, world: World, updates: int, images: int):
        self.world, self.updates = world, updates
        self.plain = Programs(settings_of({}, updates), world)
        self.batch = select(world.data.original, np.arange(min(images, len(world.data.original))))

    def optimise(self, form: dict[str, Any]) -> tuple[float, float, np.ndarray, np.ndarray]:
        """Return an update's operations and seconds, the first gradients, and the final embeddings."""
        settings, params = settings_of(form, self.updates), self.world.models.model.params
        config, programs = settings.optimizing, Programs(settings, self.world)
        optimizer = programs.optimizer(ARM, params, None)
        [start] = programs.initial_prompts(ARM, 0)
        mesh = parallel.layout(jax.device_count(), config.batch, len(start.texts)).mesh()
        state = jax.vmap(optimizer.init)(
            jax.random.split(jax.random.key(0), len(start.texts)), start.embeddings
        )
        state = parallel.split_prompts(mesh, state)
        weights = parallel.replicate(mesh, optimizer.weights)
        step, rows = parallel.population_step(optimizer.step, mesh), parallel.local_rows(mesh, config.batch)
        random, seconds, gradients = np.random.default_rng(0), [], None
        for _ in range(self.updates):
            numbers = random.choice(len(self.world.data.original), config.batch)[rows]
            fed = parallel.feed(mesh, config.batch, select(self.world.data.original, numbers))
            began = time.perf_counter()
            state, _ = jax.block_until_ready(step(weights, state, fed))
            seconds.append(time.perf_counter() - began)
            if gradients is None:
                gradients = parallel.to_host(mesh, state.opt_state[0].mu)[: len(start.texts)]
        flops = count_flops(step, weights, state, fed, devices=mesh.size) * mesh.size
        embeddings = parallel.to_host(mesh, state.embeddings)[: len(start.texts)]
        assert gradients is not None
        return flops, float(np.median(seconds[1:])), gradients, embeddings

    def loss(self, embeddings: np.ndarray | None) -> float:
        """Return the model's mean loss on images of prompts; None: of the embeddings they start from."""
        [start] = self.plain.initial_prompts(ARM, 0)
        prompts = start if embeddings is None else start._replace(embeddings=embeddings)
        weights = self.plain.generation_weights(
            self.plain.arm_contexts([prompts]), self.world.models.model.params
        )
        count = len(self.batch["image"])
        numbers = np.arange(count)
        which = numbers % len(prompts.texts)
        keys = jax.random.wrap_key_data(jnp.asarray(image_keys(0, numbers, which, 0 * numbers)))
        step = jax.jit(self.plain.generation_step(1.0))
        return float(step(weights, {**self.batch, "prompt": which}, keys)[1]["model_loss"].mean())


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--updates", type=int, default=12, help="number of updates of each prompt")
    parser.add_argument(
        "--images", type=int, default=32, help="images that the final prompts are measured on"
    )
    args = parser.parse_args()
    comparison = Comparison(build(SmallRooms(), held_out=1), args.updates, args.images)
    print(f"{jax.device_count()} × {jax.devices()[0].device_kind}; before: loss {comparison.loss(None):.4f}")
    full = None
    for name, form in FORMS.items():
        flops, seconds, gradients, embeddings = comparison.optimise(form)
        full = gradients if full is None else full
        cosine = np.sum(gradients * full) / np.linalg.norm(gradients) / np.linalg.norm(full)
        print(
            f"{name:34} {flops / 1e9:7.1f} GFLOP {seconds:7.3f} s  cosine {cosine:6.3f}  "
            f"loss {comparison.loss(embeddings):.4f}",
            flush=True,
        )


if __name__ == "__main__":
    main()
