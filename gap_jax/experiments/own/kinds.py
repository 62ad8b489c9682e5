"""The kinds of data that one's own folder may hold: how each is recognised, and its preset.

A further kind is one more entry of `KINDS`. A small world's pipeline, of `TOYS`, has settings of its own.
"""

import dataclasses
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from gap_jax.closed_loop.arms import ARMS
from gap_jax.closed_loop.command import Preset
from gap_jax.closed_loop.settings import Settings
from gap_jax.data.files import IMAGE_SUFFIXES
from gap_jax.data.image_folder import METADATA
from gap_jax.data.reading.listing import list_folders
from gap_jax.data.reading.splits import split_folders
from gap_jax.experiments.classification.settings import SMALL as ANIMALS
from gap_jax.experiments.depth.settings import DPT, UNET
from gap_jax.experiments.depth.settings import SMALL as ROOMS
from gap_jax.experiments.own.settings import OwnDepth, OwnFolder, OwnMasked, OwnSegmented, OwnWhole
from gap_jax.experiments.segmentation.settings import FILES
from gap_jax.experiments.waterbirds.settings import PAPER as WATERBIRDS

RESERVED = {"images", "masks", "mask", "rgb", "depth", "classes"}  # folders that are no classes


class OwnKind(NamedTuple):
    """A kind of data: its preset, and whether a folder holds it, whose layout `needs` describes.

    The preset's world is an `OwnFolder`, whose class chooses the task.
    """

    settings: Settings
    world: OwnFolder
    fits: Callable[[Path], bool]
    needs: str


def _has(*names: str) -> Callable[[Path], bool]:
    return lambda folder: all((folder / name).is_dir() for name in names)


def _has_classes(folder: Path) -> bool:
    root = folder / "images" if list_folders(folder) == ["images"] else folder
    names = list_folders(root)
    images = (path for name in names for path in (root / name).rglob("*"))
    return not RESERVED & set(names) and any(path.suffix.lower() in IMAGE_SUFFIXES for path in images)


_MASKED = dataclasses.replace(
    WATERBIRDS,
    optimizing=dataclasses.replace(WATERBIRDS.optimizing, images=None, batch=8),
    generating=dataclasses.replace(WATERBIRDS.generating, images=1000),
    evaluating=dataclasses.replace(WATERBIRDS.evaluating, images=1000, severities=(3,)),
)
_WHOLE = dataclasses.replace(  # SDEdit is all that keeps the class
    _MASKED, sampling=dataclasses.replace(_MASKED.sampling, strength=0.6)
)
KINDS = {
    "depth": OwnKind(
        UNET,
        OwnDepth(),
        lambda folder: _has("rgb", "depth")(folder) or (folder / METADATA).is_file(),
        "rgb/NAME.jpg and depth/NAME.png (or .npy)",
    ),
    "class-maps": OwnKind(
        FILES,
        OwnSegmented(),
        _has("rgb", "classes"),
        "rgb/NAME.jpg and classes/NAME.png",
    ),
    "masks": OwnKind(
        _MASKED, OwnMasked(), _has("images", "masks"), "images/CLASS/NAME.jpg and masks/CLASS/NAME.png"
    ),
    "classes": OwnKind(_WHOLE, OwnWhole(), _has_classes, "CLASS/NAME.jpg"),
}
_BASELINES = {"masks": ("randaugment", "copy-paste"), "classes": ("randaugment",)}


class Toy(NamedTuple):
    """A small world's pipeline: the kinds of data that it draws, its settings, and a prompt that it knows."""

    kinds: tuple[str, ...]
    settings: Settings
    subject: str


TOYS = {
    "small": Toy(  # from the original on, which data of any kind needs: the small world knows rooms alone
        ("depth", "class-maps"),
        dataclasses.replace(ROOMS, sampling=dataclasses.replace(ROOMS.sampling, strength=0.6)),
        "a room",
    ),
    "wildlife": Toy(("masks", "classes"), ANIMALS, "a photo"),
}
TOY_PIXELS = 64  # side of the small worlds' images


def kind_of(root: Path) -> str:
    """Return the name of the kind of data that a folder holds; raise ValueError if it holds none."""
    folder = split_folders(root)["train"]
    for name, kind in KINDS.items():
        if kind.fits(folder):
            return name
    needs = "; ".join(f"{kind.needs} ({name})" for name, kind in KINDS.items())
    names = ", ".join(list_folders(folder))
    found = f"the folders {names}: rename them" if names else "no folder: put the files into such folders"
    raise ValueError(f"{folder} must hold files of one kind: {needs}. Found {found}")


def presets(first: str, targets: Sequence[str], loss: str = "l1", pipeline: str = "") -> dict[str, Preset]:
    """Return the preset of each kind of data, that of the kind `first` as the default.

    The settings of depth are the paper's for that `loss`. The arms are those that `targets` serve, the
    folders, files and texts of the target domains; without any, the targets are images. A `pipeline` of
    `TOYS` has its own size and settings. Raises ValueError if it does not draw the kind `first`.
    """
    toy = TOYS.get(pipeline)
    if toy is not None and first not in toy.kinds:
        other = next(name for name, toy in TOYS.items() if first in toy.kinds)
        raise ValueError(f"the pipeline {pipeline} draws no images with labels like {first}: give {other}")
    images = [value for value in targets if Path(value).expanduser().exists()]
    guided = {
        "guided-adversarial": images or not targets,
        "guided-adversarial-text": len(images) < len(targets),
    }
    found = {}
    for name in sorted(KINDS, key=lambda name: name != first):
        chosen = {
            "control",
            "agnostic",
            "adversarial",
            *filter(guided.get, guided),
            *_BASELINES.get(name, ()),
        }
        settings, world = KINDS[name].settings, KINDS[name].world
        if name == "depth" and loss == "midas":
            settings = DPT
        if toy is not None and name in toy.kinds:
            settings, world = _as_toy(settings, toy), _of_toy(world, pipeline, toy)
        found[name] = Preset(
            dataclasses.replace(
                settings,
                arms=tuple(arm for arm in ARMS if arm in chosen),
                sampling=dataclasses.replace(settings.sampling, size=None),
                evaluating=dataclasses.replace(settings.evaluating, efficiency=()),
            ),
            world,
        )
    return found


def _as_toy(settings: Settings, toy: Toy) -> Settings:
    """Return a small world's settings, with what depends on the data and the model alone."""
    strength = min(toy.settings.sampling.strength, settings.sampling.strength)
    return dataclasses.replace(
        toy.settings,
        sampling=dataclasses.replace(toy.settings.sampling, strength=strength),
        optimizing=dataclasses.replace(toy.settings.optimizing, threshold=settings.optimizing.threshold),
        evaluating=settings.evaluating,
    )


def _of_toy(world: OwnFolder, pipeline: str, toy: Toy) -> OwnFolder:
    """Return what a world is made of, with a small world's pipeline and CLIP in place of the real ones."""
    values: dict[str, Any] = {"pipeline": pipeline, "clip": pipeline}
    values |= {"pixels": TOY_PIXELS, "subject": toy.subject}
    if isinstance(world, OwnDepth | OwnSegmented):
        values["controlnet"] = None
    return dataclasses.replace(world, **values)
