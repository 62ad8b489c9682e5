"""iWildCam (Beery et al., arXiv 2105.03494): camera traps, in WILDS' folder `iwildcam_v2.0`, ALIA's subset.

Two cameras are for testing alone. Images are squeezed to squares, of which the paper's classifiers see rows
10 to 410 of 448: that is theirs to cut, not done here.
"""

import dataclasses
from collections.abc import Iterable, Sequence
from datetime import datetime
from pathlib import Path
from typing import ClassVar, Literal, NamedTuple

import tensorflow_datasets as tfds

from gap_jax.data.folder_dataset import FolderConfig
from gap_jax.data.inventory import Found, TableRow, read_table, some
from gap_jax.data.masked.dataset import MaskedDataset
from gap_jax.data.masked.read import MaskedPaths, check_classes, present, tally


class SubsetTable(NamedTuple):
    """A table of a split's images, and how many rows it has in ALIA's repository."""

    file: str
    rows: int


SUBSETS = {
    "train": SubsetTable("train_subset.csv", 6052),
    "train_extra": SubsetTable("train_extra_subset.csv", 2224),
    "validation": SubsetTable("val_subset.csv", 2826),
    "test": SubsetTable("test_subset.csv", 8483),
}
NAMES = {
    0: "background",
    24: "cattle",
    32: "elephants",
    36: "impalas",
    48: "zebras",
    49: "giraffes",
    52: "dik-diks",
}  # by y
CLASSES = tuple(NAMES.values())  # by label
TEST_LOCATIONS = (287, 288)
Time = Literal["day", "night"]
_COLUMNS = ("location_remapped", "y", "datetime", "filename", "image_id")


@dataclasses.dataclass(frozen=True)
class IWildCamLayout:
    """The folder that holds the four tables `*_subset.csv` and `train/{filename}`."""

    masks: Path = Path("instance_masks")  # holds {image_id}.png; nothing is kept of an image without one
    locations: tuple[int, ...] = ()  # only these cameras' images, by location_remapped; all if empty
    time: Time | None = None  # only images of 9-17 h, or of 20-5 h
    most_kept: float = 0.5  # masks that in the middle keep a larger share of their image look inverted
    about: ClassVar = ("location", "hour")
    scaled: ClassVar = True  # WILDS' images are made smaller, their masks are not

    def find(self, root: Path) -> Found:
        """The examples, with ids `{image_id}`, a group being a location; raises as `Layout.find`."""
        if not (root / self.masks).is_dir():
            raise FileNotFoundError(f"{root / self.masks} is missing: it should hold {{image_id}}.png")
        splits, timely, faults, notes = {}, {}, [], []
        for split, subset in SUBSETS.items():
            rows = read_table(root / subset.file, _COLUMNS)
            if len(rows) != subset.rows:
                notes.append(f"{subset.file} has {len(rows):,} rows, where the paper's has {subset.rows:,}")
            timely[split] = select([self._files(root, row) for row in rows], time=self.time)
            splits[split], missing = present(select(timely[split], self.locations))
            faults += missing
        everything = [files for candidates in timely.values() for files in candidates]
        if self.locations:
            check_locations(root, self.locations, everything)
        elif not self.time:
            check_locations(root / SUBSETS["test"].file, TEST_LOCATIONS, timely["test"])
            check_classes(root / SUBSETS["train"].file, splits["train"], CLASSES)
        if not any(splits.values()):
            raise ValueError(f"{root}: none of the {len(faults)} images chosen by {self} is there")
        splits = {split: examples for split, examples in splits.items() if examples}
        for split, examples in splits.items():
            masks = sum(files.mask is not None for files in examples)
            notes += [
                tally(split, (CLASSES[files.label] for files in examples)),
                f"{split}: {masks} of {len(examples)} have a mask, nothing is kept of the others",
            ]
        return Found(splits, faults, notes, CLASSES)

    def _files(self, root: Path, row: TableRow) -> MaskedPaths:
        number, location = row.cells["image_id"], row.number("location_remapped")
        if row.number("y") not in NAMES:
            known = ", ".join(f"{y} ({name})" for y, name in NAMES.items())
            raise ValueError(f"{row.place}: y must be one of {known}, found {row.cells['y']}")
        label = list(NAMES).index(row.number("y"))
        try:
            hour = datetime.fromisoformat(row.cells["datetime"]).hour
        except ValueError as error:
            raise ValueError(f"{row.place}: datetime {error}") from error
        image, mask = root / "train" / row.cells["filename"], root / self.masks / f"{number}.png"
        about = {"location": location, "hour": hour}
        found = str(mask) if mask.is_file() else None
        return MaskedPaths(number, str(image), found, label, location, about, row.place)


def time_of(hour: int) -> Time | None:
    """Day from 9 to 17 h, night from 20 to 5 h, each to the end of its last hour, or None of them."""
    if 9 <= hour <= 17:
        return "day"
    return "night" if hour >= 20 or hour <= 5 else None


def select(
    examples: Iterable[MaskedPaths], locations: Sequence[int] = (), time: Time | None = None
) -> list[MaskedPaths]:
    """Those of these locations, of all if empty, and of this time, of any if None."""
    return [
        files
        for files in examples
        if (not locations or files.about["location"] in locations)
        and (time is None or time_of(files.about["hour"]) == time)
    ]


def check_locations(where: Path, locations: Sequence[int], examples: Sequence[MaskedPaths]) -> None:
    """Raise ValueError, naming a table and row, for a location of which no image that is named is there."""
    for location in locations:
        named = [files for files in examples if files.about["location"] == location]
        if not named:
            others = sorted({files.about["location"] for files in examples})
            raise ValueError(
                f"{where}: no row is of location {location}, but of {some(list(map(str, others)))}"
            )
        if not any(Path(files.image).is_file() for files in named):
            raise ValueError(
                f"{named[0].row}: location {location} has no images: all {len(named)} are missing, the first "
                f"is {named[0].image}"
            )


class IWildCam(MaskedDataset):
    """iWildCam of 448 pixels (as classifiers cut it), splits `train`, `train_extra`, `validation`, `test`."""

    VERSION = tfds.core.Version("1.0.0")
    MANUAL_DOWNLOAD_INSTRUCTIONS = """\
    {train,train_extra,val,test}_subset.csv, train/{filename}, instance_masks/{image_id}.png: see
    docs/data.md, and check them by `python -m gap_jax.data check iwildcam`.
    """
    BUILDER_CONFIGS: ClassVar = [FolderConfig(name="448", layout=IWildCamLayout(), size=448)]
