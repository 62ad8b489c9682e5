"""The closed loop on your own folder: a model, images with labels, and a generator, without a line of Python.

The folder holds images with depth maps, with class maps, with classes and masks, or with classes alone; its
kind is seen from its layout, and may be given by --preset. Finished work is kept: after an interruption, the
same command continues.

Example: `python -m gap_jax.experiments.own --data FOLDER --model MODEL --targets night FOLDER`.
"""

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from gap_jax.closed_loop.command import Experiment, execute, parse
from gap_jax.errors import one_line_errors
from gap_jax.experiments.own.kinds import KINDS, kind_of, presets
from gap_jax.experiments.own.settings import OwnDepth, OwnFolder, OwnMasked, OwnSegmented

if TYPE_CHECKING:
    from gap_jax.closed_loop.world import World


def experiment(args: Sequence[str]) -> Experiment:
    """Return the experiment of a command line, whose default preset is of the kind of the folder `--data`.

    Raises ValueError for a folder of no known kind, and for a small world's pipeline that draws another kind.
    """
    first = argparse.ArgumentParser(add_help=False, allow_abbrev=False)
    first.add_argument("--data", type=Path, default=OwnFolder.data)
    first.add_argument("--preset", choices=KINDS)
    first.add_argument("--targets", nargs="*", default=[])
    first.add_argument("--loss", default=OwnDepth.loss)
    first.add_argument("--pipeline", default=OwnDepth.pipeline)
    first.add_argument("--work", type=Path, default=Path("runs", "own"))
    given, _ = first.parse_known_args(args)
    kind = given.preset or (kind_of(given.data) if given.data.is_dir() else "masks")

    def build_world(config: OwnDepth | OwnSegmented | OwnMasked, held_out: int) -> "World":
        from gap_jax import parallel
        from gap_jax.closed_loop.targets import check_targets
        from gap_jax.experiments.own import comparison, worlds

        if not config.data.is_dir():
            raise FileNotFoundError(f"there is no folder {config.data}: give that of your images by --data")
        if config.model == type(config).model and "/" not in config.model and not Path(config.model).exists():
            raise ValueError("the model to improve is missing: give it by --model")
        check_targets(config.targets)
        if isinstance(config, OwnDepth):
            world = worlds.build_depth(config, given.work, held_out)
        elif isinstance(config, OwnSegmented):
            world = worlds.build_segmented(config, given.work, held_out)
        else:
            world = worlds.build_classes(config, given.work, held_out)
        if not parallel.all_agree((given.work / "config.json").exists()):  # only before a run begins
            comparison.compare_with_constant(world)
        return world

    found = presets(kind, given.targets[1::2], given.loss, given.pipeline)
    return Experiment("own", __doc__, found, build_world, sign, prefix="")


def sign(config: OwnDepth | OwnSegmented | OwnMasked) -> int:
    """Return the sign of the loss that adversarial prompts minimise."""
    return 1 if isinstance(config, OwnMasked) else -1


def main(args: Sequence[str]) -> None:
    """Run the experiment of a command line; an error becomes one line."""
    with one_line_errors():
        own = experiment(args)
        execute(own, parse(own, args))


if __name__ == "__main__":
    main(sys.argv[1:])
