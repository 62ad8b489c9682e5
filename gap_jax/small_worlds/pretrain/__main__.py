"""Trains a small world's models: `python -m gap_jax.small_worlds.pretrain [--world wildlife]`.

In this order: autoencoder, CLIP, diffusion model; then, of the rooms, depth model and critic, of the
wildlife, classifiers and critics. Each can be stopped at any moment and goes on when the command is run
again.
"""

import argparse
import sys
from collections.abc import Sequence

import tyro

from gap_jax import parallel
from gap_jax.small_worlds.pretrain import rooms, wildlife
from gap_jax.small_worlds.pretrain.generator import train_clip, train_diffusion, train_vae
from gap_jax.small_worlds.pretrain.parts import Training, half
from gap_jax.small_worlds.pretrain.recipes import RECIPES, Recipe
from gap_jax.weights.pipeline import save_clip, save_pipeline

WORLDS = {"rooms": rooms.WORLD, "wildlife": wildlife.WORLD}


def parse(args: Sequence[str]) -> Recipe:
    """The recipe of a command line: first its world, then what it changes."""
    first = argparse.ArgumentParser(add_help=False, allow_abbrev=False)
    first.add_argument("--world", choices=RECIPES, default="rooms")
    chosen, _ = first.parse_known_args(args)
    return tyro.cli(RECIPES[chosen.world], description=__doc__, args=args)


def main(recipe: Recipe) -> None:
    """Train what is not trained yet."""
    parallel.use_all_cores()
    parallel.initialize()
    world = WORLDS[recipe.world]
    training = Training(recipe, world)
    vae, vae_params = train_vae(training)
    clip, clip_params = train_clip(training)
    pipe, params = train_diffusion(training, vae, vae_params, clip, clip_params)
    folder = recipe.work / world.folder
    save_pipeline(pipe, half(params), folder)
    save_clip(clip, half(clip_params), folder / "clip")
    world.supervised(training, folder)
    print(f"{folder} is complete: {world.probe.format(folder)}")


if __name__ == "__main__":
    main(parse(sys.argv[1:]))
