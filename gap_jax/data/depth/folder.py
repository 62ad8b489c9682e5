"""Images of one's own with depth: folders `rgb`, `depth` and perhaps `mask`, or those of an image folder."""

import dataclasses
import os
from pathlib import Path
from typing import ClassVar

import numpy as np
import tensorflow_datasets as tfds

from gap_jax.data import image_folder
from gap_jax.data.depth.dataset import DepthDataset
from gap_jax.data.depth.read import decode_distance, match
from gap_jax.data.folder_dataset import FolderConfig
from gap_jax.data.inventory import Found

IMAGES = (".png", ".jpg", ".jpeg", ".webp")
DEPTHS = (".png", ".npy")
MASKS = (".png",)


@dataclasses.dataclass(frozen=True)
class DepthFolderLayout:
    """A folder with `rgb`, `depth` and perhaps `mask`, files of one name being one example.

    Images are PNG, JPEG or WebP; depth is 16-bit PNG or NPY; masks are PNG, 0 where depth is not valid. If
    there is a `metadata.jsonl`, its `file_name`, `depth_file_name` and `mask_file_name` say what belongs
    together. Depth that is 0, negative or not finite is not valid.
    """

    far: float | None = None  # what a file holds where depth is 1; without it 65535, for floats 1
    frame: ClassVar = None

    def __post_init__(self):
        if self.far is not None and not self.far > 0:
            raise ValueError(f"far, what a file holds where depth is 1, must be positive, found {self.far}")

    def find(self, root: Path) -> Found:
        """The examples, all in `train`, with ids that are images' names; raises as `Layout.find`."""
        metadata = root / image_folder.FILE
        images, depths, masks = _named(metadata) if metadata.is_file() else _alike(root)
        examples, faults = match(images, depths, masks)
        if not examples:
            raise ValueError(
                f"{root}: none of {len(images)} images goes together with one of {len(depths)} depth maps"
            )
        return Found({"train": examples}, faults, [])

    def decode(self, raw: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """As `rgbd.decode_distance`."""
        return decode_distance(raw, self.far)


def _alike(root: Path) -> tuple[dict[str, str], dict[str, str], dict[str, str] | None]:
    """Images, depth and masks by their paths without suffix."""
    for name in ("rgb", "depth"):
        if not (root / name).is_dir():
            raise FileNotFoundError(
                f"{root / name} is missing: {root} should hold rgb and depth, perhaps mask"
            )
    mask = root / "mask"
    return (
        _tree(root / "rgb", IMAGES),
        _tree(root / "depth", DEPTHS),
        _tree(mask, MASKS) if mask.is_dir() else None,
    )


def _tree(folder: Path, suffixes: tuple[str, ...]) -> dict[str, str]:
    paths: dict[str, str] = {}
    for parent, _, names in os.walk(folder):
        for name in names:
            path = Path(parent, name)
            if path.suffix.lower() in suffixes:
                number = path.relative_to(folder).with_suffix("").as_posix()
                if number in paths:
                    raise ValueError(f"{path} and {paths[number]} have one name: keep one of them")
                paths[number] = str(path)
    return paths


def _named(metadata: Path) -> tuple[dict[str, str], dict[str, str], dict[str, str] | None]:
    """Images, depth and masks that are there, by `file_name`."""
    lines = image_folder.read_lines(metadata, ("file_name", "depth_file_name"))

    def paths(key: str) -> dict[str, str]:
        named = {line["file_name"]: metadata.parent / line[key] for line in lines if key in line}
        return {name: str(path) for name, path in named.items() if path.is_file()}

    masked = any("mask_file_name" in line for line in lines)
    return paths("file_name"), paths("depth_file_name"), paths("mask_file_name") if masked else None


class DepthFolder(DepthDataset):
    """Images of one's own, of 256 or 384 pixels; the only split is `train`."""

    VERSION = tfds.core.Version("1.0.0")
    MANUAL_DOWNLOAD_INSTRUCTIONS = """\
    rgb, depth and perhaps mask, or metadata.jsonl: see docs/data.md, and check them by
    `python -m gap_jax.data check folder`.
    """
    BUILDER_CONFIGS: ClassVar = [
        FolderConfig(name=str(size), layout=DepthFolderLayout(), size=size) for size in (256, 384)
    ]
