"""Waterbirds (Sagawa et al., arXiv 1911.08731): birds whose background mostly goes with their class.

`waterbirds_v1.0` (WILDS) and `waterbird_complete95_forest2water2` have the same layout: `metadata.csv`, and
images in a folder for each species. Masks are obtained separately and lie beside the images.
"""

import dataclasses
from collections.abc import Sequence
from pathlib import Path
from typing import ClassVar, Literal

from gap_jax.data.inventory import Inventory
from gap_jax.data.masked.read import MaskedPaths, check_classes, format_counts, keep_existing
from gap_jax.data.table import TableRow, read_table

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
    most_kept: float = 0.5
    """largest median share of an image that masks may keep; masks that keep more look inverted"""
    attributes: ClassVar = ("place",)
    scaled_masks: ClassVar = False
    size: ClassVar = 384  # pixels of a side at which images are prepared by default

    def find(self, root: Path) -> Inventory:
        """List the examples, with ids `{species}/{stem}`; raise the errors of `Layout.find`."""
        table = root / "metadata.csv"
        candidates: dict[str, list[MaskedPaths]] = {split: [] for split in SPLITS}
        for row in read_table(table, _COLUMNS):
            candidates[SPLITS[_index_of(row, "split", SPLITS)]].append(_paths(root, row))
        if self.training == "biased":
            candidates["train"] = biased_subset(candidates["train"])
        splits, faults = {}, []
        for split in SPLITS:
            splits[split], missing = keep_existing(candidates[split])
            faults += missing
        if not any(splits.values()) and any(fault.reason == "has no mask" for fault in faults):
            raise ValueError(
                f"{root}: none of the images in {table} has its mask {{stem}}_mask.png beside it: masks are "
                "obtained separately, see docs/data.md"
            )
        check_classes(table, splits["train"], CLASSES)
        splits = {split: examples for split, examples in splits.items() if examples}
        notes = [
            format_counts(split, (GROUPS[paths.group] for paths in examples))
            for split, examples in splits.items()
        ]
        return Inventory(splits, faults, notes, CLASSES)


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
    image = Path(row.cells["img_filename"])
    label, place = _index_of(row, "y", CLASSES), _index_of(row, "place", PLACES)
    stem = image.with_suffix("").as_posix()
    mask = f"{root / stem}_mask.png"
    return MaskedPaths(stem, str(root / image), mask, label, 2 * place + label, {"place": place}, row.place)


def _index_of(row: TableRow, column: str, names: Sequence[str]) -> int:
    """Return a cell that is an index of `names`; raise ValueError naming the line if it is not."""
    index = row.number(column)
    if not 0 <= index < len(names):
        allowed = ", ".join(f"{i} ({name})" for i, name in enumerate(names))
        raise ValueError(f"{row.place}: {column} must be one of {allowed}, found {index}")
    return index
