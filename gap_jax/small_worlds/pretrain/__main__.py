"""Train the models of a small world: `python -m gap_jax.small_worlds.pretrain [--world wildlife]`.

The order is autoencoder, CLIP, diffusion model; then, for the rooms, the depth model and its critic, and for
the wildlife, classifiers and their critics. A training that was stopped goes on from its last checkpoint when
the same command is run again.
"""

import argparse
import sys
from collections.abc import Sequence

import tyro

from gap_jax.errors import exit_when_stopped, one_line_errors
from gap_jax.ranges import check_ranges
from gap_jax.small_worlds.pretrain.recipes import RECIPES, Recipe


def parse(args: Sequence[str]) -> Recipe:
    """Return the recipe of a command line: the defaults of its world, changed by the other options.

    Raises ValueError for a setting outside its range.
    """
    world_parser = argparse.ArgumentParser(add_help=False, allow_abbrev=False)
    world_parser.add_argument("--world", choices=RECIPES, default="rooms")
    known, _ = world_parser.parse_known_args(args)
    prog = "python -m gap_jax.small_worlds.pretrain"
    recipe: Recipe = tyro.cli(RECIPES[known.world], prog=prog, description=__doc__, args=args)
    check_ranges(recipe)
    return recipe


def main(recipe: Recipe) -> None:
    """Train the models that are not trained yet, and write all of them."""
    from gap_jax import ownership, parallel

    parallel.use_all_cores()
    parallel.initialize()
    with exit_when_stopped(), ownership.only_job(recipe.work):
        _pretrain(recipe)


def _pretrain(recipe: Recipe) -> None:
    from gap_jax.small_worlds.pretrain import rooms, wildlife
    from gap_jax.small_worlds.pretrain.generator import train_clip, train_diffusion, train_vae
    from gap_jax.small_worlds.pretrain.training import Training, to_float16
    from gap_jax.weights.pipeline import save_clip, save_pipeline

    world = {"rooms": rooms.WORLD, "wildlife": wildlife.WORLD}[recipe.world]
    training = Training(recipe, world)
    vae, vae_params = train_vae(training)
    clip, clip_params = train_clip(training)
    pipe, params = train_diffusion(training, vae, vae_params, clip, clip_params)
    folder = recipe.work / world.folder
    save_pipeline(pipe, to_float16(params), folder)
    save_clip(clip, to_float16(clip_params), folder / "clip")
    world.train_supervised(training, folder)
    print(f"{folder} is complete; to measure its models, run {world.probe_command.format(folder)}")


if __name__ == "__main__":
    with one_line_errors():
        main(parse(sys.argv[1:]))
