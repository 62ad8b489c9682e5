"""One's own images with class maps: the folders `rgb` and `classes`."""

import dataclasses
from pathlib import Path
from typing import ClassVar

from gap_jax.data.files import IMAGE_SUFFIXES, Fault
from gap_jax.data.inventory import Inventory, abbreviate
from gap_jax.data.reading.listing import list_files
from gap_jax.data.reading.splits import SplitFolder, find_splits
from gap_jax.data.segmented.read import SegmentedPaths
from gap_jax.ranges import CountOrZero

CLASS_SUFFIXES = (".png",)


@dataclasses.dataclass(frozen=True)
class SegmentedFolderLayout(SplitFolder):
    """Your own images with class maps: a folder with `rgb` and `classes`, or one such folder for each split.

    Files with the same name form an example. Images are PNG, JPEG or WebP files. A class map is a PNG file as
    large as its image, whose pixels are the numbers of classes: grey values of 8 or 16 bits, or the indices
    of a palette.
    """

    first: CountOrZero = 0
    """number of the first class in the files, which becomes class 0; 1 for ADE20K, where 0 is no class"""
    unlabelled: CountOrZero = 255
    """number of pixels that have no class; numbers below the first class have none, either"""
    size: ClassVar = 512  # pixels of a side at which images are prepared by default

    def find(self, root: Path) -> Inventory:
        """List the examples, with their names below `rgb` as ids.

        A folder without an example has that as its problem. Raises the errors of `find_splits` and of
        `Layout.find`.
        """
        return find_splits(self, root, _find_folder)


def _find_folder(root: Path, split: str) -> Inventory:
    """List the examples of a folder without splits, all in the split of this name."""
    for name in ("rgb", "classes"):
        if not (root / name).is_dir():
            raise FileNotFoundError(f"{root / name} is missing: {root} must hold the folders rgb and classes")
    images, maps = list_files(root / "rgb", IMAGE_SUFFIXES), list_files(root / "classes", CLASS_SUFFIXES)
    map_of = {_stem(name): path for name, path in maps.files.items()}
    examples: dict[str, SegmentedPaths] = {}
    faults = []
    for name, path in images.files.items():
        stem = _stem(name)
        if stem in examples:
            faults.append(Fault(path, "has the same name as another file"))
        elif stem in map_of:
            examples[stem] = SegmentedPaths(stem, str(path), str(map_of[stem]))
        else:
            faults.append(Fault(path, "has no class map"))
    notes = [*images.notes(), *maps.notes()]
    if unused := sorted(map_of.keys() - {_stem(name) for name in images.files}):
        notes.append(f"{len(unused)} class maps belong to no image: {abbreviate(unused)}")
    problem = f"{root}: no image has its class map; {images.describe()}, and {maps.describe()}"
    problems = () if examples else (problem,)
    return Inventory({split: list(examples.values())}, faults, notes, problems=problems)


def _stem(name: str) -> str:
    return Path(name).with_suffix("").as_posix()
