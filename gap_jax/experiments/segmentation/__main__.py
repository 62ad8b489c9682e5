"""The segmentation experiment: the closed loop on a model that tells the class of each pixel.

It finds prompts whose images the model gets wrong, generates a training set with them, fine-tunes the model
on it, and reports the result as tables, curves and a page. Run it with
`python -m gap_jax.experiments.segmentation`. Finished work is kept: after an interruption, the same command
continues.
"""

from typing import TYPE_CHECKING

from gap_jax.closed_loop.command import Experiment, main
from gap_jax.experiments.segmentation.settings import PRESETS, SegmentationFiles, SegmentedRooms

if TYPE_CHECKING:
    from gap_jax.closed_loop.world import World


def build_world(config: SegmentedRooms | SegmentationFiles, held_out: int) -> "World":
    """Return the world of a configuration, with this many images in each held-out set."""
    from gap_jax.closed_loop.targets import check_targets, with_targets
    from gap_jax.experiments.segmentation import files, world

    check_targets(config.targets)
    if isinstance(config, SegmentedRooms):
        return with_targets(world.build(config, held_out), config.targets)
    return files.build(config, held_out)


EXPERIMENT = Experiment("segmentation", __doc__, PRESETS, build_world, lambda world: -1)

if __name__ == "__main__":
    main(EXPERIMENT)
