"""What the depth experiment runs on: a generator, the model under improvement, a critic, and data.

`small()` is the built-in world: the rooms, and the models that come with gap_jax.
"""

import json
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, NamedTuple

import jax
import numpy as np
import tensorflow_datasets as tfds

from gap_jax.data import rooms
from gap_jax.data.generated import DEPTH_SCALE
from gap_jax.diffusion.pipeline import Pipeline
from gap_jax.models.clip import Clip
from gap_jax.weights.depth import load_depth
from gap_jax.weights.pipeline import load_clip, load_pipeline

Arrays = dict[str, np.ndarray]
Predict = Callable[[Any, jax.Array], jax.Array]


class DepthWorld(NamedTuple):
    """Arrays are `image` float `[n,H,W,3]` in [0,1], `depth` float and `mask` bool `[n,H,W,1]`."""

    pipe: Pipeline
    params: Any
    clip: Clip
    clip_params: Any
    predict: Predict  # of f: depth `[B,H,W,1]` from its parameters and images
    f: Any
    predict_critic: Predict
    critic: Any
    original: Arrays  # what f is trained on; labels to generate from
    validation: dict[str, Arrays]  # clean, and shifts that are not tested
    test: Arrays  # clean
    domains: dict[str, Arrays]  # shifts to be tested
    targets: dict[str, np.ndarray]  # a few images of each target domain, without labels


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


def small(original: int = 512, held_out: int = 64, targets: int = 8) -> DepthWorld:
    """The small world; how many rooms to train on, in each held-out set, in each target domain."""
    pipe, params = load_pipeline("small")
    clip, clip_params = load_clip("small")
    predict, f = _depth("depth")
    predict_critic, critic = _depth("critic")
    train, validation, test = (rooms.SPLITS[split] for split in ("train", "validation", "test"))
    narrow = [rooms.draw_style(train, i, rooms.NARROW) for i in range(original)]

    def shifted(seed: int, styles: Mapping[str, rooms.Style], first: int = 0) -> dict[str, Arrays]:
        numbers = range(first, first + held_out)
        return {name: arrays(seed, numbers, [style] * held_out) for name, style in styles.items()}

    def clean(seed: int) -> Arrays:
        styles = [rooms.draw_style(seed, i, rooms.NARROW) for i in range(held_out)]
        return arrays(seed, range(held_out), styles)

    numbers = range(10_000, 10_000 + targets)  # rooms that nothing else sees
    return DepthWorld(
        pipe,
        params,
        clip,
        clip_params,
        predict,
        f,
        predict_critic,
        critic,
        arrays(train, range(original), narrow),
        {"clean": clean(validation)} | shifted(validation, VALIDATION),
        clean(test),
        shifted(test, SHIFTS),
        {name: arrays(validation, numbers, [style] * targets)["image"] for name, style in TARGETS.items()},
    )


def arrays(seed: int, numbers: range, styles: list[rooms.Style]) -> Arrays:
    """Rooms as arrays."""
    truth = rooms.render(seed, numbers, styles)
    image = truth.image.astype(np.float32) / 255
    return {"image": image, "depth": truth.depth, "mask": truth.mask}


def _depth(part: str) -> tuple[Predict, Any]:
    network, params = load_depth("small", part)
    return lambda params, images: network.apply({"params": params}, images), params


def read_generated(folder: Path) -> list[Arrays]:
    """The images of a generated data set with their labels."""
    summary = json.loads((folder / "summary.json").read_text())
    source = tfds.builder_from_directory(folder / summary["tfds"]).as_data_source("train")
    return [
        {
            "image": example["image"].astype(np.float32) / 255,
            "depth": example["depth"].astype(np.float32) / DEPTH_SCALE,
            "mask": example["mask"] > 0,
        }
        for example in source
    ]
