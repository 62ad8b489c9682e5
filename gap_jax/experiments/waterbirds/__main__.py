"""The Waterbirds experiment: the closed loop on a classifier that takes backgrounds for birds.

The classifier has seen landbirds on land only and waterbirds on water only. Birds are kept, and their
backgrounds are inpainted. Run it by `python -m gap_jax.experiments.waterbirds`. Finished work is kept: after
an interruption, the same command continues.
"""

from gap_jax.closed_loop.command import Experiment, main
from gap_jax.experiments.waterbirds.settings import PRESETS

EXPERIMENT = Experiment("waterbirds", __doc__, PRESETS)

if __name__ == "__main__":
    main(EXPERIMENT)
