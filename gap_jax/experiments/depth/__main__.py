"""The depth experiment: the closed loop on a depth model.

It finds prompts whose images the model gets wrong, generates a training set with them, fine-tunes the model
on it, and reports the result as tables, curves and a page. Run it with `python -m gap_jax.experiments.depth`.
Finished work is kept: after an interruption, the same command continues.
"""

from typing import TYPE_CHECKING

from gap_jax.closed_loop.command import Experiment, main
from gap_jax.experiments.depth.settings import PRESETS, DepthFiles, SmallRooms

if TYPE_CHECKING:
    from gap_jax.closed_loop.world import World


def build_world(config: SmallRooms | DepthFiles, held_out: int) -> "World":
    """Return the world of a configuration, with this many images in each held-out set."""
    from gap_jax.closed_loop.targets import check_targets, with_targets
    from gap_jax.experiments.depth import files, small_world

    check_targets(config.targets)
    if isinstance(config, SmallRooms):
        return with_targets(small_world.build(config, held_out), config.targets)
    return files.build(config, held_out)


EXPERIMENT = Experiment("depth", __doc__, PRESETS, build_world, lambda world: -1)

if __name__ == "__main__":
    main(EXPERIMENT)
