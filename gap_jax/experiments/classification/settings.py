"""The settings that all classification experiments share: those of the small world, and paths of files.

The comments behind the fields are the help texts of the command line.
"""

import dataclasses
from pathlib import Path
from typing import Annotated, Literal

from gap_jax.closed_loop.arms import arms_of
from gap_jax.closed_loop.settings import (
    Evaluating,
    Finetuning,
    Generating,
    GeneratorFiles,
    Optimizing,
    SamplingSettings,
    Settings,
)
from gap_jax.ranges import DISTINCT, Count, CountOrZero, FileName, Range, Text

CROP = Range("a first row and a number of rows that fit in the last number", lambda c: c[0] + c[1] <= c[2])
Crop = Annotated[tuple[CountOrZero, Count, Count], CROP]
SMALL = Settings(
    arms=arms_of("waterbirds"),
    sampling=SamplingSettings(eta=1.0),
    optimizing=Optimizing(prompts=3, steps=15, batch=2, learning_rate=2.4e-2, threshold=None),
    generating=Generating(images=64, subject="an animal"),
    finetuning=Finetuning(steps=80, batch=16, learning_rate=1e-3, share=0.5),
    evaluating=Evaluating(images=100, severities=()),
)


@dataclasses.dataclass(frozen=True, kw_only=True)
class ClassificationFiles(GeneratorFiles):
    """A data set made by `python -m gap_jax.data prepare`, and models in files, folders or on the hub."""

    data: Path  # prepared data set with the splits train, validation and test
    # classifier to improve, against which prompts are optimised: a file, folder or hub id, or module:factory,
    # a function that returns a torch module
    model: Text = "classifier"
    student: Text | None = None  # another classifier to fine-tune in its place; None: the model itself
    # stronger classifier that judges generated images; None: the model before fine-tuning
    critic: Text | None = None
    # further classifiers: prompts are found against each, and all models are measured on all their images;
    # files, folders or hub ids
    models: Annotated[tuple[Text, ...], DISTINCT] = ()
    size: Count = 224  # side of the images that classifiers see, in pixels
    # part of an image's height that classifiers see: its first row, its number of rows, and the image's
    # number of rows; other heights are cut in proportion
    crop: Crop | None = None
    # normalise images with the mean and deviation in the classifier's folder or, for a file, with ImageNet's
    normalised: bool = True
    # the part of the classifier that is fine-tuned
    trained: Literal["everything", "last layer"] = "everything"
    batch_norm: Literal["training", "evaluation"] = "training"  # mode of batch norm in fine-tuning
    # classes whose images prompts are optimised on and images are generated from; none given: all
    keep_classes: Annotated[tuple[Text, ...], DISTINCT] = ()
    target_images: Count = 64  # number of images that show each target domain, at most
    # other target domains, in place of the experiment's own: name, and a folder of images, a file of
    # features, or a text
    targets: dict[FileName, Text] = dataclasses.field(default_factory=dict)
