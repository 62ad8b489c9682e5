"""COCO's format for objects (https://cocodataset.org/#format-data): images and `annotations/*.json`.

- A mask is one annotation, a class map one for each class in the image; their regions are run lengths of
  the columns' pixels, `{"size": [height, width], "counts": [zeros, ones, zeros, …]}`.
- A box is one annotation without a region.
- A category has its field as `supercategory`, and the value that it stands for as `value`; ids begin at 1.
- Numbers, strings and lists are in the entry `fields` of the image. Depth and other maps have no place.
"""

import json
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from gap_jax.data.writing.fields import Field, Record, content, in_json
from gap_jax.data.writing.stored import StoredSet

CLASS = "label"  # the field with the class of a mask
MOST_CATEGORIES = 10_000
Category = tuple[str, int]  # the field and its value


class Boxes(NamedTuple):
    """The way in which a data set keeps boxes.

    - `field`: its rows are boxes, `[n,4]` in pixels. Rows without width and height are padding.
    - `corners`: a row is `x1, y1, x2, y2`; otherwise `x, y, width, height`.
    - `classes`: the field with the classes of the boxes, integers `[n]`; None: there is one category.
    """

    field: str
    corners: bool = False
    classes: str | None = None


def check_for_coco(stored: StoredSet, boxes: Boxes | None) -> None:
    """Raise ValueError for fields that COCO cannot hold, and if there is nothing to annotate."""
    fields = stored.fields
    if lost := [
        name for name, field in fields.items() if field.suffix and name != "image" and not _is_region(field)
    ]:
        raise ValueError(
            f"COCO holds masks, class maps and boxes, and has no place for {', '.join(lost)}: leave this out "
            f"(--leave-out {' '.join(lost)}), or choose another format"
        )
    if boxes is not None:
        _check_boxes(stored, boxes)
    if boxes is None and not any(map(_is_region, fields.values())):
        raise ValueError(
            f"COCO annotates masks, class maps and boxes, but the data set has {', '.join(fields)}: name the "
            "field with boxes (--boxes), or choose another format"
        )
    if len(_categories(stored, boxes)) > MOST_CATEGORIES:
        wide = max((name for name in fields), key=lambda name: fields[name].high - fields[name].low)
        raise ValueError(
            f"{wide} has values from {fields[wide].low} to {fields[wide].high}, too many for the "
            f"categories of COCO ({MOST_CATEGORIES:,} at most): leave it out, or choose another format"
        )


def write_coco(stored: StoredSet, folder: Path, boxes: Boxes | None) -> None:
    """Write images to `{split}/` and annotations to `annotations/instances_{split}.json`."""
    categories = _categories(stored, boxes)
    (folder / "annotations").mkdir()
    for split in stored.sizes:
        (folder / split).mkdir()
        images: list[dict[str, Any]] = []
        annotations: list[dict[str, Any]] = []
        for number, record in enumerate(stored.records(split), 1):
            name = f"{number - 1:06d}.png"
            (folder / split / name).write_bytes(content(stored.fields["image"], record["image"]))
            height, width = record["image"].shape[:2]
            own = {name: in_json(record[name]) for name, field in stored.fields.items() if not field.suffix}
            size = {"width": width, "height": height}
            images.append({"id": number, "file_name": name, **size, "fields": own})
            for category, shape in _annotated(stored.fields, record, boxes):
                place = {"image_id": number, "category_id": categories[category], "iscrowd": 0}
                annotations.append({"id": len(annotations) + 1, **place, **shape})
        names = [
            {
                "id": number,
                "name": _name(stored, *category),
                "supercategory": category[0],
                "value": category[1],
            }
            for category, number in categories.items()
        ]
        described = {"images": images, "annotations": annotations, "categories": names}
        text = json.dumps({"info": {"description": "written by gap_jax"}, "licenses": [], **described})
        (folder / "annotations" / f"instances_{split}.json").write_text(text, encoding="utf-8")


def run_lengths(mask: np.ndarray) -> list[int]:
    """Return the lengths of the runs of a mask's columns, bool `[H,W]`, beginning with a run of zeros."""
    pixels = mask.T.ravel()
    ends = np.flatnonzero(np.diff(pixels)) + 1
    lengths = np.diff([0, *ends, len(pixels)]).tolist()
    return [0, *lengths] if pixels[:1].any() else lengths


def _is_region(field: Field) -> bool:
    return field.kind in ("mask", "classes")


def _annotated(
    fields: Mapping[str, Field], record: Record, boxes: Boxes | None
) -> Iterator[tuple[Category, dict[str, Any]]]:
    """Yield the category and the shape of each annotation of an image."""
    for name, field in fields.items():
        if field.kind == "mask":
            value = int(record[CLASS]) if _has_class(fields) else 0
            if record[name].any():
                yield (name, value), _region(record[name][..., 0])
        elif field.kind == "classes":
            for value in np.unique(record[name]).tolist():
                yield (name, value), _region(record[name][..., 0] == value)
    if boxes is not None:
        values = np.zeros(len(record[boxes.field]), int) if boxes.classes is None else record[boxes.classes]
        for value, box in zip(values.tolist(), _sides(record[boxes.field], boxes), strict=True):
            if box[2] or box[3]:
                yield (boxes.field, value), {"bbox": box.tolist(), "area": float(box[2] * box[3])}


def _region(mask: np.ndarray) -> dict[str, Any]:
    rows, columns = np.flatnonzero(mask.any(1)), np.flatnonzero(mask.any(0))
    left, top = int(columns[0]), int(rows[0])
    box = [left, top, int(columns[-1]) + 1 - left, int(rows[-1]) + 1 - top]
    segmentation = {"size": list(mask.shape), "counts": run_lengths(mask)}
    return {"segmentation": segmentation, "area": int(mask.sum()), "bbox": box}


def _sides(rows: np.ndarray, boxes: Boxes) -> np.ndarray:
    """Return boxes as x, y, width and height, float64 `[n,4]`."""
    sides = rows.astype(np.float64)
    if boxes.corners:
        sides[:, 2:] -= sides[:, :2]
    return sides


def _has_class(fields: Mapping[str, Field]) -> bool:
    return CLASS in fields and fields[CLASS].is_integer


def _categories(stored: StoredSet, boxes: Boxes | None) -> dict[Category, int]:
    """Return the ids of all categories, in the order of fields and values."""
    fields = stored.fields
    values: dict[str, Iterable[int]] = {}
    for name, field in fields.items():
        if field.kind == "classes":
            values[name] = range(int(field.low), int(field.high) + 1)
        elif field.kind == "mask":
            label = fields[CLASS] if _has_class(fields) else None
            values[name] = range(int(label.low), int(label.high) + 1) if label else [0]
    if boxes is not None:
        values[boxes.field] = [0] if boxes.classes is None else _box_values(stored, boxes.classes)
    pairs = [(name, value) for name, numbers in values.items() for value in numbers]
    return {pair: number for number, pair in enumerate(pairs, 1)}


def _box_values(stored: StoredSet, field: str) -> list[int]:
    return sorted(
        {int(v) for split in stored.sizes for record in stored.records(split) for v in record[field]}
    )


def _name(stored: StoredSet, field: str, value: int) -> str:
    """Return the name of a category: that of the class, or the field, with the value if it has several."""
    is_mask, has_class = stored.fields[field].kind == "mask", _has_class(stored.fields)
    names = stored.class_names or ()
    if is_mask == has_class and 0 <= value < len(names):
        return names[value]
    return field if is_mask and not has_class else f"{field} {value}"


def _check_boxes(stored: StoredSet, boxes: Boxes) -> None:
    """Raise ValueError unless the fields of boxes are there and hold boxes inside their images."""
    field = stored.fields.get(boxes.field)
    if field is None or field.kind != "list" or len(field.shape) != 2 or field.shape[1] != 4:
        found = "no such field" if field is None else f"{field.kind} of shape {list(field.shape)}"
        raise ValueError(f"boxes must be a field of shape [n, 4], found {boxes.field}: {found}")
    if boxes.classes is not None:
        classes = stored.fields.get(boxes.classes)
        if classes is None or classes.dtype.kind not in "iu" or classes.shape != field.shape[:1]:
            raise ValueError(
                f"the classes of boxes must be integers {list(field.shape[:1])}, one for each row of "
                f"{boxes.field}: correct {boxes.classes}, or name another field (--box-classes)"
            )
    for split in stored.sizes:
        for number, record in enumerate(stored.records(split)):
            height, width = record["image"].shape[:2]
            sides = _sides(record[boxes.field], boxes)
            ends = sides[:, :2] + sides[:, 2:]
            is_inside = (sides >= 0).all(1) & (ends <= [width, height]).all(1)
            if not is_inside.all():
                row = record[boxes.field][~is_inside][0].tolist()
                form = "x1, y1, x2, y2" if boxes.corners else "x, y, width, height"
                raise ValueError(
                    f"example {number} of the split {split!r} has the box {row}, which is not inside its "
                    f"image of {width}×{height} pixels if a row is {form}: choose the other --box-format, or "
                    "correct the box"
                )
