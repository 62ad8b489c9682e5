"""The settings of the segmentation experiment: its two worlds, and its presets by name.

The comments behind the fields are the help texts of the command line.
"""

import dataclasses
from pathlib import Path
from typing import Annotated

from gap_jax.closed_loop.command import Preset
from gap_jax.closed_loop.settings import GeneratorFiles
from gap_jax.experiments.depth.settings import SMALL as ROOMS
from gap_jax.experiments.depth.settings import UNET
from gap_jax.ranges import DISTINCT, Count, FileName, Text, between


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
    # images; they are given like the model
    models: Annotated[tuple[Text, ...], DISTINCT] = ()


@dataclasses.dataclass(frozen=True, kw_only=True)
class SegmentationFiles(GeneratorFiles):
    """A data set with class maps, made by `gap_jax.data prepare`, and models in folders or on the hub."""

    data: Path = Path("data/segmented")  # prepared data set with the splits train, validation and test
    # further test sets: name and prepared data set
    domains: dict[FileName, Path] = dataclasses.field(default_factory=dict)
    # target domains: name, and a folder of images, a file of features, a text, or the data set of one of the
    # domains, 8 of whose images are then not tested; without any, targets are validation images in fog and
    # under defocus blur, also given in words
    targets: dict[FileName, Text] = dataclasses.field(default_factory=dict)
    # folder or hub id of the ControlNet, which sees class maps in ADE20K's colours; None: the pipeline's
    controlnet: Text | None = "lllyasviel/sd-controlnet-seg"
    # segmentation model to improve: a folder or hub id of transformers, or module:factory, a function that
    # returns a torch module
    model: Text = "nvidia/segformer-b0-finetuned-ade-512-512"
    # stronger segmentation model that judges generated images; None: the model before fine-tuning
    critic: Text | None = None
    # names of the classes, in the order of their numbers; none given: their numbers
    classes: Annotated[tuple[Text, ...], DISTINCT] = ()
    # for each class, the number of the ADE20K class, from 0 to 149, in whose colour the ControlNet sees it;
    # none given: the same number
    ade20k: Annotated[tuple[Annotated[int, between(0, 149)], ...], DISTINCT] = ()


FILES = dataclasses.replace(
    UNET,
    sampling=dataclasses.replace(UNET.sampling, size=None),
    optimizing=dataclasses.replace(UNET.optimizing, threshold=None),
    finetuning=dataclasses.replace(UNET.finetuning, batch=8),
)
SMALL = dataclasses.replace(
    ROOMS,
    # the first prompts have a cross-entropy of 0.9 to 1.4; a guess among six classes has 1.8
    optimizing=dataclasses.replace(ROOMS.optimizing, threshold=-1.8),
)
PRESETS = {
    "small": Preset(SMALL, SegmentedRooms()),
    "files": Preset(FILES, SegmentationFiles()),
}
