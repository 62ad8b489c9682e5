"""The settings of the segmentation experiment: its small world, and its presets by name.

The comments behind the fields are the help texts of the command line.
"""

import dataclasses
from typing import Annotated

from gap_jax.closed_loop.arms import arms_of
from gap_jax.closed_loop.command import Preset
from gap_jax.closed_loop.settings import Settings
from gap_jax.ranges import DISTINCT, Count, FileName, Text


@dataclasses.dataclass(frozen=True, kw_only=True)
class SegmentedRooms:
    """The small world: procedural rooms with class maps, and the models that come with gap_jax."""

    original: Count = 512  # number of rooms that the model is fine-tuned on and images are generated from
    target_images: Count = 8  # number of images that show each target domain
    # other target domains: name, and a folder of images, a file of features, or a text; without any, targets
    # are validation rooms in fog and under defocus blur, also given in words
    targets: dict[FileName, Text] = dataclasses.field(default_factory=dict)
    # segmentation model to improve, which tells the rooms' six classes: "small" is the small world's own;
    # others are folders or hub ids of transformers, such as SegFormer, or module:factory, a function that
    # returns a torch module
    model: Text = "small"
    # further segmentation models: prompts are found against each, and all models are measured on all their
    # images; "critic" is the small world's own, others are given like the model
    models: Annotated[tuple[Text, ...], DISTINCT] = ()


PRESETS = {"small": Preset(Settings(arms=(*arms_of("depth"), "oracle")), SegmentedRooms())}
