"""iWildCam (Beery et al., arXiv 2105.03494): camera traps; ALIA's subset of WILDS' `iwildcam_v2.0`.

Two cameras are reserved for testing. Images are squeezed to squares here; the paper's classifiers then see
rows 10 to 410 of 448, which they cut out themselves.
"""

import dataclasses
from collections.abc import Iterable, Sequence
from datetime import datetime
from pathlib import Path
from typing import ClassVar, Literal, NamedTuple

from gap_jax.data.inventory import Inventory, abbreviate
from gap_jax.data.masked.read import (
    MaskedPaths,
    format_counts,
    keep_existing,
    missing_classes,
    parse_rows,
)
from gap_jax.data.reading.listing import list_files, unpacked
from gap_jax.data.reading.splits import hold_out
from gap_jax.data.reading.text import locate
from gap_jax.data.table import TableRow, read_rows
from gap_jax.ranges import Share


class SubsetTable(NamedTuple):
    """The table of a split: its file, and the number of rows that it has in ALIA's repository."""

    file: str
    rows: int


SUBSETS = {
    "train": SubsetTable("train_subset.csv", 6052),
    "train_extra": SubsetTable("train_extra_subset.csv", 2224),
    "validation": SubsetTable("val_subset.csv", 2826),
    "test": SubsetTable("test_subset.csv", 8483),
}
CATEGORIES = {
    0: "background",
    24: "cattle",
    32: "elephants",
    36: "impalas",
    48: "zebras",
    49: "giraffes",
    52: "dik-diks",
}  # by the column y
CLASSES = tuple(CATEGORIES.values())  # by label
TEST_LOCATIONS = (287, 288)
TimeOfDay = Literal["day", "night"]
_COLUMNS = ("location_remapped", "y", "datetime", "filename", "image_id")


@dataclasses.dataclass(frozen=True)
class IWildCamLayout:
    """iWildCam: a folder with the four tables `*_subset.csv` and the images `train/{filename}`.

    The path of `--masks` is relative to `--root`. Images and masks may lie one folder deeper, in a folder of
    the same name (`train/train`), as archives are unpacked.
    """

    masks: Path = Path("instance_masks")
    """folder of the masks {image_id}.png; nothing is kept of an image without a mask"""
    locations: tuple[int, ...] = ()
    """cameras to use, by the column location_remapped; by default, all"""
    time: TimeOfDay | None = None
    """time of day of the images to use: day is 9 to 17 h, night is 20 to 5 h; by default, any"""
    most_kept: Share = 0.5
    """largest median share of an image that masks may keep; masks that keep more look inverted"""
    attributes: ClassVar = ("location", "hour")
    scaled_masks: ClassVar = True  # WILDS' images were made smaller, the masks were not
    size: ClassVar = 448  # pixels of a side at which images are prepared by default

    def find(self, root: Path) -> Inventory:
        """List the examples, with ids `{image_id}` and locations as groups.

        Missing masks, locations and classes are problems. Raises the errors of `Layout.find`.
        """
        masks, images = unpacked(root / self.masks), unpacked(root / "train")
        if not masks.is_dir():
            raise FileNotFoundError(f"{masks} is missing: it must hold masks {{image_id}}.png")
        splits, named, faults, notes, problems = {}, {}, [], [], []
        for split, subset in SUBSETS.items():
            rows, unreadable = read_rows(root / subset.file, _COLUMNS)
            if len(rows) + len(unreadable) != subset.rows:
                notes.append(f"{subset.file} has {len(rows):,} rows; the paper's has {subset.rows:,}")
            listed, invalid = parse_rows(rows, lambda row: _paths(images, masks, row))
            named[split] = select_examples(listed, time=self.time)
            splits[split], missing = keep_existing(select_examples(named[split], self.locations))
            faults += [*unreadable, *invalid, *missing]
        if not any(splits.values()):
            problems.append(
                f"{root}: all {len(faults)} selected images are missing: unpack the images in "
                f"{root / 'train'}, or select others with --locations and --time; "
                f"{list_files(images, ('.jpg',)).describe()}"
            )
        if self.locations:
            problems += missing_locations(
                root, self.locations, [paths for split in named.values() for paths in split]
            )
        elif not self.time:
            problems += missing_locations(root / SUBSETS["test"].file, TEST_LOCATIONS, named["test"])
            if any(splits.values()):
                problems += missing_classes(root / SUBSETS["train"].file, splits["train"], CLASSES)
        splits, repeated = hold_out({split: examples for split, examples in splits.items() if examples})
        for split, examples in splits.items():
            with_mask = sum(paths.mask is not None for paths in examples)
            notes += [
                format_counts(split, (CLASSES[paths.label] for paths in examples)),
                f"{split}: {with_mask} of {len(examples)} images have a mask; nothing is kept of the others",
            ]
        animals = [paths for examples in splits.values() for paths in examples if paths.label]
        with_mask = sum(paths.mask is not None for paths in animals)
        if animals and not with_mask:
            problems.append(
                f"none of the {len(animals)} images of animals has a mask {{image_id}}.png in {masks}; "
                f"{list_files(masks, ('.png',)).describe()}: name the masks' own folder by --masks"
            )
        elif with_mask < len(animals) / 2:
            notes.append(
                f"warning: only {with_mask} of the {len(animals)} images of animals have a mask in {masks}; "
                "the others are inpainted everywhere"
            )
        return Inventory(splits, [*faults, *repeated], notes, CLASSES, tuple(problems))


def _paths(images: Path, masks: Path, row: TableRow) -> MaskedPaths:
    image_id, location = row.cells["image_id"], row.number("location_remapped")
    if row.number("y") not in CATEGORIES:
        allowed = ", ".join(f"{y} ({name})" for y, name in CATEGORIES.items())
        raise row.fault(f"must have one of {allowed} as y, found {row.cells['y']}")
    label = list(CATEGORIES).index(row.number("y"))
    try:
        hour = datetime.fromisoformat(row.cells["datetime"]).hour
    except ValueError as error:
        found = row.cells["datetime"]
        raise row.fault(f"must have an ISO date and time as datetime, found {found!r}") from error
    image, mask = locate(images, row.cells["filename"]), masks / f"{image_id}.png"
    attributes = {"location": location, "hour": hour}
    mask_path = str(mask) if mask.is_file() else None
    return MaskedPaths(image_id, str(image), mask_path, label, location, attributes, row.place)


def time_of_day(hour: int) -> TimeOfDay | None:
    """Return "day" from 9 to 17 h, "night" from 20 to 5 h, each to the end of its last hour, else None."""
    if 9 <= hour <= 17:
        return "day"
    return "night" if hour >= 20 or hour <= 5 else None


def select_examples(
    examples: Iterable[MaskedPaths], locations: Sequence[int] = (), time: TimeOfDay | None = None
) -> list[MaskedPaths]:
    """Return the examples of the given locations (empty for all) and time of day (None for any)."""
    return [
        paths
        for paths in examples
        if (not locations or paths.attributes["location"] in locations)
        and (time is None or time_of_day(paths.attributes["hour"]) == time)
    ]


def missing_locations(source: Path, locations: Sequence[int], examples: Sequence[MaskedPaths]) -> list[str]:
    """Return a sentence for each location that no example has, or of which no image exists.

    It names `source`, the table or folder of the examples, or the row.
    """
    problems = []
    for location in locations:
        named = [paths for paths in examples if paths.attributes["location"] == location]
        if not named:
            others = sorted({paths.attributes["location"] for paths in examples})
            problems.append(
                f"{source}: no row has location {location}; found "
                f"{abbreviate(list(map(str, others))) or 'none'}"
            )
        elif not any(Path(paths.image).is_file() for paths in named):
            problems.append(
                f"{named[0].row}: all {len(named)} images of location {location} are missing; the first is "
                f"{named[0].image}"
            )
    return problems
