"""The settings of the Waterbirds experiment: its two worlds, and its presets by name.

The comments behind the fields are the help texts of the command line.
"""

import dataclasses
from pathlib import Path
from typing import Annotated, Literal

from gap_jax.closed_loop.command import Preset
from gap_jax.closed_loop.settings import Finetuning, Generating, Optimizing, SamplingSettings
from gap_jax.experiments.classification.settings import SMALL, ClassificationFiles
from gap_jax.ranges import DISTINCT, Count, FileName, Text

Guidance = Literal["shared", "missing group"]


@dataclasses.dataclass(frozen=True, kw_only=True)
class SmallBirds:
    """The small world: procedural birds, and the models that come with gap_jax."""

    # number of pictures that the classifier is fine-tuned on and images are generated from
    original: Count = 512
    target_images: Count = 8  # number of images that show each target domain
    # other target domains, in place of the experiment's own: name, and a folder of images, a file of
    # features, or a text
    targets: dict[FileName, Text] = dataclasses.field(default_factory=dict)
    # further classifiers: prompts are found against each, and all models are measured on all their images;
    # "critic" is the small world's own, others are files, folders or hub ids
    models: Annotated[tuple[Text, ...], DISTINCT] = ()
    # target of guided prompts: all groups together, shared by both classes; or, for each class, the group
    # that it lacks, which tells prompts the answer
    guidance: Guidance = "shared"


@dataclasses.dataclass(frozen=True, kw_only=True)
class WaterbirdsFiles(ClassificationFiles):
    """Waterbirds as `python -m gap_jax.data prepare` writes it; models in files, folders or on the hub."""

    data: Path = Path("data/waterbirds")  # prepared data set with the splits train, validation and test
    # target of guided prompts: all groups together, shared by both classes; or, for each class, the group
    # that it lacks, which tells prompts the answer
    guidance: Guidance = "shared"
    # groups of the validation set that checkpoints are chosen by: biased has those of the training set alone
    validation: Literal["biased", "all groups"] = "biased"


PAPER = dataclasses.replace(
    SMALL,
    sampling=SamplingSettings(guidance_scale=7.0, eta=1.0, size=384),
    optimizing=Optimizing(
        prompts=4,
        placeholders=5,
        steps=1000,
        images=10,
        batch=10,
        micro_batch=1,
        learning_rate=0.04,
        decay="linear",
        weight_decay=0.0,
        guidance_weight=10.0,
        text_guidance_weight=10.0,
        adversarial_start=30,
        threshold=None,
        checkpoint_every=50,
        picture_every=100,
    ),
    generating=Generating(images=839, batch=8, denoising_steps=10, subject="a bird"),
    finetuning=Finetuning(
        optimizer="sgd",
        steps=1600,
        batch=128,
        learning_rate=1e-3,
        weight_decay=1e-4,
        share=None,
        checkpoints=20,
    ),
    evaluating=dataclasses.replace(SMALL.evaluating, images=6000, efficiency=(52, 105, 210, 420)),
)
PRESETS = {"small": Preset(SMALL, SmallBirds()), "paper": Preset(PAPER, WaterbirdsFiles())}
