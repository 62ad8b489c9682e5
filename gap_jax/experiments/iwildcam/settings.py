"""The settings of the iWildCam experiment: its two worlds, and its presets by name."""

import dataclasses
from pathlib import Path
from typing import Annotated, Literal

from gap_jax.closed_loop.arms import arms_of
from gap_jax.closed_loop.command import Preset
from gap_jax.closed_loop.settings import Finetuning, Generating, Optimizing, SamplingSettings
from gap_jax.experiments.classification import settings as classification
from gap_jax.experiments.classification.settings import ClassificationFiles, Crop
from gap_jax.ranges import DISTINCT, Count, FileName, Share, Text

AdversarialLoss = Literal["uniform", "background", "cross-entropy"]


@dataclasses.dataclass(frozen=True, kw_only=True)
class SmallAnimals:
    """The small world: procedural animals in front of cameras, and the models that come with gap_jax."""

    # number of pictures that the classifier is fine-tuned on and images are generated from
    original: Count = 504
    target_images: Count = 8  # number of images that show each target domain
    # other target domains, in place of the experiment's own: name, and a folder of images, a file of
    # features, or a text
    targets: dict[FileName, Text] = dataclasses.field(default_factory=dict)
    # further classifiers: prompts are found against each, and all models are measured on all their images;
    # "critic" is the small world's own, others are files, folders or hub ids
    models: Annotated[tuple[Text, ...], DISTINCT] = ()
    # the pair of unseen cameras; validation's serve to choose settings
    unseen: Literal["validation", "test"] = "test"
    adversarial: AdversarialLoss = "background"  # loss that adversarial prompts minimise


@dataclasses.dataclass(frozen=True, kw_only=True)
class IWildCamFiles(ClassificationFiles):
    """iWildCam as `python -m gap_jax.data prepare` writes it; models in files, folders or on the hub."""

    data: Path = Path("data/iwildcam")  # prepared data set with the splits train, validation and test
    # part of an image's height that classifiers see: its first row, its number of rows, and the image's
    # number of rows; other heights are cut in proportion
    crop: Crop | None = (10, 400, 448)
    # normalise images with the mean and deviation in the classifier's folder or, for a file, with ImageNet's
    normalised: bool = False
    # the part of the classifier that is fine-tuned
    trained: Literal["everything", "last layer"] = "last layer"
    adversarial: AdversarialLoss = "uniform"  # loss that adversarial prompts minimise
    # share of each unseen camera's images by day and by night that is always left for the test, rounded up
    tested_share: Share = 0.5
    # training images that prompts are optimised on and images are generated from: those taken at the target's
    # time of day, all by day, all by night, or all
    time: Literal["target", "day", "night", "any"] = "target"


SMALL = dataclasses.replace(
    classification.SMALL,
    arms=arms_of("iwildcam"),
    optimizing=dataclasses.replace(
        classification.SMALL.optimizing,
        prompts=2,
        steps=20,
        learning_rate=3.6e-2,
        decay="linear",
        guidance_weight=100.0,  # its classifier is so sure of itself that the adversarial loss is 10
    ),
)
PAPER = dataclasses.replace(
    SMALL,
    sampling=SamplingSettings(guidance_scale=5.0, eta=1.0, strength=0.8, size=384),
    optimizing=Optimizing(
        prompts=4,
        prompts_per_target=1,
        placeholders=10,
        steps=10_000,
        unguided_steps=2000,
        batch=32,
        micro_batch=1,
        learning_rate=1e-3,
        weight_decay=0.0,
        guidance_weight=10.0,
        adversarial_start=2000,
        threshold=None,
        checkpoint_every=50,
        picture_every=100,
    ),
    generating=Generating(images=2224, batch=8, denoising_steps=5, balanced=False, subject="an animal"),
    finetuning=Finetuning(
        optimizer="sgd",
        steps=1300,
        batch=128,
        learning_rate=1e-3,
        weight_decay=1e-4,
        share=None,
        checkpoints=20,
    ),
    evaluating=dataclasses.replace(SMALL.evaluating, images=9000, efficiency=(10, 100, 556)),
)
PRESETS = {"small": Preset(SMALL, SmallAnimals()), "paper": Preset(PAPER, IWildCamFiles())}
