"""Omnidata's starter set (Eftekhar et al., arXiv 2110.04994): the images of one component, by building."""

import dataclasses
from pathlib import Path
from typing import ClassVar, Literal

import numpy as np

from gap_jax.data.depth.taskonomy_layout import (
    Building,
    Domain,
    decode_zbuffer,
    find_buildings,
    read_splits,
)
from gap_jax.data.inventory import Inventory

Component = Literal["replica", "replica_gso", "hypersim", "blended_mvg", "taskonomy"]
FRAMES = {"hypersim": (512, 384), "blended_mvg": (512, 384)}  # where images and masks differ in size


@dataclasses.dataclass(frozen=True)
class OmnidataLayout:
    """A component of Omnidata's starter set: a folder with `rgb`, `depth_zbuffer` and `mask_valid`.

    The path of `--splits` is relative to `--root`.
    """

    component: Component = "replica"
    """component of the starter set"""
    splits: Path | None = None
    """CSV file with the columns id,train,val,test; without it, all images are in train"""
    far: float = 65535
    """depth, in units of 1/512 m, that becomes 1: 65535 (128 m) is Omnidata's scale, 8000 Taskonomy's"""
    size: ClassVar = 384  # pixels of a side at which images are prepared by default

    def __post_init__(self):
        if not self.far > 0:
            raise ValueError(f"far, the depth in 1/512 m that becomes 1, must be positive, found {self.far}")

    @property
    def frame(self) -> tuple[int, int] | None:
        """Return the width and height that all files stand for; None if they are equally large."""
        return FRAMES.get(self.component)

    def find(self, root: Path) -> Inventory:
        """List the examples, with ids `{building}/{point}/{view}`; raise the errors of `Layout.find`."""

        def locate(building: str) -> Building:
            names = ("rgb", "depth_zbuffer", "mask_valid")
            return Building(*(Domain(root / name / self.component / building, name) for name in names))

        if self.splits is not None:
            return find_buildings(read_splits(root / self.splits), locate)
        folder = root / "rgb" / self.component
        if not folder.is_dir():
            raise FileNotFoundError(f"{folder} is missing: it must hold the buildings of {self.component}")
        buildings = sorted(path.name for path in folder.iterdir() if path.is_dir())
        return find_buildings({"train": buildings}, locate)

    def decode(self, raw: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Decode depth: raw / `far`, at most 1; it is valid except at 65535."""
        return decode_zbuffer(raw, self.far)
