"""Taskonomy (Zamir et al., arXiv 1804.08328) in its original release's layout: photographs of buildings."""

import dataclasses
import re
from collections import defaultdict
from pathlib import Path
from typing import ClassVar

import numpy as np
import tensorflow_datasets as tfds

from gap_jax.data.depth.dataset import DepthDataset
from gap_jax.data.depth.taskonomy_layout import Building, Domain, decode, find_buildings, read_splits
from gap_jax.data.folder_dataset import FolderConfig
from gap_jax.data.inventory import Found

RAW_AT_1 = 8000  # of 1/512 m: depth 1 is 15.6 m
WITHOUT_MASKS = ("darnestown", "tomkins")
_DEPTH_PATH = re.compile(
    r"(?:.*/)?(.+)_depth_zbuffer/depth_zbuffer/point_(\d+)_view_(\d+)_domain_depth_zbuffer\.png"
)


@dataclasses.dataclass(frozen=True)
class TaskonomyLayout:
    """What lies where, relative to the folder that holds `{building}_rgb` and `{building}_depth_zbuffer`."""

    splits: Path = Path("splits.csv")  # buildings, columns id,train,val,test
    masks: Path = Path("masks")  # holds {building}_mask_valid
    selection: Path | None = None  # lines of depth paths: only these images
    frame: ClassVar = None

    def find(self, root: Path) -> Found:
        """The examples, with ids `{building}/{point}/{view}`; raises as `Layout.find`."""
        splits = {
            split: [building for building in buildings if building not in WITHOUT_MASKS]
            for split, buildings in read_splits(root / self.splits).items()
        }

        def where(building: str) -> Building:
            return Building(
                Domain(root / f"{building}_rgb" / "rgb", "rgb"),
                Domain(root / f"{building}_depth_zbuffer" / "depth_zbuffer", "depth_zbuffer"),
                Domain(root / self.masks / f"{building}_mask_valid", "depth_zbuffer"),
            )

        selected = None if self.selection is None else read_selection(root / self.selection)
        return find_buildings(splits, where, selected)

    def decode(self, raw: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Raw / 8000, clipped; 65535 is invalid."""
        return decode(raw, RAW_AT_1)


def read_selection(path: Path) -> dict[str, dict[str, str]]:
    """Depth paths by building and id, from a file with one on each line, below whatever folder.

    Raises FileNotFoundError, and ValueError naming the line that is no such path.
    """
    if not path.is_file():
        raise FileNotFoundError(f"{path} is missing: a list of depth paths that selects images")
    selected: dict[str, dict[str, str]] = defaultdict(dict)
    for number, line in enumerate(path.read_text(encoding="utf-8").splitlines(), 1):
        if line.strip():
            parts = _DEPTH_PATH.fullmatch(line.strip())
            if not parts:
                raise ValueError(
                    f"{path}:{number} must be {{building}}_depth_zbuffer/depth_zbuffer/point_{{p}}_view_{{v}}"
                    f"_domain_depth_zbuffer.png, below any folder, found {line!r}"
                )
            selected[parts[1]]["/".join(parts.groups())] = line.strip()
    return selected


class Taskonomy(DepthDataset):
    """Taskonomy of 256 pixels (for the U-Net) or 384 (DPT), splits `train`, `validation`, `test`."""

    VERSION = tfds.core.Version("1.0.0")
    MANUAL_DOWNLOAD_INSTRUCTIONS = """\
    {building}_rgb/rgb, {building}_depth_zbuffer/depth_zbuffer, masks/{building}_mask_valid, splits.csv:
    see docs/data.md, and check them by `python -m gap_jax.data check taskonomy`.
    """
    BUILDER_CONFIGS: ClassVar = [
        FolderConfig(name=str(size), layout=TaskonomyLayout(), size=size) for size in (256, 384)
    ]
