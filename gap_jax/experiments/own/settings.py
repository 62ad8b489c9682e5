"""The settings of the experiment on one's own folder, for each kind of data.

The comments behind the fields are the help texts of the command line.
"""

import dataclasses
from pathlib import Path
from typing import Annotated

from gap_jax.experiments.classification.settings import ClassificationFiles
from gap_jax.experiments.depth.settings import DepthFiles
from gap_jax.experiments.segmentation.settings import SegmentationFiles
from gap_jax.ranges import DISTINCT, Count, CountOrZero, FileName, Positive, Seed, Share, Text


@dataclasses.dataclass(frozen=True, kw_only=True)
class OwnFolder:
    """A folder of images with labels, of which the work folder keeps a prepared copy and the splits."""

    # folder of your data; if it lacks train, validation or test, these are drawn by chance
    data: Path = Path("mine")
    # further test sets of the same layout: name and folder; a target domain may have the same folder, 8 of
    # whose images are then not tested
    domains: dict[FileName, Path] = dataclasses.field(default_factory=dict)
    pixels: Count = 384  # side of the prepared images, and of the images that are generated from them
    validation_share: Share = 0.1  # share of images that is drawn for validation
    test_share: Share = 0.1  # share of images that is drawn for the test
    split_seed: Seed = 0  # seed of the draw
    tolerance: Share = 0.01  # share of images that may be unusable; more are an error


@dataclasses.dataclass(frozen=True, kw_only=True)
class OwnDepth(OwnFolder, DepthFiles):
    """Your own images with depth maps: `rgb` and `depth`, or an image folder with `metadata.jsonl`."""

    subject: Text = "a photo"  # text that describes your images: the prompt of the arm agnostic
    # value in a depth file at which depth is 1; None: 65535 for integers, 1 for floats
    far: Positive | None = None


@dataclasses.dataclass(frozen=True, kw_only=True)
class OwnSegmented(OwnFolder, SegmentationFiles):
    """Your own images with class maps: `rgb` and `classes`."""

    subject: Text = "a photo"  # text that describes your images: the prompt of the arm agnostic
    # number of the first class in the files, which becomes class 0; 1 for ADE20K, where 0 is no class
    first: CountOrZero = 0
    # number of pixels without a class; numbers below the first class have none, either
    unlabelled: CountOrZero = 255


@dataclasses.dataclass(frozen=True, kw_only=True)
class OwnMasked(OwnFolder, ClassificationFiles):
    """Your own images with classes and masks: `images/CLASS` and `masks/CLASS`."""

    # text that describes your images: the prompt of the arm agnostic; {subset} stands for the class
    subject: Text = "a photo of a {subset}"
    # names of the classes in the order of the model's labels; none given: as in the model's folder or, if
    # that has other names, sorted
    classes: Annotated[tuple[Text, ...], DISTINCT] = ()


@dataclasses.dataclass(frozen=True, kw_only=True)
class OwnWhole(OwnMasked):
    """Your own images with classes, without masks: a folder for each class."""
