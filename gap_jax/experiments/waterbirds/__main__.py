"""The Waterbirds experiment: the closed loop on a classifier that takes backgrounds for birds.

The classifier has seen landbirds on land only and waterbirds on water only. Birds are kept, and their
backgrounds are inpainted. Run it with `python -m gap_jax.experiments.waterbirds`. Finished work is kept:
after an interruption, the same command continues.
"""

from typing import TYPE_CHECKING, Any

from gap_jax.closed_loop.command import Experiment, main
from gap_jax.experiments.waterbirds.settings import PRESETS, SmallBirds, WaterbirdsFiles

if TYPE_CHECKING:
    from gap_jax.closed_loop.world import World


def build_world(config: SmallBirds | WaterbirdsFiles, held_out: int) -> "World":
    """Return the world of a configuration, with this many images in each held-out set."""
    from gap_jax.closed_loop.targets import check_targets, with_targets
    from gap_jax.experiments.waterbirds import worlds

    check_targets(config.targets)
    build: Any = worlds.build_small if isinstance(config, SmallBirds) else worlds.build_from_files
    return with_targets(build(config, held_out), config.targets)


EXPERIMENT = Experiment("waterbirds", __doc__, PRESETS, build_world, lambda world: 1)

if __name__ == "__main__":
    main(EXPERIMENT)
