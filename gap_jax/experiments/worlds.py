"""The built-in world of the depth experiment: the rooms, and the models that come with gap_jax."""

from collections.abc import Mapping

import jax
import numpy as np

from gap_jax.data import rooms
from gap_jax.data.loader import Source
from gap_jax.diffusion.align import controlnet_depth
from gap_jax.experiments.world import Arrays, Network, Task, World
from gap_jax.tasks import depth as task
from gap_jax.weights.depth import load_depth
from gap_jax.weights.pipeline import load_clip, load_pipeline

TARGETS = {"foggy": rooms.Style(air="foggy"), "checkered": rooms.Style("beige", "checkered")}
SHIFTS = TARGETS | {
    "dark": rooms.Style(light="dark"),
    "striped": rooms.Style(texture="striped"),
    "red": rooms.Style("red"),
    "blue": rooms.Style("blue"),
}
VALIDATION = {
    "hazy": rooms.Style(air="hazy"),
    "dim": rooms.Style(light="dim"),
    "green striped": rooms.Style("green", "striped"),
}
WRITTEN = (
    "a foggy room",
    "a dark room",
    "a checkered room",
    "a red room",
    "a striped room",
    "a blue room",
)
ORIGINAL, TARGET_IMAGES, FIRST_TARGET = 512, 8, 10_000


def depth_task(negative_prompt: str) -> Task:
    """Depth with the L1 loss: the paper's for the U-Net."""

    def labelled(loss):
        return lambda prediction, batch: loss(prediction, batch["depth"], batch["mask"])

    return Task(
        align=lambda strength: controlnet_depth(strength=strength),
        adversarial=task.negative_l1,
        loss=labelled(task.l1),
        metrics={name: labelled(metric) for name, metric in task.METRICS.items()},
        check=lambda batch: task.check_labels(batch["depth"], batch["mask"]),
        constant=mean_map,
        negative_prompt=negative_prompt,
    )


def mean_map(source: Source) -> np.ndarray:
    """The mean depth, `[H,W,1]`: of each pixel where it is valid."""
    total = count = 0.0
    for i in range(len(source)):
        example = source[i]
        total = total + example["depth"] * example["mask"]
        count = count + example["mask"]
    return (total / np.maximum(count, 1)).astype(np.float32)


def small(held_out: int) -> World:
    """The rooms; how many in each held-out set."""
    pipe, params = load_pipeline("small")
    train, validation, test = (rooms.SPLITS[split] for split in ("train", "validation", "test"))

    def sets(seed: int, styles: Mapping[str, rooms.Style]) -> dict[str, Arrays]:
        return {name: _rooms(seed, range(held_out), [style] * held_out) for name, style in styles.items()}

    def narrow(seed: int, count: int) -> Arrays:
        return _rooms(seed, range(count), [rooms.draw_style(seed, i, rooms.NARROW) for i in range(count)])

    original = narrow(train, ORIGINAL)
    numbers = range(FIRST_TARGET, FIRST_TARGET + TARGET_IMAGES)  # rooms that nothing else sees
    return World(
        "Depth in the small world",
        "A depth U-Net, trained on plain, bright, clear rooms, meets fog, darkness, textures and colours.",
        pipe,
        params,
        *load_clip("small"),
        depth_task(negative_prompt=""),
        _network("depth"),
        _network("critic"),
        [{name: array[i] for name, array in original.items()} for i in range(ORIGINAL)],
        {"clean": narrow(validation, held_out)} | sets(validation, VALIDATION),
        narrow(test, held_out),
        sets(test, SHIFTS),
        {
            name: _rooms(validation, numbers, [style] * len(numbers))["image"]
            for name, style in TARGETS.items()
        },
        WRITTEN,
    )


def _rooms(seed: int, numbers: range, styles: list[rooms.Style]) -> Arrays:
    truth = rooms.render(seed, numbers, styles)
    return {"image": truth.image.astype(np.float32) / 255, "depth": truth.depth, "mask": truth.mask}


def _network(part: str) -> Network:
    module, params = load_depth("small", part)

    def predict(params, images: jax.Array) -> jax.Array:
        return module.apply({"params": params}, images)

    return Network(predict, params)
