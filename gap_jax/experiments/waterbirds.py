"""The Waterbirds experiment: `python -m gap_jax.experiments.waterbirds`.

The closed loop on a classifier that takes backgrounds for birds: it has seen landbirds on land and waterbirds
on water alone. Birds stay, their backgrounds are inpainted. What is done is kept: the same command goes on.
"""

import dataclasses
from collections.abc import Mapping
from pathlib import Path
from typing import Any, ClassVar, Literal

import tyro

from gap_jax.closed_loop.settings import Finetuning, Generating, Optimizing
from gap_jax.closed_loop.world import Arrays, Network, Target, World
from gap_jax.data import wildlife
from gap_jax.data.loader import Source
from gap_jax.data.prepared import Prepared
from gap_jax.data.waterbirds import CLASSES, GROUPS
from gap_jax.experiments import wildlife_worlds as worlds
from gap_jax.experiments.classes_task import baselines, classes_task, classifier
from gap_jax.experiments.command import Command, run
from gap_jax.tasks.classify import other_class
from gap_jax.weights.pipeline import load_clip, load_pipeline

UNSEEN = {  # by group: in words, the small world's and those of Stable Diffusion
    1: ("a photo of a waterbird, grass, day", "a photo of a waterbird in a forest"),
    2: ("a photo of a landbird, lake, day", "a photo of a landbird in the water"),
}
FIELDS = ("image", "keep", "label")
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
    finetuning=Finetuning("sgd", 1000, 128, 1e-3, weight_decay=1e-4),
    evaluating=dataclasses.replace(worlds.SMALL.evaluating, images=2000, efficiency=(10, 100, 300)),
)


@dataclasses.dataclass(frozen=True)
class Birds:
    """The small world."""

    original: int = 512  # pictures that the classifier is fine-tuned on, and whose birds are painted around
    target_images: int = 8  # of each target domain

    def build(self, held_out: int) -> World:
        """The world, with so many pictures of each group in each held-out set."""
        train, validation, test = (
            worlds.rendered(split, wildlife.WATERBIRDS[split], range(count))
            for split, count in (
                ("train", self.original),
                *((s, 4 * held_out) for s in ("validation", "test")),
            )
        )
        numbers = range(worlds.FIRST_TARGET, worlds.FIRST_TARGET + self.target_images)
        images = {
            group: worlds.rendered("validation", (wildlife.WATERBIRDS["validation"][group],), numbers)[
                "image"
            ]
            for group in UNSEEN
        }
        return world(
            "Waterbirds in the small world",
            (*load_pipeline("wildlife"), *load_clip("wildlife")),
            *(classifier("wildlife", 64, part=part) for part in ("waterbirds", "waterbirds_critic")),
            worlds.rows(train, FIELDS),
            worlds.rows(train, (*FIELDS, "group")),
            validation,
            test,
            {group: Target(shown, UNSEEN[group][0]) for group, shown in images.items()},
            tuple(f"a photo of a {{part}}, {place}" for place in (*wildlife.LAND, *wildlife.WATER)),
            "a photo",
        )


@dataclasses.dataclass(frozen=True)
class Files(worlds.Files):
    """Waterbirds, Stable Diffusion and classifiers in files."""

    data: Path = Path("data/waterbirds")

    def build(self, held_out: int) -> World:
        """The world, with so many images in each held-out set."""
        fields = (*FIELDS, "group")
        validation, test = (
            worlds.some(self.data, split, held_out, fields) for split in ("validation", "test")
        )
        targets = {
            group: Target(validation["image"][validation["group"] == group][: self.target_images], text)
            for group, (_, text) in UNSEEN.items()
        }
        return world(
            "Waterbirds",
            self.generator(),
            self.network(self.model),
            self.network(self.critic or self.model),
            Prepared(self.data, "train", fields=FIELDS),
            Prepared(self.data, "train", fields=fields),
            validation,
            test,
            targets,
            ("a photo of a {part} in a forest", "a photo of a {part} in the water"),
            "nature",
        )._replace(student=self.network(self.student) if self.student else None)


def world(
    title: str,
    generator: tuple[Any, ...],
    model: Network,
    critic: Network,
    original: Source,
    grouped: Source,
    validation: Arrays,
    test: Arrays,
    targets: Mapping[int, Target],
    written: tuple[str, ...],
    agnostic: str,
) -> World:
    """Waterbirds: prompts for each class, towards the group that it was not seen in; tested on all."""
    return World(
        title,
        "A classifier that saw landbirds on land and waterbirds on water meets both on the other.",
        *generator,
        classes_task(CLASSES, other_class(), ("macro_recall", "calibration"), paste=False),
        model,
        critic,
        original,
        {"clean": {name: validation[name] for name in FIELDS}},
        test,
        {name: worlds.those(test, test["group"] == group) for group, name in enumerate(GROUPS)},
        {GROUPS[group]: target._replace(part=CLASSES[group % 2]) for group, target in targets.items()},
        written,
        agnostic,
        parts=worlds.parts(original, CLASSES),
        apart=True,
        baselines=baselines(original, grouped, "group"),
        worst_of=GROUPS,
    )


PRESETS = {"small": (worlds.SMALL, Birds()), "paper": (PAPER, Files())}


@dataclasses.dataclass(frozen=True)
class Waterbirds(Command):
    """What to run, and where. Defaults are the preset's."""

    PRESETS: ClassVar = PRESETS

    preset: Literal[tuple(PRESETS)] = "small"  # what all other settings are by default
    work: Path = Path("runs/waterbirds")  # where everything goes
    world: tyro.conf.AvoidSubcommands[Birds | Files] = PRESETS["small"][1]


if __name__ == "__main__":
    run(Waterbirds)
