"""The cost of an update of prompts by sampler, and the loss that prompts reach, in the small world of rooms.

    python -m benchmarks.few_steps [--updates 30] [--prompts 2] [--images 32]

The first row is the recipe: 5 DDIM steps and classifier-free guidance, which passes twice through the
networks in each step. The others have fewer steps of a few-step solver and a guidance scale of 1, and thus
one pass. Both are timed in turn, and the ratio is the median of the pairs. All prompts start equal and see
the same images and noise. "found with" is the model's loss, to be maximised, on images of the row's own
sampler; "drawn by DDIM" is that on images that the recipe's sampler draws with the same prompts. The
world's networks were not distilled for few steps: the rows tell the cost of a recipe, and how well its
prompts carry over.
"""

import argparse
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from benchmarks.unet import compare
from gap_jax.closed_loop.settings import Optimizing, SamplingSettings
from gap_jax.closed_loop.world import World
from gap_jax.data.loader import stack
from gap_jax.diffusion.align import Sampling
from gap_jax.diffusion.schedule import euler, lcm
from gap_jax.experiments.depth.__main__ import build_world
from gap_jax.experiments.depth.settings import SmallRooms
from gap_jax.prompts import from_vocabulary
from gap_jax.stages.objective import adversarial
from gap_jax.stages.optimizers import adamw
from gap_jax.stages.prompt_optimizer import PromptOptimizer, PromptState, prompt_optimizer

RECIPE = Sampling(Optimizing().denoising_steps, SamplingSettings().guidance_scale)
SAMPLERS = {"DDIM 5, guidance": RECIPE} | {
    f"{name} {steps}": Sampling(steps, 1.0, solver=solver)
    for name, solver in (("Euler", euler), ("LCM", lcm))
    for steps in (1, 2, 4)
}


def optimizer_of(world: World, sampling: Sampling, config: Optimizing) -> PromptOptimizer:
    """The small recipe's optimisation of a prompt, through another sampler, without early stopping."""
    return prompt_optimizer(
        world.generator.pipe,
        world.generator.params,
        world.models.model,
        [adversarial(world.task.adversarial)],
        world.task.align(1.0),
        adamw(config.learning_rate, images_per_step=config.batch),
        placeholders=config.placeholders,
        negative_prompt=world.task.negative_prompt,
        sampling=sampling,
    )


def mean_loss(world: World, optimizer: PromptOptimizer, embeddings: jax.Array, batch: Any) -> float:
    """The model's loss on images of all prompts, with the same noise for every sampler."""
    keys = jax.random.split(jax.random.key(1), len(batch["depth"]))

    @jax.jit
    def loss(weights, embeddings, batch, keys):
        images = optimizer.render(weights, embeddings, batch, keys)
        return world.task.loss(world.models.model.predict(weights.model, images), batch).mean()

    return float(np.mean([loss(optimizer.weights, prompt, batch, keys) for prompt in embeddings]))


def update(program: Any, weights: Any, state: PromptState, batch: Any) -> PromptState:
    return jax.block_until_ready(program(weights, state, batch)[0])


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--updates", type=int, default=30)
    parser.add_argument("--prompts", type=int, default=2)
    parser.add_argument("--images", type=int, default=32)
    args = parser.parse_args()
    config, world = Optimizing(), build_world(SmallRooms(original=64), held_out=args.images)
    rooms, held_out = world.data.original, world.data.validation["clean"]
    start = jnp.stack(
        [
            from_vocabulary(world.generator.params, config.placeholders, jax.random.key(i))
            for i in range(args.prompts)
        ]
    )
    batches = [
        stack([rooms[(step * config.batch + i) % len(rooms)] for i in range(config.batch)])
        for step in range(args.updates)
    ]
    print(f"{args.prompts} prompts, {args.updates} updates of {config.batch} images")
    print(
        f"{'sampler':17} {'s/update':>9} {'recipe':>9} {'ratio':>7} {'found with':>10} {'drawn by DDIM':>13}"
    )
    recipe = optimizer_of(world, RECIPE, config)
    before = mean_loss(world, recipe, start, held_out)
    print(f"{'before':17} {before:38.4f} {before:13.4f}", flush=True)
    run_recipe = None
    for name, sampling in SAMPLERS.items():
        optimizer = optimizer_of(world, sampling, config)
        state = jax.vmap(optimizer.init)(jax.random.split(jax.random.key(0), args.prompts), start)
        mapped = jax.jit(jax.vmap(optimizer.step, (None, 0, None)))
        program = mapped.lower(optimizer.weights, state, batches[0]).compile()
        run = partial(update, program, optimizer.weights, state, batches[0])
        run_recipe = run_recipe or run
        cost = compare(run, run_recipe, 5)
        for batch in batches:
            state = update(program, optimizer.weights, state, batch)
        own, drawn = (mean_loss(world, with_, state.embeddings, held_out) for with_ in (optimizer, recipe))
        print(f"{name:17} {cost} {own:10.4f} {drawn:13.4f}", flush=True)


if __name__ == "__main__":
    main()
