"""The worlds of the Waterbirds experiment: birds on backgrounds that their class was not seen on."""

from collections.abc import Mapping

import numpy as np

from gap_jax.closed_loop.world import DataSets, FixedPrompts, TargetDomain, World
from gap_jax.data.masked.waterbirds import BIASED_GROUPS, CLASSES, GROUPS
from gap_jax.experiments.classification import worlds
from gap_jax.experiments.classification.task import baselines, classification_task
from gap_jax.experiments.waterbirds.settings import SmallBirds, WaterbirdsFiles
from gap_jax.small_worlds import wildlife
from gap_jax.tasks.classification import class_weights, other_class_cross_entropy

SHARED = "all groups"  # the target domain of guidance that both classes share
SMALL_TEXTS = {
    1: "a photo of a waterbird, grass, day",
    2: "a photo of a landbird, lake, day",
}  # by missing group
SMALL_SHARED_TEXTS = tuple(f"a photo, {place}, day" for place in (*wildlife.LAND, *wildlife.WATER))
TEXTS = {1: "a photo of a waterbird in a forest", 2: "a photo of a landbird in the water"}
ALIA_TEXTS = (  # as the paper uses them, in its appendix 7.2: without "a photo of a bird"
    "in a bamboo forest with a green background.",
    "flying over the water with a city skyline in the background.",
    "perched on a car window.",
    "standing in the snow in a forest.",
    "standing on a tree stump in the woods.",
    "swimming in a lake with mountains in the background.",
    "standing on the beach looking up.",
)


def build_small(config: SmallBirds, held_out: int) -> World:
    """Return the world of procedural birds, with `held_out` pictures of each group in each held-out set."""
    models = worlds.small_models("waterbirds", config.models, CLASSES)
    counts = {"train": config.original, "validation": 4 * held_out, "test": 4 * held_out}
    train, validation, test = (
        wildlife.render_kinds(split, wildlife.WATERBIRDS[split], range(count))
        for split, count in counts.items()
    )
    numbers = worlds.FIRST_TARGET + np.arange(config.target_images)
    kinds = wildlife.WATERBIRDS["validation"]
    if config.guidance == "shared":
        images = wildlife.render_kinds("validation", kinds, numbers)["image"]
        targets = {SHARED: TargetDomain(images=images, text=SMALL_SHARED_TEXTS)}
    else:
        targets = {
            GROUPS[group]: _missing(
                group, wildlife.render_kinds("validation", (kinds[group],), numbers)["image"], text
            )
            for group, text in SMALL_TEXTS.items()
        }
    parts = worlds.small_parts(
        models,
        title="Waterbirds in the small world",
        train=train,
        validation=validation,
        test=test,
        prompts=FixedPrompts(
            agnostic="a photo",
            written=tuple(f"a photo of a {{subset}}, {place}" for place in (*wildlife.LAND, *wildlife.WATER)),
        ),
    )
    return _world(parts, targets, paste=True)  # latents of 4x4 pixels lose its birds: see the model card


def build_from_files(config: WaterbirdsFiles, held_out: int) -> World:
    """Return the world of the real data set, with at most `held_out` images in each held-out set."""
    validation, test = (
        worlds.held_out_set(config, split, held_out, "group") for split in ("validation", "test")
    )
    rows = [np.flatnonzero(validation["group"] == group) for group in range(len(GROUPS))]
    if config.guidance == "shared":
        each = -(-config.target_images // len(GROUPS))
        of_all = np.stack([np.resize(group, each) for group in rows if len(group)], 1).ravel()
        images = validation["image"][of_all[: config.target_images]]
        targets = {SHARED: TargetDomain(images=images, text=ALIA_TEXTS)}
    else:
        targets = {
            GROUPS[group]: _missing(group, validation["image"][rows[group][: config.target_images]], text)
            for group, text in TEXTS.items()
        }
    if config.validation == "biased":
        validation = worlds.keep_rows(validation, np.isin(validation["group"], BIASED_GROUPS))
    parts = worlds.parts_from_files(
        config,
        worlds.load_networks(config, CLASSES),
        title="Waterbirds",
        field="group",
        validation=validation,
        test=test,
        prompts=FixedPrompts(agnostic="nature", written=ALIA_TEXTS),
    )
    return _world(parts, targets, paste=False, keep=config.keep_classes)


def _missing(group: int, images: np.ndarray, text: str) -> TargetDomain:
    """Return a group that is not trained on as the target of its class."""
    return TargetDomain(images=images, text=text, subset=CLASSES[group % 2])


def _world(
    parts: worlds.Parts, targets: Mapping[str, TargetDomain], *, paste: bool, keep: tuple[str, ...] = ()
) -> World:
    """Return Waterbirds as a world: prompts for each class, and all four groups as test sets.

    - `paste`: True to put the original's birds back, pixel by pixel, while prompts are optimised, too.
    - `keep`: the classes to make images of; none given: both.
    """
    labels, kept = worlds.labels_and_foregrounds(parts.original)
    test = parts.test
    domains = {name: worlds.keep_rows(test, test["group"] == group) for group, name in enumerate(GROUPS)}
    return World(
        title=parts.title,
        summary="A classifier that saw landbirds on land and waterbirds on water meets them elsewhere.",
        generator=parts.generator,
        models=parts.models,
        task=classification_task(
            CLASSES,
            other_class_cross_entropy(),
            ("macro_recall", "calibration"),
            paste=paste,
            weights=class_weights(labels, len(CLASSES)),
        ),
        data=DataSets(
            original=parts.original,
            validation={"clean": {name: parts.validation[name] for name in worlds.FIELDS}},
            test=test,
            domains=domains,
            summarised=tuple(domains),
            subsets=worlds.class_subsets(labels, kept, CLASSES, keep=keep),
            prompts_per_subset=True,
        ),
        targets=targets,
        prompts=parts.prompts,
        baselines=baselines(parts.original, parts.grouped, "group", kept),
    )
