"""Waterbirds (Sagawa et al., arXiv 1911.08731): birds whose background mostly goes with their class.

`waterbirds_v1.0` (WILDS) and `waterbird_complete95_forest2water2` have the same layout: `metadata.csv`, and
images in a folder for each species. Masks are obtained separately and lie beside the images.
"""

import dataclasses
import os
from collections.abc import Sequence
from pathlib import Path
from typing import ClassVar, Literal

from gap_jax.data.inventory import Inventory
from gap_jax.data.masked.read import (
    MaskedPaths,
    format_counts,
    keep_existing,
    missing_classes,
    parse_rows,
)
from gap_jax.data.reading.listing import list_files
from gap_jax.data.reading.splits import hold_out
from gap_jax.data.reading.text import locate
from gap_jax.data.table import TableRow, read_rows
from gap_jax.ranges import Share

CLASSES = ("landbird", "waterbird")  # by the column y
PLACES = ("land", "water")  # by the column place
SPLITS = ("train", "validation", "test")  # by the column split
GROUPS = tuple(f"{name} on {place}" for place in PLACES for name in CLASSES)  # by group, 2 · place + y
BIASED_GROUPS = (0, 3)  # the groups whose place goes with their class
_COLUMNS = ("img_filename", "y", "split", "place")


@dataclasses.dataclass(frozen=True)
class WaterbirdsLayout:
    """Waterbirds: a folder with `metadata.csv`, and a mask `{stem}_mask.png` beside every `{stem}.jpg`."""

    training: Literal["biased", "all"] = "biased"
    """images of the split train: biased is the paper's subset, all is every image"""
    most_kept: Share = 0.5
    """largest median share of an image that masks may keep; masks that keep more look inverted"""
    attributes: ClassVar = ("place",)
    scaled_masks: ClassVar = False
    size: ClassVar = 384  # pixels of a side at which images are prepared by default

    def find(self, root: Path) -> Inventory:
        """List the examples, with ids `{species}/{stem}`; raise the errors of `Layout.find`."""
        table = root / "metadata.csv"
        rows, faults = read_rows(table, _COLUMNS)
        listed, invalid = parse_rows(rows, lambda row: (_index_of(row, "split", SPLITS), _paths(root, row)))
        faults += invalid
        candidates = {split: [paths for at, paths in listed if SPLITS[at] == split] for split in SPLITS}
        if self.training == "biased":
            candidates["train"] = biased_subset(candidates["train"])
        splits = {}
        for split in SPLITS:
            splits[split], missing = keep_existing(candidates[split])
            faults += missing
        problems = missing_classes(table, splits["train"], CLASSES)
        if not any(splits.values()):
            lack = "has its mask {stem}_mask.png beside it: masks are obtained separately, see docs/data.md"
            if all(fault.reason != "has no mask" for fault in faults):
                lack = "exists: file names are relative to the folder of the table"
            problems = [
                f"{root}: none of the images in {table} {lack}; "
                f"{list_files(root, ('.jpg', '.png')).describe()}"
            ]
        splits, repeated = hold_out({split: examples for split, examples in splits.items() if examples})
        notes = [
            format_counts(split, (GROUPS[paths.group] for paths in examples))
            for split, examples in splits.items()
        ]
        return Inventory(splits, [*faults, *repeated], notes, CLASSES, tuple(problems))


def biased_subset(
    examples: Sequence[MaskedPaths], every: int = 4, per_species: int = 1000
) -> list[MaskedPaths]:
    """Choose the paper's training set: every fourth image of the groups whose place goes with their class.

    The first `per_species` images of each species are joined in alphabetical order of the species, and every
    fourth of them is taken (ALIA, arXiv 2305.16289, which shuffles within a species).
    """
    by_species: dict[str, list[MaskedPaths]] = {}
    for paths in examples:
        if paths.group in BIASED_GROUPS:
            by_species.setdefault(paths.id.rpartition("/")[0], []).append(paths)
    return [paths for name in sorted(by_species) for paths in by_species[name][:per_species]][::every]


def _paths(root: Path, row: TableRow) -> MaskedPaths:
    image = locate(root, row.cells["img_filename"])
    label, place = _index_of(row, "y", CLASSES), _index_of(row, "place", PLACES)
    mask = image.with_name(f"{image.stem}_mask.png")
    name = Path(os.path.relpath(image, root)).with_suffix("").as_posix()
    return MaskedPaths(name, str(image), str(mask), label, 2 * place + label, {"place": place}, row.place)


def _index_of(row: TableRow, column: str, names: Sequence[str]) -> int:
    """Return a cell that is an index of `names`; raise a `Fault` of the line if it is not."""
    index = row.number(column)
    if not 0 <= index < len(names):
        allowed = ", ".join(f"{i} ({name})" for i, name in enumerate(names))
        raise row.fault(f"must have one of {allowed} as {column}, found {index}")
    return index
