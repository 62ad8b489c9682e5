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
    leave_out,
    note_missing_masks,
    read_splits,
)
from gap_jax.data.inventory import Inventory
from gap_jax.data.reading.text import read_lines

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
    masks: Path | None = None
    """folder of the masks, which holds {building}_mask_valid; by default masks, if there is one: without
    masks, depth is valid where it is not 65535"""
    selection: Path | None = None
    """text file with a depth path on each line, to use only these images"""
    frame: ClassVar = None
    size: ClassVar = 384  # pixels of a side at which images are prepared by default

    def find(self, root: Path) -> Inventory:
        """List the examples, with ids `{building}/{point}/{view}`; raise the errors of `Layout.find`."""
        splits, excluded = leave_out(read_splits(root / self.splits), BUILDINGS_WITHOUT_MASKS)
        masks = root / (self.masks or "masks")
        if self.masks and not masks.is_dir():
            raise FileNotFoundError(f"{masks} is missing: it must hold {{building}}_mask_valid")

        def locate(building: str) -> Building:
            return Building(
                Domain(root / f"{building}_rgb" / "rgb", "rgb"),
                Domain(root / f"{building}_depth_zbuffer" / "depth_zbuffer", "depth_zbuffer"),
                Domain(masks / f"{building}_mask_valid", "depth_zbuffer") if masks.is_dir() else None,
            )

        selected = None if self.selection is None else read_selection(root / self.selection)
        return find_buildings(splits, locate, selected).noting(excluded, note_missing_masks(masks))

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
    for number, line in read_lines(path):
        match = _DEPTH_PATH.fullmatch(line.replace("\\", "/"))
        if not match:
            raise ValueError(
                f"{path}:{number} must be {{building}}_depth_zbuffer/depth_zbuffer/point_{{p}}_view_{{v}}"
                f"_domain_depth_zbuffer.png, below any folder; found {line!r}"
            )
        selected[match[1]]["/".join(match.groups())] = line
    return selected
