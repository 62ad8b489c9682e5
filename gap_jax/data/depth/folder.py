"""One's own images with depth: the folders `rgb`, `depth` and optionally `mask`, or an image folder."""

import dataclasses
import os
from pathlib import Path
from typing import ClassVar

import numpy as np

from gap_jax.data import image_folder
from gap_jax.data.depth.read import decode_distance, match_files
from gap_jax.data.files import IMAGE_SUFFIXES
from gap_jax.data.inventory import Inventory

DEPTH_SUFFIXES = (".png", ".npy")
MASK_SUFFIXES = (".png",)


@dataclasses.dataclass(frozen=True)
class DepthFolderLayout:
    """Your own images with depth: a folder with `rgb`, `depth` and optionally `mask`.

    Files with the same name form an example. Images are PNG, JPEG or WebP files; depth is 16-bit PNG or NPY
    files; masks are PNG files, 0 where depth is not valid. If there is a `metadata.jsonl`, its `file_name`,
    `depth_file_name` and `mask_file_name` name an example's files instead. Depth that is 0, negative or not
    finite is not valid.
    """

    far: float | None = None
    """value in a depth file at which depth is 1; by default 65535 for integers and 1 for floats"""
    frame: ClassVar = None
    size: ClassVar = 384  # pixels of a side at which images are prepared by default

    def __post_init__(self):
        if self.far is not None and not self.far > 0:
            raise ValueError(f"far, the value at which depth is 1, must be positive, found {self.far}")

    def find(self, root: Path) -> Inventory:
        """List the examples, all in the split `train`, with the images' names as ids.

        Raises the errors of `Layout.find`.
        """
        metadata = root / image_folder.METADATA
        images, depths, masks = _find_by_metadata(metadata) if metadata.is_file() else _find_by_name(root)
        examples, faults = match_files(images, depths, masks)
        if not examples:
            raise ValueError(
                f"{root} has {len(images)} images and {len(depths)} depth maps, but no image and depth map "
                "have the same name"
            )
        return Inventory({"train": examples}, faults, [])

    def decode(self, raw: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Decode distances as `decode_distance` does."""
        return decode_distance(raw, self.far)


def _find_by_name(root: Path) -> tuple[dict[str, str], dict[str, str], dict[str, str] | None]:
    """Return the paths of images, depth and masks by their names without suffix."""
    for name in ("rgb", "depth"):
        if not (root / name).is_dir():
            raise FileNotFoundError(
                f"{root / name} is missing: {root} must hold the folders rgb and depth, and optionally mask"
            )
    mask = root / "mask"
    return (
        _find_files(root / "rgb", IMAGE_SUFFIXES),
        _find_files(root / "depth", DEPTH_SUFFIXES),
        _find_files(mask, MASK_SUFFIXES) if mask.is_dir() else None,
    )


def _find_files(folder: Path, suffixes: tuple[str, ...]) -> dict[str, str]:
    paths: dict[str, str] = {}
    for parent, _, file_names in os.walk(folder):
        for file_name in file_names:
            path = Path(parent, file_name)
            if path.suffix.lower() in suffixes:
                name = path.relative_to(folder).with_suffix("").as_posix()
                if name in paths:
                    raise ValueError(f"{path} and {paths[name]} have the same name: remove one of them")
                paths[name] = str(path)
    return paths


def _find_by_metadata(metadata: Path) -> tuple[dict[str, str], dict[str, str], dict[str, str] | None]:
    """Return the existing paths of images, depth and masks by their images' `file_name`."""
    lines = image_folder.read_metadata(metadata, ("file_name", "depth_file_name"))

    def existing(key: str) -> dict[str, str]:
        paths = {line["file_name"]: metadata.parent / line[key] for line in lines if key in line}
        return {name: str(path) for name, path in paths.items() if path.is_file()}

    has_masks = any("mask_file_name" in line for line in lines)
    return (
        existing("file_name"),
        existing("depth_file_name"),
        existing("mask_file_name") if has_masks else None,
    )
