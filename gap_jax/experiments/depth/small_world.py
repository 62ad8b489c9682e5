"""The built-in world of the depth experiment: procedural rooms, and the models that come with gap_jax."""

from collections.abc import Mapping

import jax

from gap_jax.closed_loop.world import (
    DataSets,
    FixedPrompts,
    Models,
    TargetDomain,
    World,
    load_generator,
    load_others,
)
from gap_jax.data.batch import HostBatch
from gap_jax.data.loader import unstack
from gap_jax.experiments.depth.settings import SmallRooms
from gap_jax.experiments.depth.task import depth_task
from gap_jax.models.network import Network
from gap_jax.small_worlds import rooms
from gap_jax.weights.depth import load_depth

TARGETS = {"foggy": rooms.Style(air="foggy"), "checkered": rooms.Style("beige", "checkered")}
DOMAINS = TARGETS | {
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
CRITIC = "critic"  # the small world's stronger model
FIRST_TARGET = 10_000  # target domains show rooms from this number on, which no other set has


def build(config: SmallRooms, held_out: int) -> World:
    """Return the world, with `held_out` rooms in each held-out set."""
    train, validation, test = (rooms.SPLITS[split] for split in ("train", "validation", "test"))
    shown = range(FIRST_TARGET, FIRST_TARGET + config.target_images)
    return World(
        title="Depth in the small world",
        summary="A depth U-Net trained on plain, bright, clear rooms meets fog, darkness and patterns.",
        generator=load_generator("small", "small"),
        models=Models(
            model=_network("small"),
            critic=_network("small", CRITIC),
            others=load_others(config.models, _other),
        ),
        task=depth_task(),
        data=DataSets(
            original=unstack(_plain_rooms(train, config.original)),
            validation={
                "clean": _plain_rooms(validation, held_out),
                **_styled_rooms(validation, range(held_out), VALIDATION),
            },
            test=_plain_rooms(test, held_out),
            domains=_styled_rooms(test, range(held_out), DOMAINS),
        ),
        targets={
            name: TargetDomain(images=batch["image"], text=f"a {name} room")
            for name, batch in _styled_rooms(validation, shown, TARGETS).items()
        },
        prompts=FixedPrompts(agnostic="a room", written=WRITTEN),
    )


def _plain_rooms(seed: int, count: int) -> HostBatch:
    """Return rooms in the narrow style that the model was trained on."""
    styles = [rooms.draw_style(seed, i, rooms.NARROW) for i in range(count)]
    return rooms.render(seed, range(count), styles).as_batch()


def _styled_rooms(seed: int, numbers: range, styles: Mapping[str, rooms.Style]) -> dict[str, HostBatch]:
    return {
        name: rooms.render(seed, numbers, [style] * len(numbers)).as_batch() for name, style in styles.items()
    }


def _other(model: str) -> Network:
    return _network("small", CRITIC) if model == CRITIC else _network(model)


def _network(model: str, part: str = "depth") -> Network:
    module, params = load_depth(model, part)

    def predict(params, images: jax.Array) -> jax.Array:
        return module.apply({"params": params}, images)

    return Network(predict, params)
