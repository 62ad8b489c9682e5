"""The built-in world of the depth experiment: procedural rooms, and the models that come with gap_jax."""

from collections.abc import Mapping
from functools import partial

from gap_jax.closed_loop.settings import GeneratorFiles
from gap_jax.closed_loop.world import (
    DataSets,
    FixedPrompts,
    Models,
    TargetDomain,
    TrainingData,
    World,
    load_generator,
    load_others,
)
from gap_jax.data.batch import HostBatch
from gap_jax.data.loader import Source, unstack
from gap_jax.experiments.depth.corrupted import corrupted
from gap_jax.experiments.depth.settings import SmallRooms
from gap_jax.experiments.depth.task import depth_task
from gap_jax.models.network import Network
from gap_jax.models.torch_modules.module import TorchModule, as_network
from gap_jax.small_worlds import rooms
from gap_jax.weights.depth import load_depth, save_depth

TARGET_TEXTS = {"fog": "a foggy room", "blur": "a blurry room"}
DOMAINS = {
    "dark": rooms.Style(light="dark"),
    "overexposed": rooms.Style(light="overexposed"),
    "red": rooms.Style("red"),
}
PLANS: dict[str, rooms.Plan] = {"corridors": "corridor", "attics": "attic"}
VALIDATION = {
    "green": rooms.Style("green"),
    "faded blue": rooms.Style("blue", camera="faded"),
    "grainy red": rooms.Style("red", camera="grainy"),
}
ORACLE = {**rooms.NARROW, "camera": ("blurry", "faded", "grainy", "pixelated")}
WRITTEN = (
    "a foggy room",
    "a dark room",
    "a blurry room",
    "a grainy room",
    "a pixelated room",
    "a red room",
)
OWN_MODELS = {"unet": "depth", "dpt": "dpt", "critic": "critic"}  # the small world's: the folder of each
MODEL_TITLES = {"unet": "U-Net", "dpt": "DPT-hybrid"}
FIRST_TARGET = 10_000  # target domains show rooms from this number on, which no other set has


def small_world(*, original: int = 512, target_images: int = 8, held_out: int = 32) -> World:
    """Return the built-in world of the depth experiment, which needs no files and no network.

    It has rooms with exact depth maps, 64 × 64 pixels; a Stable Diffusion, a CLIP and depth models that
    were trained on rooms; and the target domains `fog` and `blur`.

    - `original`: the number of rooms that images are generated from and the model is fine-tuned on.
    - `target_images`: the number of images that show each target domain.
    - `held_out`: the number of rooms in each validation and test set.
    """
    return build(SmallRooms(original=original, target_images=target_images), held_out)


def build(config: SmallRooms, held_out: int) -> World:
    """Return the world, with `held_out` rooms in each held-out set."""
    models = Models(  # first, so that one that cannot be loaded is told before the rooms are rendered
        model=_network(config.model),
        critic=_network("critic"),
        others=load_others(config.models, _network),
    )
    train, validation, test = (rooms.SPLITS[split] for split in ("train", "validation", "test"))
    original = unstack(_plain_rooms(train, range(config.original)))
    tested = _plain_rooms(test, range(held_out))
    shown = _plain_rooms(validation, range(FIRST_TARGET, FIRST_TARGET + config.target_images))
    return World(
        title="Depth in the small world",
        summary=f"A {MODEL_TITLES[config.model]} that predicts depth, trained on sharp pictures of grey and "
        "beige rooms, meets fog and blur.",
        generator=load_generator(GeneratorFiles(pipeline="small", clip="small")),
        models=models,
        task=depth_task(condition=rooms.condition),
        data=DataSets(
            original=original,
            validation={
                "clean": _plain_rooms(validation, range(held_out)),
                **_styled_rooms(validation, held_out, VALIDATION),
            },
            test=tested,
            domains={
                **{name: {**tested, "image": image} for name, image in corrupted(tested["image"]).items()},
                **_styled_rooms(test, held_out, DOMAINS),
                **{name: _plain_rooms(test, range(held_out), plan) for name, plan in PLANS.items()},
            },
        ),
        targets={
            name: TargetDomain(images=images, text=TARGET_TEXTS[name])
            for name, images in corrupted(shown["image"]).items()
        },
        prompts=FixedPrompts(agnostic="a room", written=WRITTEN),
        baselines={"oracle": lambda: TrainingData(original=original, added=_oracle(train, config.original))},
    )


def _plain_rooms(seed: int, numbers: range, plan: rooms.Plan = "room") -> HostBatch:
    """Return rooms in the narrow style that the model was trained on."""
    styles = [rooms.draw_style(seed, i, rooms.NARROW) for i in numbers]
    return rooms.render(seed, numbers, styles, plan=plan).as_batch()


def _oracle(seed: int, count: int) -> Source:
    """Return true renders of the original rooms, as cameras other than the sharp one show them."""
    styles = [rooms.draw_style(seed, i, ORACLE) for i in range(count)]
    return unstack(rooms.render(seed, range(count), styles).as_batch())


def _styled_rooms(seed: int, count: int, styles: Mapping[str, rooms.Style]) -> dict[str, HostBatch]:
    return {
        name: rooms.render(seed, range(count), [style] * count).as_batch() for name, style in styles.items()
    }


def _network(model: str) -> Network:
    module, params = load_depth("small", OWN_MODELS[model]) if model in OWN_MODELS else load_depth(model)
    if isinstance(module, TorchModule):
        return as_network(module, params)._replace(save=partial(save_depth, module))
    return Network(
        lambda params, images: module.apply({"params": params}, images),
        params,
        save=partial(save_depth, module),
    )
