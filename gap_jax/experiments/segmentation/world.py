"""The segmentation experiment: a task for class maps, and the depth experiment's rooms with class maps."""

from collections.abc import Mapping, Sequence
from functools import partial

import numpy as np

from gap_jax.closed_loop.settings import GeneratorFiles
from gap_jax.closed_loop.world import (
    DataSets,
    FixedPrompts,
    Models,
    Pictures,
    TargetDomain,
    Task,
    TrainingData,
    World,
    load_generator,
    load_others,
)
from gap_jax.data.batch import HostBatch
from gap_jax.data.loader import unstack
from gap_jax.diffusion.align import Condition, controlnet
from gap_jax.diffusion.conditions import ADE20K_COLOURS
from gap_jax.experiments.depth import small_world as depth
from gap_jax.experiments.depth.corrupted import corrupted
from gap_jax.experiments.segmentation.network import load_network
from gap_jax.experiments.segmentation.settings import SegmentedRooms
from gap_jax.report import pictures
from gap_jax.small_worlds import rooms
from gap_jax.tasks import segmentation
from gap_jax.tasks.metric import Metric, MetricStyle

METRICS = {
    "miou": Metric(
        MetricStyle("mIoU", "in %", 100, True), segmentation.intersections_and_unions, segmentation.mean_iou
    ),
    "accuracy": Metric(MetricStyle("Pixel accuracy", "in %", 100, True), segmentation.pixel_accuracy),
    "cross_entropy": Metric(MetricStyle("Cross-entropy", "in nats", 1), segmentation.cross_entropy),
}
Words = Mapping[str, Sequence[str]]  # the words of each axis that styles are drawn from


def segmentation_task(classes: Sequence[str], condition: Condition, negative_prompt: str | None = "") -> Task:
    """Return the task of telling the class of each pixel.

    `classes` are the names of the classes, in the order of their numbers in the field `classes` of a batch.
    The ControlNet sees `condition(batch)`.
    """
    count, colours, note = len(classes), ADE20K_COLOURS, "Class maps have ADE20K’s colours."
    if count <= len(few := pictures.CLASS_COLOURS):
        named = ", ".join(f"{name} in {colour}" for name, colour in zip(classes, few, strict=False))
        colours, note = np.array(list(few.values())), f"Class maps show {named}."

    def draw_prediction(logits: np.ndarray, label: HostBatch) -> tuple[np.ndarray, np.ndarray]:
        predicted = segmentation.predicted_classes(logits, label["classes"].shape[:2])
        wrong = (predicted != label["classes"]) & (label["classes"] != segmentation.UNLABELLED)
        return pictures.classes(predicted, colours), np.repeat(wrong, 3, -1) * np.uint8(255)

    return Task(
        align=lambda strength: controlnet(condition, strength=strength),
        adversarial=segmentation.negative_cross_entropy,
        loss=segmentation.cross_entropy,
        metrics=METRICS,
        check=lambda batch: segmentation.check_labels(batch["classes"], count, batch["image"].shape[1:3]),
        constant=lambda source: segmentation.class_frequencies(source, count),
        pictures=Pictures(
            name="class map",
            label=lambda label: pictures.classes(label["classes"], colours),
            prediction=draw_prediction,
            note=f"{note} In pictures of errors, wrong pixels are white.",
        ),
        negative_prompt=negative_prompt,
    )


def build(config: SegmentedRooms, held_out: int) -> World:
    """Return the small world, with `held_out` rooms in each held-out set.

    Raises the errors of `load_network` for a model that does not tell the rooms' classes, before a room is
    rendered.
    """
    load = partial(load_network, count=len(rooms.CLASSES))
    model, others = load(config.model), load_others(config.models, load)
    train, validation, test = (rooms.SPLITS[split] for split in ("train", "validation", "test"))
    numbers, originals = range(held_out), range(config.original)
    tested = _rooms(test, numbers)
    original = unstack(_rooms(train, originals))
    shown = _rooms(validation, range(depth.FIRST_TARGET, depth.FIRST_TARGET + config.target_images))
    return World(
        title="Segmentation in the small world",
        summary="A network that learned to tell floor, walls and objects apart in sharp pictures of grey and "
        "beige rooms meets fog and blur.",
        generator=load_generator(GeneratorFiles(pipeline="small", clip="small")),
        models=Models(model=model, critic=model, others=others),
        task=segmentation_task(rooms.CLASSES, rooms.condition),
        data=DataSets(
            original=original,
            validation={"clean": _rooms(validation, numbers)}
            | {name: _rooms(validation, numbers, _words(style)) for name, style in depth.VALIDATION.items()},
            test=tested,
            domains={name: {**tested, "image": image} for name, image in corrupted(tested["image"]).items()}
            | {name: _rooms(test, numbers, _words(style)) for name, style in depth.DOMAINS.items()}
            | {name: _rooms(test, numbers, plan=plan) for name, plan in depth.PLANS.items()},
        ),
        targets={
            name: TargetDomain(images=images, text=depth.TARGET_TEXTS[name])
            for name, images in corrupted(shown["image"]).items()
        },
        prompts=FixedPrompts(agnostic="a room", written=depth.WRITTEN),
        baselines={
            "oracle": lambda: TrainingData(
                original=original, added=unstack(_rooms(train, originals, depth.ORACLE))
            )
        },
    )


def _rooms(seed: int, numbers: range, words: Words = rooms.NARROW, plan: rooms.Plan = "room") -> HostBatch:
    """Return rooms with class maps, and with the depth and the mask that the ControlNet's condition needs."""
    styles = [rooms.draw_style(seed, i, words) for i in numbers]
    return rooms.render(seed, numbers, styles, plan=plan).as_batch("classes")


def _words(style: rooms.Style) -> Words:
    return {axis: (word,) for axis, word in style._asdict().items()}
