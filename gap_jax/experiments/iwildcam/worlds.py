"""The worlds of the iWildCam experiment: animals in front of two cameras that the classifier never saw."""

import math
from collections.abc import Mapping

import jax
import numpy as np

from gap_jax.closed_loop.world import DataSets, FixedPrompts, TargetDomain, World, select
from gap_jax.data.batch import HostBatch
from gap_jax.data.masked.iwildcam import CLASSES, TEST_LOCATIONS, time_of_day
from gap_jax.data.prepared import Prepared
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
OTHER_HOURS = "at other hours"
ADVERSARIAL: dict[AdversarialLoss, ImageLoss] = {
    "uniform": uniform_cross_entropy,
    "background": background_cross_entropy,
    "cross-entropy": negative_cross_entropy,
}
UNSEEN_CAMERAS = {
    "validation": (34, 35),
    "test": TEST_LOCATIONS,
}  # of the small world: in a forest, at a lake
ALIA_PROMPTS = (  # as in the code of the paper's authors, from ALIA (arXiv 2305.16289)
    "a photo of {subset} in a grassy field with trees and bushes",
    "a photo of {subset} in a forest in the dark",
    "a photo of {subset} near a large body of water in the middle of a field",
    "a photo of {subset} walking on a dirt trail with twigs and branches",
)


def build_small(config: SmallAnimals, held_out: int) -> World:
    """Return the world of procedural animals, with `held_out` pictures per camera in each held-out set."""
    models = worlds.small_models("iwildcam", config.models, wildlife.MAMMALS)
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
        models,
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
    rows = target_rows(_by_camera_and_time(shown["group"], shown["hour"]), config.target_images)
    return _world(
        parts,
        {name: TargetDomain(images=shown["image"][chosen]) for name, chosen in rows.items()},
        known=known,
        camera_field="group",
        classes=wildlife.MAMMALS,
        adversarial=ADVERSARIAL[config.adversarial],
    )


def build_from_files(config: IWildCamFiles, held_out: int) -> World:
    """Return the world of the real data set, with about `held_out` images in each held-out set.

    Prints how many images of each unseen camera are tested by day, by night and at other hours.
    """
    validation = worlds.held_out_set(config, "validation", held_out, "location", "hour")
    source = Prepared(config.data, "test", fields=(*worlds.FIELDS, "location"))
    times = _by_camera_and_time(source.column("location"), source.column("hour"))
    shown = target_rows(times, config.target_images, config.tested_share)
    tested = rows_to_test(times, shown, held_out)
    if jax.process_index() == 0:
        print("tested: " + ", ".join(f"{len(rows)} of {name}" for name, rows in tested.items()), flush=True)
    test = select(source, np.concatenate(list(tested.values())))
    test["group"] = test.pop("location")
    hours = Prepared(config.data, "train", fields=("hour",)).column("hour")
    at = {time: np.flatnonzero([time_of_day(hour) == time for hour in hours.tolist()]) for time in TIMES}
    parts = worlds.parts_from_files(
        config,
        worlds.load_networks(config, CLASSES),
        title="iWildCam",
        field="location",
        validation=validation,
        test=test,
        prompts=FixedPrompts(agnostic="a camera trap photo of a {subset}", written=ALIA_PROMPTS),
    )
    return _world(
        parts,
        {
            name: TargetDomain(
                images=select(source, rows)["image"],
                sources=at[name.rpartition(", ")[2]] if config.time == "target" else None,
            )
            for name, rows in shown.items()
        },
        known=validation,
        camera_field="location",
        classes=CLASSES,
        adversarial=ADVERSARIAL[config.adversarial],
        keep=config.keep_classes,
        sources=at.get(config.time),
    )


def _by_camera_and_time(cameras: np.ndarray, hours: np.ndarray) -> dict[str, np.ndarray]:
    """Return row numbers by camera and time of day, such as `camera 287, night`; none is empty."""
    times = np.array([time_of_day(hour) or OTHER_HOURS for hour in hours.tolist()])
    rows = {
        f"camera {camera}, {time}": np.flatnonzero((cameras == camera) & (times == time))
        for camera in np.unique(cameras)
        for time in (*TIMES, OTHER_HOURS)
    }
    return {name: chosen for name, chosen in rows.items() if len(chosen)}


def target_rows(
    times: Mapping[str, np.ndarray], count: int, tested_share: float = 0.0
) -> dict[str, np.ndarray]:
    """Return evenly spread rows that show each camera by day and by night.

    They are at most `count` of each, and leave at least the share `tested_share` for the test.
    """
    shown = {
        name: _evenly(rows, min(count, int(len(rows) * (1 - tested_share))))
        for name, rows in times.items()
        if not name.endswith(OTHER_HOURS)
    }
    return {name: rows for name, rows in shown.items() if len(rows)}


def rows_to_test(
    times: Mapping[str, np.ndarray], shown: Mapping[str, np.ndarray], count: int
) -> dict[str, np.ndarray]:
    """Return about `count` rows, evenly spread over those that are not `shown` as targets.

    Every camera and time has its share of them, and one row at least.
    """
    left = {name: np.setdiff1d(rows, shown.get(name, ())) for name, rows in times.items()}
    share = min(count / sum(map(len, left.values())), 1)
    return {name: _evenly(rows, math.ceil(round(share * len(rows), 6))) for name, rows in left.items()}


def _evenly(rows: np.ndarray, count: int) -> np.ndarray:
    """Return `count` rows at even distances, from the first to the last."""
    return rows[np.linspace(0, len(rows) - 1, count).round().astype(int)]


def _world(
    parts: worlds.Parts,
    targets: Mapping[str, TargetDomain],
    *,
    known: HostBatch,
    camera_field: str,
    classes: tuple[str, ...],
    adversarial: ImageLoss,
    keep: tuple[str, ...] = (),
    sources: np.ndarray | None = None,
) -> World:
    """Return iWildCam as a world: prompts for all classes, and both unseen cameras as test sets.

    - `known`: the clean test set, of cameras that may have been seen.
    - `camera_field`: the field of `parts.grouped` that holds the camera's number; in `parts.test` it is
      `group`.
    - `keep`: the classes to make images of; none given: all.
    - `sources`: the numbers of the training images to make images of; None: all.
    """
    labels, kept = worlds.labels_and_foregrounds(parts.original)
    cameras = parts.test["group"]
    domains = {
        f"camera {camera}": worlds.keep_rows(parts.test, cameras == camera) for camera in np.unique(cameras)
    }
    subsets = worlds.class_subsets(labels, kept, classes, background=0, keep=keep)
    if sources is not None:
        subsets = {name: rows[np.isin(rows, sources)] for name, rows in subsets.items()}
    return World(
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
            summarised=tuple(domains),
            subsets={name: rows for name, rows in subsets.items() if len(rows)},
        ),
        targets=targets,
        prompts=parts.prompts,
        baselines=baselines(parts.original, parts.grouped, camera_field, kept),
    )
