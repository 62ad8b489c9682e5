"""The iWildCam experiment: the closed loop on a classifier of animals in front of camera traps.

Two cameras are new to the classifier. Animals are kept, and their surroundings are inpainted. Run it with
`python -m gap_jax.experiments.iwildcam`. Finished work is kept: after an interruption, the same command
continues.
"""

from typing import TYPE_CHECKING, Any

from gap_jax.closed_loop.command import Experiment, main
from gap_jax.experiments.iwildcam.settings import PRESETS, IWildCamFiles, SmallAnimals

if TYPE_CHECKING:
    from gap_jax.closed_loop.world import World


def build_world(config: SmallAnimals | IWildCamFiles, held_out: int) -> "World":
    """Return the world of a configuration, with this many images in each held-out set."""
    from gap_jax.closed_loop.targets import check_targets, with_targets
    from gap_jax.experiments.iwildcam import worlds

    check_targets(config.targets)
    build: Any = worlds.build_small if isinstance(config, SmallAnimals) else worlds.build_from_files
    return with_targets(build(config, held_out), config.targets)


def adversarial_sign(config: SmallAnimals | IWildCamFiles) -> int:
    """Return the sign of the loss that adversarial prompts minimise."""
    return -1 if config.adversarial == "cross-entropy" else 1


EXPERIMENT = Experiment("iwildcam", __doc__, PRESETS, build_world, adversarial_sign)

if __name__ == "__main__":
    main(EXPERIMENT)
