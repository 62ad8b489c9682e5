"""The iWildCam experiment: `python -m gap_jax.experiments.iwildcam`.

The closed loop on a classifier of animals before camera traps, for two cameras that it has never seen.
Animals stay, their surroundings are inpainted. What is done is kept: the same command goes on.
"""

import dataclasses
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, ClassVar, Literal

import numpy as np
import tyro

from gap_jax.closed_loop.settings import Finetuning, Generating, Optimizing
from gap_jax.closed_loop.world import Arrays, Network, Target, World
from gap_jax.data import wildlife
from gap_jax.data.iwildcam import CLASSES, TEST_LOCATIONS, time_of
from gap_jax.data.loader import Source
from gap_jax.data.prepared import Prepared
from gap_jax.experiments import wildlife_worlds as worlds
from gap_jax.experiments.classes_task import baselines, classes_task, classifier
from gap_jax.experiments.command import Command, run
from gap_jax.tasks.classify import class_weights, uniform
from gap_jax.weights.pipeline import load_clip, load_pipeline

TIMES = ("day", "night")
FIELDS = ("image", "keep", "label")
ALIA = (  # arXiv 2305.16289
    "a camera trap photo of a {part} in a grassy field with trees and bushes",
    "a camera trap photo of a {part} in a forest in the dark",
    "a camera trap photo of a {part} near a large body of water in the middle of a field",
    "a camera trap photo of a {part} walking on a dirt trail with twigs and branches",
)
SMALL = dataclasses.replace(
    worlds.SMALL, arms=tuple(arm for arm in worlds.ARMS if "text" not in arm)
)  # a camera in words is not known
PAPER = dataclasses.replace(
    SMALL,
    optimizing=Optimizing(
        prompts=2,
        placeholders=10,
        steps=1001,
        batch=32,
        at_once=1,
        learning_rate=1e-3,
        weight_decay=0.0,
        eta=1.0,
        strength=0.8,
        guidance_scale=5.0,
        guidance_weight=10.0,
        threshold=None,
        checkpoint_every=50,
    ),
    generating=Generating(images=2224, batch=8, denoising_steps=5),
    finetuning=Finetuning("sgd", 2000, 128, 1e-3, weight_decay=1e-4),
    evaluating=dataclasses.replace(SMALL.evaluating, images=8000, severities=(), efficiency=(10, 100, 1000)),
)


@dataclasses.dataclass(frozen=True)
class Animals:
    """The small world."""

    original: int = 504  # pictures that the classifier is fine-tuned on, and whose animals are painted around
    target_images: int = 8  # of each target domain

    def build(self, held_out: int) -> World:
        """The world, with so many pictures of each camera in each held-out set."""
        cameras = {split: len(kinds) for split, kinds in wildlife.IWILDCAM.items()}
        train, validation, test = (
            worlds.rendered(split, wildlife.IWILDCAM[split], range(count))
            for split, count in (
                ("train", self.original),
                *((split, cameras[split] * held_out) for split in ("validation", "test")),
            )
        )
        known = worlds.rendered("validation", wildlife.IWILDCAM["train"], range(held_out))
        start = worlds.FIRST_TARGET
        seen = worlds.rendered(
            "test", wildlife.IWILDCAM["test"], range(start, start + 8 * self.target_images)
        )
        return world(
            "iWildCam in the small world",
            (*load_pipeline("wildlife"), *load_clip("wildlife")),
            *(classifier("wildlife", 64, part=part) for part in ("iwildcam", "iwildcam_critic")),
            worlds.rows(train, FIELDS),
            worlds.rows(train, (*FIELDS, "group")),
            validation,
            known,
            test,
            dict(targets(seen, self.target_images)),
            tuple(f"a photo of a {{part}}, {place}" for place in ("grass", "forest", "lake", "dirt")),
            "a photo of a {part}",
            wildlife.MAMMALS,
        )


@dataclasses.dataclass(frozen=True)
class Files(worlds.Files):
    """iWildCam, Stable Diffusion and classifiers in files."""

    data: Path = Path("data/iwildcam")
    rows: tuple[float, float] = (10 / 448, 410 / 448)
    normalised: bool = False
    trained: Literal["everything", "last layer"] = "last layer"

    def build(self, held_out: int) -> World:
        """The world, with so many images in each held-out set."""
        fields = (*FIELDS, "location", "hour")
        validation, test = (
            worlds.some(self.data, split, held_out, fields) for split in ("validation", "test")
        )
        test = {("group" if name == "location" else name): array for name, array in test.items()}
        seen = dict(_of_targets(test, self.target_images))
        left = np.setdiff1d(np.arange(len(test["label"])), np.concatenate(list(seen.values())))
        return world(
            "iWildCam",
            self.generator(),
            self.network(self.model),
            self.network(self.critic or self.model),
            Prepared(self.data, "train", fields=FIELDS),
            Prepared(self.data, "train", fields=(*FIELDS, "location")),
            validation,
            validation,
            worlds.those(test, left),
            {name: Target(test["image"][numbers]) for name, numbers in seen.items()},
            ALIA,
            "a camera trap photo of a {part}",
            CLASSES,
            field="location",
        )._replace(student=self.network(self.student) if self.student else None)


def targets(batch: Arrays, count: int) -> Iterator[tuple[str, Target]]:
    """At most so many images of each camera by day and by night."""
    for name, numbers in _of_targets(batch, count):
        yield name, Target(batch["image"][numbers])


def _of_targets(batch: Arrays, count: int) -> Iterator[tuple[str, np.ndarray]]:
    times = np.array([time_of(int(hour)) or "" for hour in batch["hour"]])
    for camera in TEST_LOCATIONS:
        for time in TIMES:
            numbers = np.flatnonzero((batch["group"] == camera) & (times == time))[:count]
            if len(numbers):
                yield f"camera {camera}, {time}", numbers


def world(
    title: str,
    generator: tuple[Any, ...],
    model: Network,
    critic: Network,
    original: Source,
    grouped: Source,
    validation: Arrays,
    known: Arrays,
    test: Arrays,
    aims: Mapping[str, Target],
    written: tuple[str, ...],
    agnostic: str,
    classes: tuple[str, ...],
    field: str = "group",
) -> World:
    """iWildCam: prompts for all classes, towards two unseen cameras by day and night; tested on these."""
    label = np.array([int(original[i]["label"]) for i in range(len(original))])
    metrics = ("macro_f1", "macro_recall", "calibration")
    return World(
        title,
        "A classifier of animals before camera traps meets two cameras that it has never seen.",
        *generator,
        classes_task(classes, uniform, metrics, paste=True, weights=class_weights(label, len(classes))),
        model,
        critic,
        original,
        {"other cameras": {name: validation[name] for name in FIELDS}},
        known,
        {f"camera {number}": worlds.those(test, test["group"] == number) for number in TEST_LOCATIONS},
        aims,
        written,
        agnostic,
        parts=worlds.parts(original, classes, nothing=0),
        baselines=baselines(original, grouped, field),
        worst_of=tuple(f"camera {number}" for number in TEST_LOCATIONS),
    )


PRESETS = {"small": (SMALL, Animals()), "paper": (PAPER, Files())}


@dataclasses.dataclass(frozen=True)
class IWildCam(Command):
    """What to run, and where. Defaults are the preset's."""

    PRESETS: ClassVar = PRESETS

    preset: Literal[tuple(PRESETS)] = "small"  # what all other settings are by default
    work: Path = Path("runs/iwildcam")  # where everything goes
    world: tyro.conf.AvoidSubcommands[Animals | Files] = PRESETS["small"][1]


if __name__ == "__main__":
    run(IWildCam)
