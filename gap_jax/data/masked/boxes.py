"""Masks made from boxes around the foreground, for images that come without masks."""

import json
import os
from collections import defaultdict
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np
from PIL import Image
from tqdm import tqdm

from gap_jax.data.encoding import png
from gap_jax.data.files import IMAGE_SUFFIXES, Fault, format_size, open_image
from gap_jax.data.inventory import check_fault_share
from gap_jax.data.reading.listing import list_files
from gap_jax.data.reading.text import locate, read_text
from gap_jax.data.table import read_table
from gap_jax.files import write_whole

_OURS = "gap_jax.data masks"  # the PNG text `Software` of masks, by which they may be replaced
_SIDES = ("x", "y", "width", "height")
Sides = tuple[int, int, int, int]  # left, top, right and bottom of a box, in pixels
Fill = Callable[[Image.Image, Sequence[Sides]], np.ndarray]  # from image and boxes to a mask, bool [H,W]


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
        document = json.loads(read_text(path))
        if "annotations" not in document:
            detected = [
                (image["file"] if "file" in image else f"{image['id']}.jpg", detection["bbox"])
                for image in document["images"]
                for detection in (() if "failure" in image else image["detections"])
            ]
            yield from (
                _box(name, sides, f"{path}: detection in {name}", relative=True) for name, sides in detected
            )
            return
        names = {image["id"]: image["file_name"] for image in document["images"]}
        boxes = [(annotation["image_id"], annotation["bbox"]) for annotation in document["annotations"]]
    except (json.JSONDecodeError, KeyError, TypeError) as error:
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


def fill_boxes(image: Image.Image, boxes: Sequence[Sides]) -> np.ndarray:
    """Return a mask, bool `[H,W]`, that is True in all pixels of the boxes."""
    keep = np.zeros((image.height, image.width), bool)
    for left, top, right, bottom in boxes:
        keep[top:bottom, left:right] = True
    return keep


def write_masks(
    boxes: Path | None,
    images: Path,
    masks: Path,
    suffix: str = "",
    tolerance: float = 0.01,
    fill: Fill = fill_boxes,
) -> tuple[dict[Path, Path], list[Fault]]:
    """Write a mask for every image that has boxes; return the masks by image, and the faults of other images.

    A mask is `{masks}/{stem}{suffix}.png`, 255 where `fill` is True, which by default is in all pixels that a
    box touches, and 0 elsewhere. Without a file of boxes, every image gets a mask. Images that do not exist
    are passed over if boxes are relative, because MegaDetector's files list whole archives. Nothing is
    written outside `masks`, nor over a file that this function has not written.

    Raises the errors of `read_boxes`, and ValueError for a box that has no pixel in its image, for two images
    with the same mask, for a mask that would replace another file, and if more than the share `tolerance` of
    the images cannot be used. Names are checked before anything is written.
    """
    boxes_by_image: dict[str, list[Box]] = defaultdict(list)
    for box in read_boxes(boxes) if boxes else ():
        boxes_by_image[box.image].append(box)
    paths = {name: _image_path(images, name, found[0].place) for name, found in boxes_by_image.items()}
    paths = {
        name: path for name, path in paths.items() if path.is_file() or not boxes_by_image[name][0].relative
    }
    if boxes is None:
        listing = list_files(images, IMAGE_SUFFIXES)
        paths = {name: Path(os.path.abspath(path)) for name, path in listing.files.items()}
        if not paths:
            raise FileNotFoundError(f"{images} has no images: {listing.describe()}")
    if boxes_by_image and not paths:
        raise ValueError(
            f"none of the {len(boxes_by_image)} images with boxes in {boxes}, such as "
            f"{next(iter(boxes_by_image))}, is in {images}: {list_files(images, IMAGE_SUFFIXES).describe()}"
        )
    targets = _mask_paths(images, masks, suffix, paths)
    written, faults = {}, []
    for name, path in tqdm(paths.items(), desc="masks", unit="image"):
        try:
            image = open_image(path)
            keep = fill(image, [_in_image(box, path, image) for box in boxes_by_image.get(name, ())])
            if not keep.any():
                raise Fault(path, "has no foreground that was found: give it a box, or draw its mask")
        except Fault as fault:
            faults.append(fault)
            check_fault_share(faults, len(paths), tolerance)
            continue
        write_whole(targets[name], png(keep[..., None], software=_OURS))
        written[path] = targets[name]
    return written, faults


def _in_image(box: Box, path: Path, image: Image.Image) -> Sides:
    """Return the pixels of an image that a box touches; raise ValueError if there are none."""
    first_x, first_y, last_x, last_y = box.in_pixels(*image.size)
    left, right = np.clip((np.floor(first_x), np.ceil(last_x)), 0, image.width).astype(int)
    top, bottom = np.clip((np.floor(first_y), np.ceil(last_y)), 0, image.height).astype(int)
    if left >= right or top >= bottom:
        raise ValueError(
            f"{box.place}: the box {tuple(box[1:5])} has no pixel in {path}, which is "
            f"{format_size(image.size)} pixels large"
        )
    return int(left), int(top), int(right), int(bottom)


def _image_path(images: Path, name: str, place: str) -> Path:
    """Return the path of an image below `images`; raise ValueError naming the row if it is elsewhere."""
    path = Path(os.path.abspath(locate(images, name)))
    if not path.is_relative_to(os.path.abspath(images)):
        raise ValueError(
            f"{place}: {name} is not below {images}: write file names relative to the folder of the images"
        )
    return path


def _mask_paths(images: Path, masks: Path, suffix: str, paths: Mapping[str, Path]) -> dict[str, Path]:
    """Return the path of each image's mask, all different, inside `masks`, and not of anyone's file."""
    if not suffix and masks.resolve() == images.resolve():
        raise ValueError(
            f"{masks}: masks beside their images need a --suffix, such as _mask; or name another folder"
        )
    root, targets = Path(os.path.abspath(images)), {}
    image_of: dict[Path, Path] = {}
    for name, path in paths.items():
        target = (masks / path.relative_to(root)).with_name(f"{path.stem}{suffix}.png")
        if image_of.setdefault(target, path) != path:
            raise ValueError(f"{path} and {image_of[target]} would have the same mask {target}: rename one")
        if not target.resolve().is_relative_to(masks.resolve()):
            raise ValueError(f"{target} leads out of {masks} by a link: remove the link")
        if target.exists() and not _is_ours(target):
            raise ValueError(
                f"{target} exists and is no mask that this command wrote: it would be lost. Name another "
                "folder for the masks, or move it away"
            )
        targets[name] = target
    return targets


def _is_ours(path: Path) -> bool:
    try:
        with Image.open(path) as image:
            return image.info.get("Software") == _OURS
    except Exception:  # whatever it is, it is not ours
        return False
