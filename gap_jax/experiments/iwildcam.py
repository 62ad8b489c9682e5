"""The iWildCam experiment: `python -m gap_jax.experiments.iwildcam`.

The closed loop on a classifier of animals before camera traps, for two cameras that it has never seen.
SmallAnimals stay, their surroundings are inpainted. What is done is kept: the same command goes on.
"""

import dataclasses
from collections.abc import Mapping
from pathlib import Path
from typing import ClassVar, Literal

import numpy as np
import tyro

from gap_jax.closed_loop.command import Command, run
from gap_jax.closed_loop.settings import Finetuning, Generating, Optimizing
from gap_jax.closed_loop.world import Arrays, Losses, TargetDomain, World
from gap_jax.data.masked.iwildcam import CLASSES, TEST_LOCATIONS, time_of
from gap_jax.experiments import classification_worlds as worlds
from gap_jax.experiments.classification_task import baselines, classes_task
from gap_jax.small_worlds import wildlife
from gap_jax.tasks.classification import background, class_weights, negative_cross_entropy, uniform

TIMES = ("day", "night")
ADVERSARIAL = {"uniform": uniform, "background": background, "cross-entropy": negative_cross_entropy}
UNSEEN = {"validation": (34, 35), "test": TEST_LOCATIONS}  # the small world's cameras in a forest, at a lake
ALIA = (  # arXiv 2305.16289
    "a camera trap photo of a {part} in a grassy field with trees and bushes",
    "a camera trap photo of a {part} in a forest in the dark",
    "a camera trap photo of a {part} near a large body of water in the middle of a field",
    "a camera trap photo of a {part} walking on a dirt trail with twigs and branches",
)
SMALL = dataclasses.replace(
    worlds.SMALL,
    arms=tuple(arm for arm in worlds.ARMS if "text" not in arm),  # a camera in words is not known
    optimizing=dataclasses.replace(
        worlds.SMALL.optimizing,
        prompts=2,
        steps=20,
        learning_rate=3.6e-2,
        decay="linear",
        guidance_weight=100.0,  # its classifier is so sure of itself that the adversarial loss is 10
    ),
)
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
    finetuning=Finetuning("sgd", 2000, 128, 1e-3, weight_decay=1e-4, share=0.5),
    evaluating=dataclasses.replace(SMALL.evaluating, images=8000, efficiency=(10, 100, 1000)),
)


@dataclasses.dataclass(frozen=True)
class SmallAnimals:
    """The small world."""

    original: int = 504  # pictures that the classifier is fine-tuned on, and whose animals are painted around
    target_images: int = 8  # of each target domain
    unseen: Literal[tuple(UNSEEN)] = "test"  # whose cameras are unseen: validation's, to choose settings by
    adversarial: Literal[tuple(ADVERSARIAL)] = "background"  # the loss that prompts minimise

    def build(self, held_out: int) -> World:
        """The world, with so many pictures of each camera in each held-out set."""
        kinds = wildlife.IWILDCAM
        unseen = [kind for kind in kinds[self.unseen] if kind.camera in UNSEEN[self.unseen]]
        others = [kind for kind in kinds["validation"] if kind.camera not in UNSEEN["validation"]]
        train = worlds.render_kinds("train", kinds["train"], range(self.original))
        validation = worlds.render_kinds("validation", others, range(len(others) * held_out))
        test = worlds.rendered(self.unseen, unseen, range(len(unseen) * held_out))
        known = worlds.render_kinds("validation", kinds["train"], range(held_out))
        numbers = worlds.FIRST_TARGET + np.arange(8 * self.target_images)
        seen = worlds.rendered(self.unseen, unseen, numbers)
        given = worlds.small(
            "iWildCam in the small world",
            "iwildcam",
            train,
            validation,
            test,
            targets(seen, of_targets(seen, self.target_images)),
            tuple(f"a photo of a {{part}}, {place}" for place in ("grass", "forest", "lake", "dirt")),
            "a photo of a {part}",
        )
        return world(given, known, wildlife.MAMMALS, "group", ADVERSARIAL[self.adversarial])


@dataclasses.dataclass(frozen=True)
class IWildCamFiles(worlds.ClassificationFiles):
    """iWildCam, Stable Diffusion and classifiers in files."""

    data: Path = Path("data/iwildcam")
    rows: tuple[float, float] = (10 / 448, 410 / 448)
    normalised: bool = False
    trained: Literal["everything", "last layer"] = "last layer"
    adversarial: Literal[tuple(ADVERSARIAL)] = "uniform"  # the loss that prompts minimise

    def build(self, held_out: int) -> World:
        """The world, with so many images in each held-out set."""
        validation, test = (
            self.held_out(split, held_out, "location", "hour") for split in ("validation", "test")
        )
        test["group"] = test.pop("location")
        aims = of_targets(test, self.target_images)
        left = np.setdiff1d(np.arange(len(test["label"])), np.concatenate(list(aims.values())))
        tested, agnostic = worlds.those(test, left), "a camera trap photo of a {part}"
        seen = targets(test, aims)
        given = self.material("iWildCam", "location", validation, tested, seen, ALIA, agnostic)
        return world(given, validation, CLASSES, "location", ADVERSARIAL[self.adversarial])


def targets(batch: Arrays, aims: Mapping[str, np.ndarray]) -> dict[str, TargetDomain]:
    """The images of each target's rows."""
    return {name: TargetDomain(batch["image"][rows]) for name, rows in aims.items()}


def of_targets(batch: Arrays, count: int) -> dict[str, np.ndarray]:
    """At most so many rows of each camera by day and by night, where there are any."""
    times = np.array([time_of(int(hour)) or "" for hour in batch["hour"]])
    found = {
        f"camera {camera}, {time}": np.flatnonzero((batch["group"] == camera) & (times == time))[:count]
        for camera in np.unique(batch["group"])
        for time in TIMES
    }
    return {name: rows for name, rows in found.items() if len(rows)}


def world(
    given: worlds.Material, known: Arrays, classes: tuple[str, ...], field: str, adversarial: Losses
) -> World:
    """iWildCam: prompts for all classes, towards two unseen cameras by day and night; tested on these.

    `known`: a test set of other cameras. `field` tells cameras apart in `given.grouped`.
    """
    label, kept = worlds.look(given.original)
    metrics = ("macro_f1", "macro_recall", "calibration")
    test, cameras = given.test, np.unique(given.test["group"])
    return given.world(
        "A classifier of animals before camera traps meets two cameras that it has never seen.",
        classes_task(classes, adversarial, metrics, paste=True, weights=class_weights(label, len(classes))),
        {f"camera {number}": worlds.those(test, test["group"] == number) for number in cameras},
        validation={"other cameras": {name: given.validation[name] for name in worlds.FIELDS}},
        test=known,
        parts=worlds.parts(label, kept, classes, nothing=0),
        baselines=baselines(given.original, given.grouped, field, kept),
    )


PRESETS = {"small": (SMALL, SmallAnimals()), "paper": (PAPER, IWildCamFiles())}


@dataclasses.dataclass(frozen=True)
class IWildCam(Command):
    """What to run, and where. Defaults are the preset's."""

    PRESETS: ClassVar = PRESETS

    preset: Literal[tuple(PRESETS)] = "small"  # what all other settings are by default
    work: Path = Path("runs/iwildcam")  # where everything goes
    world: tyro.conf.AvoidSubcommands[SmallAnimals | IWildCamFiles] = PRESETS["small"][1]


if __name__ == "__main__":
    run(IWildCam)
