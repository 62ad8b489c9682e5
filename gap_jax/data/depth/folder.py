"""One's own images with depth: the folders `rgb`, `depth` and optionally `mask`, or an image folder."""

import dataclasses
from pathlib import Path
from typing import ClassVar, NamedTuple

import numpy as np

from gap_jax.data import image_folder
from gap_jax.data.depth.read import decode_distance, match_files
from gap_jax.data.files import IMAGE_SUFFIXES, Fault
from gap_jax.data.inventory import Inventory, abbreviate
from gap_jax.data.reading.listing import Listing, list_files
from gap_jax.data.reading.splits import SplitFolder, find_splits
from gap_jax.data.reading.text import locate
from gap_jax.ranges import Positive

DEPTH_SUFFIXES = (".png", ".npy")
MASK_SUFFIXES = (".png",)


@dataclasses.dataclass(frozen=True)
class DepthFolderLayout(SplitFolder):
    """Your own images with depth: a folder with `rgb`, `depth` and optionally `mask`, or one for each split.

    Files with the same name form an example. Images are PNG, JPEG or WebP files; depth is 16-bit PNG or NPY
    files; masks are PNG files, 0 where depth is not valid. If there is a `metadata.jsonl`, its `file_name`,
    `depth_file_name` and `mask_file_name` name an example's files instead. Depth that is 0, negative or not
    finite is not valid.
    """

    far: Positive | None = None
    """value in a depth file at which depth is 1; by default 65535 for integers and 1 for floats"""
    frame: ClassVar = None
    size: ClassVar = 384  # pixels of a side at which images are prepared by default

    def find(self, root: Path) -> Inventory:
        """List the examples, with the images' names as ids.

        A folder without an example has that as its problem. Raises the errors of `find_splits` and of
        `Layout.find`.
        """
        return find_splits(self, root, self.find_folder)

    def find_folder(self, root: Path, split: str = "train") -> Inventory:
        """List the examples of a folder without splits, all in the split of this name."""
        metadata = root / image_folder.METADATA
        files = _find_by_metadata(metadata) if metadata.is_file() else _find_by_name(root)
        examples, unmatched = match_files(files.images, files.depths, files.masks)
        problems = [] if examples else [f"{root}: no image has its depth{_and_mask(files)}; {files.found}"]
        return Inventory(
            {split: examples}, [*files.faults, *unmatched], files.notes, problems=tuple(problems)
        )

    def decode(self, raw: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Decode distances as `decode_distance` does."""
        return decode_distance(raw, self.far)


class _Files(NamedTuple):
    """Paths of images, depth and masks by the names of examples; `found` says where and what they are."""

    images: dict[str, str]
    depths: dict[str, str]
    masks: dict[str, str] | None
    faults: list[Fault]
    notes: list[str]
    found: str


def _and_mask(files: _Files) -> str:
    return "" if files.masks is None else " and its mask"


def _find_by_name(root: Path) -> _Files:
    """Return the files of the folders rgb, depth and mask by their names without suffix."""
    for name in ("rgb", "depth"):
        if not (root / name).is_dir():
            raise FileNotFoundError(
                f"{root / name} is missing: {root} must hold the folders rgb and depth, and optionally mask"
            )
    wanted = {"rgb": IMAGE_SUFFIXES, "depth": DEPTH_SUFFIXES, "mask": MASK_SUFFIXES}
    listings = [
        list_files(root / name, suffixes) for name, suffixes in wanted.items() if (root / name).is_dir()
    ]
    faults: list[Fault] = []
    images, depths, *masks = (_by_stem(listing, faults) for listing in listings)
    notes = [note for listing in listings for note in listing.notes()]
    if masks and (unused := sorted(masks[0].keys() - images.keys())):
        notes.append(f"{len(unused)} masks belong to no image: {abbreviate(unused)}")
    found = "; ".join(listing.describe() for listing in listings)
    return _Files(images, depths, masks[0] if masks else None, faults, notes, found)


def _by_stem(listing: Listing, faults: list[Fault]) -> dict[str, str]:
    """Return paths by name without suffix, and add a fault for each further file of the same name."""
    paths: dict[str, str] = {}
    for name, path in listing.files.items():
        stem = Path(name).with_suffix("").as_posix()
        if stem in paths:
            faults.append(Fault(path, "has the same name as another file"))
        else:
            paths[stem] = str(path)
    return paths


def _find_by_metadata(metadata: Path) -> _Files:
    """Return the existing files that metadata.jsonl names by their images' `file_name`."""
    described = image_folder.read_metadata(metadata, ("file_name", "depth_file_name"))
    lines: dict[str, dict] = {}
    faults = described.faults
    for line in described.lines:
        image = locate(metadata.parent, line["file_name"])
        if line["file_name"] in lines:
            faults.append(Fault(image, "has another line in metadata.jsonl"))
        elif not image.is_file():
            faults.append(Fault(image, "is missing, but has a line in metadata.jsonl"))
        else:
            lines[line["file_name"]] = line

    def existing(key: str) -> dict[str, str]:
        paths = {name: locate(metadata.parent, line[key]) for name, line in lines.items() if key in line}
        return {name: str(path) for name, path in paths.items() if path.is_file()}

    has_masks = any("mask_file_name" in line for line in lines.values())
    return _Files(
        existing("file_name"),
        existing("depth_file_name"),
        existing("mask_file_name") if has_masks else None,
        faults,
        described.notes,
        f"{metadata} names {len(described.lines)} images, {len(lines)} of which exist",
    )
