"""The worlds of the iWildCam experiment: animals in front of two cameras that the classifier never saw."""

from collections.abc import Mapping

import numpy as np

from gap_jax.closed_loop.world import DataSets, FixedPrompts, TargetDomain, World
from gap_jax.data.batch import HostBatch
from gap_jax.data.masked.iwildcam import CLASSES, TEST_LOCATIONS, time_of_day
from gap_jax.experiments.classification import worlds
from gap_jax.experiments.classification.task import baselines, classification_task
from gap_jax.experiments.iwildcam.settings import AdversarialLoss, IWildCamFiles, SmallAnimals
from gap_jax.small_worlds import wildlife
from gap_jax.tasks.classification import (
    background_cross_entropy,
    class_weights,
    negative_cross_entropy,
    uniform_cross_entropy,
)
from gap_jax.tasks.metric import ImageLoss

TIMES = ("day", "night")
ADVERSARIAL: dict[AdversarialLoss, ImageLoss] = {
    "uniform": uniform_cross_entropy,
    "background": background_cross_entropy,
    "cross-entropy": negative_cross_entropy,
}
UNSEEN_CAMERAS = {
    "validation": (34, 35),
    "test": TEST_LOCATIONS,
}  # of the small world: in a forest, at a lake
ALIA_PROMPTS = (  # arXiv 2305.16289
    "a camera trap photo of a {subset} in a grassy field with trees and bushes",
    "a camera trap photo of a {subset} in a forest in the dark",
    "a camera trap photo of a {subset} near a large body of water in the middle of a field",
    "a camera trap photo of a {subset} walking on a dirt trail with twigs and branches",
)


def build_small(config: SmallAnimals, held_out: int) -> World:
    """Return the world of procedural animals, with `held_out` pictures per camera in each held-out set."""
    kinds, cameras = wildlife.IWILDCAM, UNSEEN_CAMERAS[config.unseen]
    unseen = [kind for kind in kinds[config.unseen] if kind.camera in cameras]
    others = [kind for kind in kinds["validation"] if kind.camera not in UNSEEN_CAMERAS["validation"]]
    train = wildlife.render_kinds("train", kinds["train"], range(config.original))
    validation = wildlife.render_kinds("validation", others, range(len(others) * held_out))
    test = wildlife.render_kinds(config.unseen, unseen, range(len(unseen) * held_out))
    known = wildlife.render_kinds("validation", kinds["train"], range(held_out))
    numbers = worlds.FIRST_TARGET + np.arange(8 * config.target_images)
    shown = wildlife.render_kinds(config.unseen, unseen, numbers)
    parts = worlds.small_parts(
        "iwildcam",
        config.models,
        title="iWildCam in the small world",
        train=train,
        validation=validation,
        test=test,
        prompts=FixedPrompts(
            agnostic="a photo of a {subset}",
            written=tuple(
                f"a photo of a {{subset}}, {place}" for place in ("grass", "forest", "lake", "dirt")
            ),
        ),
    )
    return _world(
        parts,
        _targets(shown, _target_rows(shown, config.target_images)),
        known=known,
        camera_field="group",
        classes=wildlife.MAMMALS,
        adversarial=ADVERSARIAL[config.adversarial],
    )


def build_from_files(config: IWildCamFiles, held_out: int) -> World:
    """Return the world of the real data set, with at most `held_out` images in each held-out set."""
    validation, test = (
        worlds.held_out_set(config, split, held_out, "location", "hour") for split in ("validation", "test")
    )
    test["group"] = test.pop("location")
    rows = _target_rows(test, config.target_images)
    tested = np.setdiff1d(np.arange(len(test["label"])), np.concatenate(list(rows.values())))
    parts = worlds.parts_from_files(
        config,
        title="iWildCam",
        field="location",
        validation=validation,
        test=worlds.keep_rows(test, tested),
        prompts=FixedPrompts(agnostic="a camera trap photo of a {subset}", written=ALIA_PROMPTS),
    )
    return _world(
        parts,
        _targets(test, rows),
        known=validation,
        camera_field="location",
        classes=CLASSES,
        adversarial=ADVERSARIAL[config.adversarial],
    )


def _target_rows(batch: HostBatch, count: int) -> dict[str, np.ndarray]:
    """Return at most `count` rows for each camera by day and by night, by the target's name."""
    times = np.array([time_of_day(int(hour)) or "" for hour in batch["hour"]])
    rows = {
        f"camera {camera}, {time}": np.flatnonzero((batch["group"] == camera) & (times == time))[:count]
        for camera in np.unique(batch["group"])
        for time in TIMES
    }
    return {name: chosen for name, chosen in rows.items() if len(chosen)}


def _targets(batch: HostBatch, rows: Mapping[str, np.ndarray]) -> dict[str, TargetDomain]:
    return {name: TargetDomain(images=batch["image"][chosen]) for name, chosen in rows.items()}


def _world(
    parts: worlds.Parts,
    targets: Mapping[str, TargetDomain],
    *,
    known: HostBatch,
    camera_field: str,
    classes: tuple[str, ...],
    adversarial: ImageLoss,
) -> World:
    """Return iWildCam as a world: prompts for all classes, and both unseen cameras as test sets.

    - `known`: the clean test set, of cameras that may have been seen.
    - `camera_field`: the field of `parts.grouped` that holds the camera's number; in `parts.test` it is
      `group`.
    """
    labels, kept = worlds.labels_and_foregrounds(parts.original)
    cameras = parts.test["group"]
    domains = {
        f"camera {camera}": worlds.keep_rows(parts.test, cameras == camera) for camera in np.unique(cameras)
    }
    return worlds.with_checked_classes(
        World(
            title=parts.title,
            summary="A classifier of animals before camera traps meets two cameras that it has never seen.",
            generator=parts.generator,
            models=parts.models,
            task=classification_task(
                classes,
                adversarial,
                ("macro_f1", "macro_recall", "calibration"),
                paste=True,
                weights=class_weights(labels, len(classes)),
            ),
            data=DataSets(
                original=parts.original,
                validation={"other cameras": {name: parts.validation[name] for name in worlds.FIELDS}},
                test=known,
                domains=domains,
                worst_of=tuple(domains),
                subsets=worlds.class_subsets(labels, kept, classes, background=0),
            ),
            targets=targets,
            prompts=parts.prompts,
            baselines=baselines(parts.original, parts.grouped, camera_field, kept),
        )
    )
