"""Waterbirds (Sagawa et al., arXiv 1911.08731): birds on backgrounds that mostly go with them.

`waterbirds_v1.0` (WILDS) and `waterbird_complete95_forest2water2` are one layout: `metadata.csv`, and images
in folders of species. Masks come separately, beside the images.
"""

import dataclasses
from collections.abc import Sequence
from pathlib import Path
from typing import ClassVar, Literal

import tensorflow_datasets as tfds

from gap_jax.data.folder_dataset import FolderConfig
from gap_jax.data.inventory import Found, TableRow, read_table
from gap_jax.data.masked.dataset import MaskedDataset
from gap_jax.data.masked.read import MaskedPaths, check_classes, present, tally

CLASSES = ("landbird", "waterbird")  # by y
PLACES = ("land", "water")  # by place
SPLITS = ("train", "validation", "test")  # by split
GROUPS = tuple(f"{name} on {place}" for place in PLACES for name in CLASSES)  # by group, 2 · place + y
BIASED = (0, 3)  # groups whose place goes with the class
_COLUMNS = ("img_filename", "y", "split", "place")


@dataclasses.dataclass(frozen=True)
class WaterbirdsLayout:
    """The folder that holds `metadata.csv`, with `{stem}_mask.png` beside every `{stem}.jpg`."""

    training: Literal["biased", "all"] = "biased"  # the paper's subset, or all of the split `train`
    most_kept: float = 0.5  # masks that in the middle keep a larger share of their image look inverted
    about: ClassVar = ("place",)
    scaled: ClassVar = False

    def find(self, root: Path) -> Found:
        """The examples, with ids `{species}/{stem}`; raises as `Layout.find`."""
        table = root / "metadata.csv"
        rows: dict[str, list[MaskedPaths]] = {split: [] for split in SPLITS}
        for row in read_table(table, _COLUMNS):
            rows[SPLITS[_one_of(row, "split", SPLITS)]].append(_files(root, row))
        if self.training == "biased":
            rows["train"] = biased(rows["train"])
        splits, faults = {}, []
        for split, candidates in rows.items():
            splits[split], missing = present(candidates)
            faults += missing
        if not any(splits.values()) and any(fault.why == "has no mask" for fault in faults):
            raise ValueError(
                f"{root}: none of the images in {table} has a mask {{stem}}_mask.png beside it: masks come "
                "separately, docs/data.md says where from"
            )
        check_classes(table, splits["train"], CLASSES)
        splits = {split: examples for split, examples in splits.items() if examples}
        notes = [
            tally(split, (GROUPS[files.group] for files in examples)) for split, examples in splits.items()
        ]
        return Found(splits, faults, notes, CLASSES)


def biased(examples: Sequence[MaskedPaths], every: int = 4, per_species: int = 1000) -> list[MaskedPaths]:
    """The paper's training set: the groups whose place goes with the class, every fourth image of them.

    Species in alphabetical order, of each the first `per_species` in the order given, then every fourth of
    them all (ALIA, arXiv 2305.16289, which shuffles within a species).
    """
    species: dict[str, list[MaskedPaths]] = {}
    for files in examples:
        if files.group in BIASED:
            species.setdefault(files.id.rpartition("/")[0], []).append(files)
    return [files for name in sorted(species) for files in species[name][:per_species]][::every]


def _files(root: Path, row: TableRow) -> MaskedPaths:
    image = Path(row.cells["img_filename"])
    label, place = _one_of(row, "y", CLASSES), _one_of(row, "place", PLACES)
    stem = image.with_suffix("").as_posix()
    mask = f"{root / stem}_mask.png"
    return MaskedPaths(stem, str(root / image), mask, label, 2 * place + label, {"place": place}, row.place)


def _one_of(row: TableRow, column: str, names: Sequence[str]) -> int:
    number = row.number(column)
    if not 0 <= number < len(names):
        known = ", ".join(f"{i} ({name})" for i, name in enumerate(names))
        raise ValueError(f"{row.place}: {column} must be one of {known}, found {number}")
    return number


class Waterbirds(MaskedDataset):
    """Waterbirds of 384 pixels (as images are generated), splits `train`, `validation`, `test`."""

    VERSION = tfds.core.Version("1.0.0")
    MANUAL_DOWNLOAD_INSTRUCTIONS = """\
    metadata.csv, {species}/{stem}.jpg, {species}/{stem}_mask.png: see docs/data.md, and check them by
    `python -m gap_jax.data check waterbirds`.
    """
    BUILDER_CONFIGS: ClassVar = [FolderConfig(name="384", layout=WaterbirdsLayout(), size=384)]
