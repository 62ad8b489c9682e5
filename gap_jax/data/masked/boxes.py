"""Masks made from boxes around the foreground, for images that have no others."""

import json
from collections import defaultdict
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

import numpy as np
from tqdm import tqdm

from gap_jax.data.encoding import png
from gap_jax.data.files import open_image, times
from gap_jax.data.inventory import read_table

_SIDES = ("x", "y", "width", "height")


class Box(NamedTuple):
    """A box in an image, in its pixels, `x` and `y` its upper left corner; `place` is where it was read."""

    image: str
    x: float
    y: float
    width: float
    height: float
    place: str


def read_boxes(path: Path) -> list[Box]:
    """Boxes from a CSV with `file_name,x,y,width,height`, or from COCO's JSON (`images`, `annotations`).

    Raises FileNotFoundError, and ValueError naming the line or annotation, for a file unlike this.
    """
    return list(_coco(path) if path.suffix == ".json" else _csv(path))


def _csv(path: Path) -> Iterator[Box]:
    for row in read_table(path, ("file_name", *_SIDES)):
        yield _box(row.cells["file_name"], [row.cells[side] for side in _SIDES], row.place)


def _coco(path: Path) -> Iterator[Box]:
    try:
        document = json.loads(path.read_text(encoding="utf-8"))
        names = {image["id"]: image["file_name"] for image in document["images"]}
        boxes = [(note["image_id"], note["bbox"]) for note in document["annotations"]]
    except (ValueError, KeyError, TypeError) as error:
        raise ValueError(
            f"{path} must be JSON with images (id, file_name) and annotations (image_id, bbox): {error!r}"
        ) from error
    for i, (image, sides) in enumerate(boxes):
        if image not in names:
            raise ValueError(f"{path}: annotation {i} is of image {image!r}, which is not among its images")
        yield _box(names[image], sides, f"{path}: annotation {i}")


def _box(image: str, sides: list, place: str) -> Box:
    try:
        return Box(image, *map(float, sides), place=place)
    except (TypeError, ValueError) as error:
        raise ValueError(f"{place}: a box must be four numbers {', '.join(_SIDES)}, found {sides}") from error


def write_masks(boxes: Path, images: Path, masks: Path, suffix: str = "") -> int:
    """Write `{masks}/{stem}{suffix}.png`, 255 in any box, for every image that has one; returns how many.

    Pixels that a box touches are in it. Raises as `read_boxes`, ValueError naming the line for a box that has
    no pixel in its image, and `rgbd.Fault` for an image that cannot be read.
    """
    grouped: dict[str, list[Box]] = defaultdict(list)
    for box in read_boxes(boxes):
        grouped[box.image].append(box)
    for name, found in tqdm(grouped.items(), desc="masks", unit="image"):
        width, height = open_image(images / name).size
        keep = np.zeros((height, width, 1), bool)
        for box in found:
            left, right = np.clip((np.floor(box.x), np.ceil(box.x + box.width)), 0, width).astype(int)
            top, bottom = np.clip((np.floor(box.y), np.ceil(box.y + box.height)), 0, height).astype(int)
            if left >= right or top >= bottom:
                raise ValueError(
                    f"{box.place}: the box {tuple(box[1:5])} has no pixel in {images / name}, which is of "
                    f"{times((width, height))}"
                )
            keep[top:bottom, left:right] = True
        path = (masks / name).with_name(f"{Path(name).stem}{suffix}.png")
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(png(keep))
    return len(grouped)
