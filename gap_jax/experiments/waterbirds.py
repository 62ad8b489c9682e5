"""The Waterbirds experiment: `python -m gap_jax.experiments.waterbirds`.

The closed loop on a classifier that takes backgrounds for birds: it has seen landbirds on land and waterbirds
on water alone. SmallBirds stay, their backgrounds are inpainted. What is done is kept: the same command goes on.
"""

import dataclasses
from pathlib import Path
from typing import ClassVar, Literal

import numpy as np
import tyro

from gap_jax.closed_loop.command import Command, run
from gap_jax.closed_loop.settings import Finetuning, Generating, Optimizing
from gap_jax.closed_loop.world import TargetDomain, World
from gap_jax.data.masked.waterbirds import CLASSES, GROUPS
from gap_jax.experiments import classification_worlds as worlds
from gap_jax.experiments.classification_task import baselines, classes_task
from gap_jax.small_worlds import wildlife
from gap_jax.tasks.classification import other_class

UNSEEN = {  # by group: in words, the small world's and those of Stable Diffusion
    1: ("a photo of a waterbird, grass, day", "a photo of a waterbird in a forest"),
    2: ("a photo of a landbird, lake, day", "a photo of a landbird in the water"),
}
PAPER = dataclasses.replace(
    worlds.SMALL,
    optimizing=Optimizing(
        prompts=4,
        placeholders=5,
        steps=1000,
        batch=10,
        at_once=1,
        learning_rate=0.04,
        decay="linear",
        weight_decay=0.0,
        eta=1.0,
        guidance_scale=7.0,
        guidance_weight=10.0,
        text_guidance_weight=10.0,
        adversarial_start=30,
        threshold=None,
        checkpoint_every=50,
    ),
    generating=Generating(images=1000, batch=8, denoising_steps=10),
    finetuning=Finetuning("sgd", 1000, 128, 1e-3, weight_decay=1e-4, share=0.5),
    evaluating=dataclasses.replace(worlds.SMALL.evaluating, images=2000, efficiency=(10, 100, 300)),
)


@dataclasses.dataclass(frozen=True)
class SmallBirds:
    """The small world."""

    original: int = 512  # pictures that the classifier is fine-tuned on, and whose birds are painted around
    target_images: int = 8  # of each target domain

    def build(self, held_out: int) -> World:
        """The world, with so many pictures of each group in each held-out set."""
        counts = {"train": self.original, "validation": 4 * held_out, "test": 4 * held_out}
        train, validation, test = (
            worlds.rendered(split, wildlife.WATERBIRDS[split], range(count))
            for split, count in counts.items()
        )
        numbers = worlds.FIRST_TARGET + np.arange(self.target_images)
        kinds = {group: (wildlife.WATERBIRDS["validation"][group],) for group in UNSEEN}
        images = {
            group: worlds.render_kinds("validation", kinds[group], numbers)["image"] for group in UNSEEN
        }
        return world(
            worlds.small(
                "Waterbirds in the small world",
                "waterbirds",
                train,
                validation,
                test,
                {group: TargetDomain(shown, UNSEEN[group][0]) for group, shown in images.items()},
                tuple(f"a photo of a {{part}}, {place}" for place in (*wildlife.LAND, *wildlife.WATER)),
                "a photo",
            ),
            paste=True,  # latents of 4x4 pixels lose its birds: the model card has the critic's numbers
        )


@dataclasses.dataclass(frozen=True)
class WaterbirdsFiles(worlds.ClassificationFiles):
    """Waterbirds, Stable Diffusion and classifiers in files."""

    data: Path = Path("data/waterbirds")

    def build(self, held_out: int) -> World:
        """The world, with so many images in each held-out set."""
        validation, test = (self.held_out(split, held_out, "group") for split in ("validation", "test"))
        targets = {
            group: TargetDomain(validation["image"][validation["group"] == group][: self.target_images], text)
            for group, (_, text) in UNSEEN.items()
        }
        written = "a photo of a {part} in a forest", "a photo of a {part} in the water"
        given = self.material("Waterbirds", "group", validation, test, targets, written, "nature")
        return world(given, paste=False)


def world(given: worlds.Material, paste: bool) -> World:
    """Waterbirds: prompts for each class, towards the group that it was not seen in; tested on all.

    `paste`: birds are those of the original to the pixel.
    """
    test, towards = given.test, given.targets
    label, kept = worlds.look(given.original)
    return given.world(
        "A classifier that saw landbirds on land and waterbirds on water meets both on the other.",
        classes_task(CLASSES, other_class(), ("macro_recall", "calibration"), paste=paste),
        {name: worlds.those(test, test["group"] == group) for group, name in enumerate(GROUPS)},
        targets={GROUPS[i]: target._replace(part=CLASSES[i % 2]) for i, target in towards.items()},
        parts=worlds.parts(label, kept, CLASSES),
        apart=True,
        baselines=baselines(given.original, given.grouped, "group", kept),
    )


PRESETS = {"small": (worlds.SMALL, SmallBirds()), "paper": (PAPER, WaterbirdsFiles())}


@dataclasses.dataclass(frozen=True)
class Waterbirds(Command):
    """What to run, and where. Defaults are the preset's."""

    PRESETS: ClassVar = PRESETS

    preset: Literal[tuple(PRESETS)] = "small"  # what all other settings are by default
    work: Path = Path("runs/waterbirds")  # where everything goes
    world: tyro.conf.AvoidSubcommands[SmallBirds | WaterbirdsFiles] = PRESETS["small"][1]


if __name__ == "__main__":
    run(Waterbirds)
