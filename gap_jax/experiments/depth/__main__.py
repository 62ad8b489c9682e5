"""The depth experiment: the closed loop on a depth model.

It finds prompts whose images the model gets wrong, generates a training set with them, fine-tunes the model
on it, and reports the result as tables, curves and a page. Run it by `python -m gap_jax.experiments.depth`.
Finished work is kept: after an interruption, the same command continues.
"""

from gap_jax.closed_loop.command import Experiment, main
from gap_jax.experiments.depth.settings import PRESETS

EXPERIMENT = Experiment("depth", __doc__, PRESETS)

if __name__ == "__main__":
    main(EXPERIMENT)
