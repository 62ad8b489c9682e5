"""The built-in world of the depth experiment: the rooms, and the models that come with gap_jax."""

import dataclasses
from collections.abc import Mapping

import jax

from gap_jax.closed_loop.world import Arrays, Network, TargetDomain, World
from gap_jax.experiments.depth_task import depth_task
from gap_jax.small_worlds import rooms
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
    "green": rooms.Style("green"),
    "red striped": rooms.Style("red", "striped"),
    "blue foggy": rooms.Style("blue", air="foggy"),
}
WRITTEN = (
    "a foggy room",
    "a dark room",
    "a checkered room",
    "a red room",
    "a striped room",
    "a blue room",
)
FIRST_TARGET = 10_000


@dataclasses.dataclass(frozen=True)
class SmallRooms:
    """The small world."""

    original: int = 512  # rooms that the model is trained on, and whose depth images are generated from
    target_images: int = 8  # of each target domain

    def build(self, held_out: int) -> World:
        """The world, with so many rooms in each held-out set."""
        pipe, params = load_pipeline("small")
        train, validation, test = (rooms.SPLITS[split] for split in ("train", "validation", "test"))
        original = _narrow(train, self.original)
        numbers = range(FIRST_TARGET, FIRST_TARGET + self.target_images)  # rooms that nothing else sees
        return World(
            "Depth in the small world",
            "A depth U-Net, trained on plain, bright, clear rooms, meets fog, darkness, textures, colours.",
            pipe,
            params,
            *load_clip("small"),
            depth_task(),
            _network("depth"),
            _network("critic"),
            [{name: array[i] for name, array in original.items()} for i in range(self.original)],
            {"clean": _narrow(validation, held_out), **_styled(validation, range(held_out), VALIDATION)},
            _narrow(test, held_out),
            _styled(test, range(held_out), SHIFTS),
            {
                name: TargetDomain(batch["image"])
                for name, batch in _styled(validation, numbers, TARGETS).items()
            },
            WRITTEN,
            agnostic="a room",
        )


def _narrow(seed: int, count: int) -> Arrays:
    styles = [rooms.draw_style(seed, i, rooms.NARROW) for i in range(count)]
    return rooms.render(seed, range(count), styles).as_batch()


def _styled(seed: int, numbers: range, styles: Mapping[str, rooms.Style]) -> dict[str, Arrays]:
    return {
        name: rooms.render(seed, numbers, [style] * len(numbers)).as_batch() for name, style in styles.items()
    }


def _network(part: str) -> Network:
    module, params = load_depth("small", part)

    def predict(params, images: jax.Array) -> jax.Array:
        return module.apply({"params": params}, images)

    return Network(predict, params)
