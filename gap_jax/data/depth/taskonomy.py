"""Taskonomy (Zamir et al., arXiv 1804.08328), photographs of buildings, as it was first released."""

import dataclasses
import re
from collections import defaultdict
from pathlib import Path
from typing import ClassVar

import numpy as np

from gap_jax.data.depth.taskonomy_layout import (
    Building,
    Domain,
    decode_zbuffer,
    find_buildings,
    read_splits,
)
from gap_jax.data.inventory import Inventory

FAR = 8000  # the raw value, in 1/512 m, at which depth is 1: 15.6 m
BUILDINGS_WITHOUT_MASKS = ("darnestown", "tomkins")
_DEPTH_PATH = re.compile(
    r"(?:.*/)?(.+)_depth_zbuffer/depth_zbuffer/point_(\d+)_view_(\d+)_domain_depth_zbuffer\.png"
)


@dataclasses.dataclass(frozen=True)
class TaskonomyLayout:
    """Taskonomy: a folder with `{building}_rgb` and `{building}_depth_zbuffer`.

    The paths of `--splits`, `--masks` and `--selection` are relative to `--root`.
    """

    splits: Path = Path("splits.csv")
    """CSV file that assigns buildings to splits, with the columns id,train,val,test"""
    masks: Path = Path("masks")
    """folder of the masks, which holds {building}_mask_valid"""
    selection: Path | None = None
    """text file with a depth path on each line, to use only these images"""
    frame: ClassVar = None
    size: ClassVar = 384  # pixels of a side at which images are prepared by default

    def find(self, root: Path) -> Inventory:
        """List the examples, with ids `{building}/{point}/{view}`; raise the errors of `Layout.find`."""
        splits = {
            split: [building for building in buildings if building not in BUILDINGS_WITHOUT_MASKS]
            for split, buildings in read_splits(root / self.splits).items()
        }

        def locate(building: str) -> Building:
            return Building(
                Domain(root / f"{building}_rgb" / "rgb", "rgb"),
                Domain(root / f"{building}_depth_zbuffer" / "depth_zbuffer", "depth_zbuffer"),
                Domain(root / self.masks / f"{building}_mask_valid", "depth_zbuffer"),
            )

        selected = None if self.selection is None else read_selection(root / self.selection)
        return find_buildings(splits, locate, selected)

    def decode(self, raw: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Decode depth: raw / 8000, at most 1; it is valid except at 65535."""
        return decode_zbuffer(raw, FAR)


def read_selection(path: Path) -> dict[str, dict[str, str]]:
    """Read depth paths by building and id from a file with a path on each line, below any folder.

    Raises FileNotFoundError if the file is missing, ValueError naming the line that is no such path.
    """
    if not path.is_file():
        raise FileNotFoundError(f"{path} is missing: it must list the depth paths of the selected images")
    selected: dict[str, dict[str, str]] = defaultdict(dict)
    for number, line in enumerate(path.read_text(encoding="utf-8").splitlines(), 1):
        if line.strip():
            match = _DEPTH_PATH.fullmatch(line.strip())
            if not match:
                raise ValueError(
                    f"{path}:{number} must be {{building}}_depth_zbuffer/depth_zbuffer/point_{{p}}_view_{{v}}"
                    f"_domain_depth_zbuffer.png, below any folder; found {line!r}"
                )
            selected[match[1]]["/".join(match.groups())] = line.strip()
    return selected
