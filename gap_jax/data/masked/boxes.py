"""Masks made from boxes around the foreground, for images that come without masks."""

import json
from collections import defaultdict
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

import numpy as np
from tqdm import tqdm

from gap_jax.data.encoding import png
from gap_jax.data.files import format_size, open_image
from gap_jax.data.table import read_table
from gap_jax.files import write_whole

_SIDES = ("x", "y", "width", "height")


class Box(NamedTuple):
    """A box in an image: `x` and `y` are its upper left corner, `place` is where it was read.

    Its sides are in pixels or, if it is `relative`, shares of the image's width and height.
    """

    image: str
    x: float
    y: float
    width: float
    height: float
    place: str
    relative: bool = False

    def in_pixels(self, width: int, height: int) -> tuple[float, float, float, float]:
        """Return left, top, right and bottom in an image of this size."""
        across, down = (width, height) if self.relative else (1, 1)
        left, top = self.x * across, self.y * down
        return left, top, left + self.width * across, top + self.height * down


def read_boxes(path: Path) -> list[Box]:
    """Read boxes from a CSV file with `file_name,x,y,width,height`, or from JSON in one of two formats.

    - COCO's format has `images` (`id`, `file_name`) and `annotations` (`image_id`, `bbox`), in pixels.
    - MegaDetector's has `images` with `file`, or `id` for a file `{id}.jpg`, and `detections` (`bbox`), in
      shares of the sides. All detections count, as for the paper's authors.

    Raises FileNotFoundError if the file is missing, ValueError naming the line or annotation that is
    different.
    """
    return list(_read_json(path) if path.suffix == ".json" else _read_csv(path))


def _read_csv(path: Path) -> Iterator[Box]:
    for row in read_table(path, ("file_name", *_SIDES)):
        yield _box(row.cells["file_name"], [row.cells[side] for side in _SIDES], row.place)


def _read_json(path: Path) -> Iterator[Box]:
    try:
        document = json.loads(path.read_text(encoding="utf-8"))
        if "annotations" not in document:
            detected = [
                (image["file"] if "file" in image else f"{image['id']}.jpg", detection["bbox"])
                for image in document["images"]
                for detection in image["detections"]
            ]
            yield from (
                _box(name, sides, f"{path}: detection in {name}", relative=True) for name, sides in detected
            )
            return
        names = {image["id"]: image["file_name"] for image in document["images"]}
        boxes = [(annotation["image_id"], annotation["bbox"]) for annotation in document["annotations"]]
    except (UnicodeDecodeError, json.JSONDecodeError, KeyError, TypeError) as error:
        raise ValueError(
            f"{path} must be JSON with images (id, file_name) and annotations (image_id, bbox), or with "
            f"images (file or id, detections with bbox): {error!r}"
        ) from error
    for i, (image_id, sides) in enumerate(boxes):
        if image_id not in names:
            raise ValueError(
                f"{path}: annotation {i} has the image_id {image_id!r}, which none of its images has"
            )
        yield _box(names[image_id], sides, f"{path}: annotation {i}")


def _box(image: str, sides: list, place: str, relative: bool = False) -> Box:
    try:
        x, y, width, height = map(float, sides)
        return Box(image, x, y, width, height, place, relative)
    except (TypeError, ValueError) as error:
        raise ValueError(f"{place}: a box must be four numbers {', '.join(_SIDES)}, found {sides}") from error


def write_masks(boxes: Path, images: Path, masks: Path, suffix: str = "") -> int:
    """Write a mask for every image that has boxes and return the number of masks.

    A mask is `{masks}/{stem}{suffix}.png`, 255 in all pixels that a box touches and 0 elsewhere. Images that
    do not exist are passed over if boxes are relative, because MegaDetector's files list whole archives.

    Raises the errors of `read_boxes`, ValueError naming the line of a box that has no pixel in its image, and
    `Fault` for an image that cannot be read.
    """
    boxes_by_image: dict[str, list[Box]] = defaultdict(list)
    for box in read_boxes(boxes):
        boxes_by_image[box.image].append(box)
    for name in [name for name, (box, *_) in boxes_by_image.items() if box.relative]:
        if not (images / name).is_file():
            del boxes_by_image[name]
    for name, image_boxes in tqdm(boxes_by_image.items(), desc="masks", unit="image"):
        width, height = open_image(images / name).size
        keep = np.zeros((height, width, 1), bool)
        for box in image_boxes:
            first_x, first_y, last_x, last_y = box.in_pixels(width, height)
            left, right = np.clip((np.floor(first_x), np.ceil(last_x)), 0, width).astype(int)
            top, bottom = np.clip((np.floor(first_y), np.ceil(last_y)), 0, height).astype(int)
            if left >= right or top >= bottom:
                raise ValueError(
                    f"{box.place}: the box {tuple(box[1:5])} has no pixel in {images / name}, which is "
                    f"{format_size((width, height))} pixels large"
                )
            keep[top:bottom, left:right] = True
        path = (masks / name).with_name(f"{Path(name).stem}{suffix}.png")
        write_whole(path, png(keep))
    return len(boxes_by_image)
