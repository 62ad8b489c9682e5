"""The iWildCam experiment: the closed loop on a classifier of animals in front of camera traps.

Two cameras are new to the classifier. Animals are kept, and their surroundings are inpainted. Run it by
`python -m gap_jax.experiments.iwildcam`. Finished work is kept: after an interruption, the same command
continues.
"""

from gap_jax.closed_loop.command import Experiment, main
from gap_jax.experiments.iwildcam.settings import PRESETS

EXPERIMENT = Experiment("iwildcam", __doc__, PRESETS)

if __name__ == "__main__":
    main(EXPERIMENT)
