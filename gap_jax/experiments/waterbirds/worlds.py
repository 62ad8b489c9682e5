"""The worlds of the Waterbirds experiment: birds on backgrounds that their class was not seen on."""

from collections.abc import Mapping

import numpy as np

from gap_jax.closed_loop.world import DataSets, FixedPrompts, TargetDomain, World
from gap_jax.data.masked.waterbirds import CLASSES, GROUPS
from gap_jax.experiments.classification import worlds
from gap_jax.experiments.classification.task import baselines, classification_task
from gap_jax.experiments.waterbirds.settings import SmallBirds, WaterbirdsFiles
from gap_jax.small_worlds import wildlife
from gap_jax.tasks.classification import other_class_cross_entropy

SMALL_TEXTS = {
    1: "a photo of a waterbird, grass, day",
    2: "a photo of a landbird, lake, day",
}  # by unseen group
TEXTS = {1: "a photo of a waterbird in a forest", 2: "a photo of a landbird in the water"}


def build_small(config: SmallBirds, held_out: int) -> World:
    """Return the world of procedural birds, with `held_out` pictures of each group in each held-out set."""
    counts = {"train": config.original, "validation": 4 * held_out, "test": 4 * held_out}
    train, validation, test = (
        wildlife.render_kinds(split, wildlife.WATERBIRDS[split], range(count))
        for split, count in counts.items()
    )
    numbers = worlds.FIRST_TARGET + np.arange(config.target_images)
    kinds = {group: (wildlife.WATERBIRDS["validation"][group],) for group in SMALL_TEXTS}
    shown = {group: wildlife.render_kinds("validation", kinds[group], numbers) for group in SMALL_TEXTS}
    parts = worlds.small_parts(
        "waterbirds",
        config.models,
        title="Waterbirds in the small world",
        train=train,
        validation=validation,
        test=test,
        prompts=FixedPrompts(
            agnostic="a photo",
            written=tuple(f"a photo of a {{subset}}, {place}" for place in (*wildlife.LAND, *wildlife.WATER)),
        ),
    )
    targets = {group: _target(group, batch["image"], SMALL_TEXTS) for group, batch in shown.items()}
    return _world(parts, targets, paste=True)  # latents of 4x4 pixels lose its birds: see the model card


def build_from_files(config: WaterbirdsFiles, held_out: int) -> World:
    """Return the world of the real data set, with at most `held_out` images in each held-out set."""
    validation, test = (
        worlds.held_out_set(config, split, held_out, "group") for split in ("validation", "test")
    )
    shown = {
        group: validation["image"][validation["group"] == group][: config.target_images] for group in TEXTS
    }
    parts = worlds.parts_from_files(
        config,
        title="Waterbirds",
        field="group",
        validation=validation,
        test=test,
        prompts=FixedPrompts(
            agnostic="nature",
            written=("a photo of a {subset} in a forest", "a photo of a {subset} in the water"),
        ),
    )
    targets = {group: _target(group, images, TEXTS) for group, images in shown.items()}
    return _world(parts, targets, paste=False)


def _target(group: int, images: np.ndarray, texts: Mapping[int, str]) -> TargetDomain:
    """Return an unseen group as the target of its class."""
    return TargetDomain(images=images, text=texts[group], subset=CLASSES[group % 2])


def _world(parts: worlds.Parts, targets: Mapping[int, TargetDomain], *, paste: bool) -> World:
    """Return Waterbirds as a world: prompts for each class, and all four groups as test sets.

    - `targets`: by group.
    - `paste`: True to put the original's birds back, pixel by pixel.
    """
    labels, kept = worlds.labels_and_foregrounds(parts.original)
    test = parts.test
    domains = {name: worlds.keep_rows(test, test["group"] == group) for group, name in enumerate(GROUPS)}
    return worlds.with_checked_classes(
        World(
            title=parts.title,
            summary="A classifier that saw landbirds on land and waterbirds on water meets them elsewhere.",
            generator=parts.generator,
            models=parts.models,
            task=classification_task(
                CLASSES, other_class_cross_entropy(), ("macro_recall", "calibration"), paste=paste
            ),
            data=DataSets(
                original=parts.original,
                validation={"clean": {name: parts.validation[name] for name in worlds.FIELDS}},
                test=test,
                domains=domains,
                worst_of=tuple(domains),
                subsets=worlds.class_subsets(labels, kept, CLASSES),
                prompts_per_subset=True,
            ),
            targets={GROUPS[group]: target for group, target in targets.items()},
            prompts=parts.prompts,
            baselines=baselines(parts.original, parts.grouped, "group", kept),
        )
    )
