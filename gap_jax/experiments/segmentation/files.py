"""The segmentation experiment's world from files: images with class maps, Stable Diffusion, your model."""

from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np

from gap_jax.closed_loop.world import (
    DataSets,
    FixedPrompts,
    Generator,
    Models,
    World,
    as_batch,
    load_generator,
)
from gap_jax.data.batch import Batch
from gap_jax.data.prepared import Prepared
from gap_jax.diffusion.conditions import ADE20K_COLOURS, class_condition
from gap_jax.experiments.depth.corrupted import PHOTO_TEXTS
from gap_jax.experiments.depth.files import shifts
from gap_jax.experiments.segmentation.network import load_network, num_classes
from gap_jax.experiments.segmentation.settings import SegmentationFiles
from gap_jax.experiments.segmentation.world import segmentation_task
from gap_jax.small_worlds import rooms
from gap_jax.tasks.depth import NEGATIVE_PROMPT
from gap_jax.weights.depth import load_depth
from gap_jax.weights.identify import expect_condition

FIELDS = ("image", "classes")
WRITTEN = ("a photo in fog", "a dark photo at night", "a blurry photo", "a photo in bright sunlight")


def load_networks(config: SegmentationFiles) -> tuple[Generator, Models]:
    """Read the generator's configurations, then load the segmentation models.

    Raises FileNotFoundError and ValueError for those that are missing or unlike what is expected.
    """
    expect_condition(config.controlnet or Path(config.pipeline, "controlnet"), "class maps")
    generator = load_generator(config, config.controlnet)
    generator.open()
    model = load_network(config.model)
    count = num_classes(model)
    _colours(config, count)  # raises for class names or colours of another number
    return generator, Models(
        model=model, critic=load_network(config.critic, count) if config.critic else model
    )


def build(
    config: SegmentationFiles, held_out: int, networks: tuple[Generator, Models] | None = None
) -> World:
    """Return the world, with at most `held_out` images in each held-out set.

    `networks` are those of `load_networks`; None: they are loaded when the data is known to be there.

    Raises FileNotFoundError and ValueError for data that is missing or does not fit the model, and the errors
    of `load_networks`.
    """
    original, validation, test = (
        Prepared(config.data, split, fields=FIELDS) for split in ("train", "validation", "test")
    )
    generator, models = networks or load_networks(config)
    count = num_classes(models.model)
    colours = _colours(config, count)
    for source in (original, validation, test):
        _check_classes(source, config.model, count)
    clean, tested = (as_batch(source.sample(held_out)) for source in (validation, test))
    domains, targets = shifts(
        config.domains, config.targets, clean, tested, held_out, len(original[0]["image"]), PHOTO_TEXTS
    )
    classes = config.classes or tuple(map(str, range(count)))
    task = segmentation_task(
        classes, lambda batch: class_condition(batch["classes"], colours), NEGATIVE_PROMPT
    )
    if (config.pipeline, config.controlnet) == ("small", None):
        task = segmentation_task(classes, _room_condition)
    return World(
        title="Segmentation",
        summary=f"The model {config.model} is fine-tuned on {config.data} and tested under shift.",
        generator=generator,
        models=models,
        task=task,
        data=DataSets(
            original=original,
            validation={"clean": clean},
            test=tested,
            domains=domains,
        ),
        targets=targets,
        prompts=FixedPrompts(agnostic="a photo", written=WRITTEN),
    )


def _room_condition(batch: Batch) -> jax.Array:
    """Return what the small world's ControlNet, which was trained on depth, sees of images with class maps.

    It is the condition of the depth that the small world's critic finds in a batch's `image`.
    """
    module, params = load_depth("small", "critic")
    depth = jnp.clip(module.apply({"params": params}, batch["image"]), 0, 1)
    return rooms.condition({"depth": depth, "mask": jnp.ones_like(depth, bool)})


def _colours(config: SegmentationFiles, count: int) -> np.ndarray:
    """Return the colours in which the ControlNet sees the model's classes, uint8 `[count,3]`."""
    for name, given in (("classes", config.classes), ("ade20k", config.ade20k)):
        if given and len(given) != count:
            raise ValueError(
                f"{name} must have a value for each of the {count} classes that {config.model} tells, "
                f"found {len(given)}: correct it, or leave it out"
            )
    if not config.ade20k and count > len(ADE20K_COLOURS):
        raise ValueError(
            f"{config.model} tells {count} classes, but ADE20K has {len(ADE20K_COLOURS)}: give "
            "ade20k, the number of the ADE20K class in whose colour the ControlNet sees each class"
        )
    return ADE20K_COLOURS[list(config.ade20k or range(count))]


def _check_classes(source: Prepared, model: str, count: int) -> None:
    """Raise ValueError for a split of class maps that a model of `count` classes cannot have learnt."""
    largest = source.column("largest_class")
    if largest.max() >= count:
        position = int(largest.argmax())
        raise ValueError(
            f"{source.folder}: {source.files()[position]} has the class {largest[position]}, but {model} "
            f"tells the classes 0 to {count - 1}: prepare the data with other numbers (--first), or choose "
            "another model"
        )
    if not largest.max():
        raise ValueError(
            f"{source.folder}: the split {source.split} has the class 0 alone; found masks of 0 and 255? "
            "Number the classes from 0, and prepare the data again"
        )
