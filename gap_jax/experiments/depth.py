"""The depth experiment: `python -m gap_jax.experiments.depth`.

The closed loop on a depth model: prompts on which it fails, images of them, fine-tuning on these, and the
result as a table, curves and a page. What is done is kept: the same command goes on where it was stopped.
"""

import dataclasses
from pathlib import Path
from typing import ClassVar, Literal

import tyro

from gap_jax.closed_loop.command import Command, run
from gap_jax.experiments.depth_files import DepthFiles
from gap_jax.experiments.depth_presets import PRESETS
from gap_jax.experiments.depth_rooms import SmallRooms


@dataclasses.dataclass(frozen=True)
class Depth(Command):
    """What to run, and where. Defaults are the preset's."""

    PRESETS: ClassVar = PRESETS

    preset: Literal[tuple(PRESETS)] = "small"  # what all other settings are by default
    work: Path = Path("runs/depth")  # where everything goes
    world: tyro.conf.AvoidSubcommands[SmallRooms | DepthFiles] = PRESETS["small"][1]


if __name__ == "__main__":
    run(Depth)
