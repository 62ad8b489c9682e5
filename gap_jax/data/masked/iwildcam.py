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
from gap_jax.data.masked.read import MaskedPaths, check_classes, format_counts, keep_existing
from gap_jax.data.table import TableRow, read_table


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

    The path of `--masks` is relative to `--root`.
    """

    masks: Path = Path("instance_masks")
    """folder of the masks {image_id}.png; nothing is kept of an image without a mask"""
    locations: tuple[int, ...] = ()
    """cameras to use, by the column location_remapped; by default, all"""
    time: TimeOfDay | None = None
    """time of day of the images to use: day is 9 to 17 h, night is 20 to 5 h; by default, any"""
    most_kept: float = 0.5
    """largest median share of an image that masks may keep; masks that keep more look inverted"""
    attributes: ClassVar = ("location", "hour")
    scaled_masks: ClassVar = True  # WILDS' images were made smaller, the masks were not
    size: ClassVar = 448  # pixels of a side at which images are prepared by default

    def find(self, root: Path) -> Inventory:
        """List the examples, with ids `{image_id}` and locations as groups.

        Raises the errors of `Layout.find`.
        """
        if not (root / self.masks).is_dir():
            raise FileNotFoundError(f"{root / self.masks} is missing: it must hold masks {{image_id}}.png")
        splits, named, faults, notes = {}, {}, [], []
        for split, subset in SUBSETS.items():
            rows = read_table(root / subset.file, _COLUMNS)
            if len(rows) != subset.rows:
                notes.append(f"{subset.file} has {len(rows):,} rows; the paper's has {subset.rows:,}")
            named[split] = select_examples([self._paths(root, row) for row in rows], time=self.time)
            splits[split], missing = keep_existing(select_examples(named[split], self.locations))
            faults += missing
        if self.locations:
            check_locations(root, self.locations, [paths for split in named.values() for paths in split])
        elif not self.time:
            check_locations(root / SUBSETS["test"].file, TEST_LOCATIONS, named["test"])
            check_classes(root / SUBSETS["train"].file, splits["train"], CLASSES)
        if not any(splits.values()):
            raise ValueError(
                f"{root}: all {len(faults)} selected images are missing: unpack the images in "
                f"{root / 'train'}, or select others with --locations and --time"
            )
        splits = {split: examples for split, examples in splits.items() if examples}
        for split, examples in splits.items():
            masks = sum(paths.mask is not None for paths in examples)
            notes += [
                format_counts(split, (CLASSES[paths.label] for paths in examples)),
                f"{split}: {masks} of {len(examples)} images have a mask; nothing is kept of the others",
            ]
        return Inventory(splits, faults, notes, CLASSES)

    def _paths(self, root: Path, row: TableRow) -> MaskedPaths:
        image_id, location = row.cells["image_id"], row.number("location_remapped")
        if row.number("y") not in CATEGORIES:
            allowed = ", ".join(f"{y} ({name})" for y, name in CATEGORIES.items())
            raise ValueError(f"{row.place}: y must be one of {allowed}, found {row.cells['y']}")
        label = list(CATEGORIES).index(row.number("y"))
        try:
            hour = datetime.fromisoformat(row.cells["datetime"]).hour
        except ValueError as error:
            raise ValueError(
                f"{row.place}: datetime must be an ISO date and time, found {row.cells['datetime']!r}"
            ) from error
        image, mask = root / "train" / row.cells["filename"], root / self.masks / f"{image_id}.png"
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


def check_locations(source: Path, locations: Sequence[int], examples: Sequence[MaskedPaths]) -> None:
    """Raise ValueError for a location that no example has, or of which no image exists.

    The message names `source`, the table or folder of the examples, or the row.
    """
    for location in locations:
        named = [paths for paths in examples if paths.attributes["location"] == location]
        if not named:
            others = sorted({paths.attributes["location"] for paths in examples})
            raise ValueError(
                f"{source}: no row has location {location}; found {abbreviate(list(map(str, others)))}"
            )
        if not any(Path(paths.image).is_file() for paths in named):
            raise ValueError(
                f"{named[0].row}: all {len(named)} images of location {location} are missing; the first is "
                f"{named[0].image}"
            )
