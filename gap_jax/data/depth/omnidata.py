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
    leave_out,
    note_missing_masks,
    read_splits,
)
from gap_jax.data.inventory import Inventory
from gap_jax.data.reading.listing import list_folders
from gap_jax.ranges import Positive, check_ranges

Component = Literal["replica", "replica_gso", "hypersim", "blended_mvg", "taskonomy"]
# Omnidata's own loader leaves these out: without images, or with wrong viewpoints (`forbidden_buildings` in
# its `component_datasets/taskonomy/__init__.py`)
EXCLUDED = {"taskonomy": ("brinnon", "darnestown", "mosquito", "rough", "tansboro", "tomkins")}
FRAMES = {"hypersim": (512, 384), "blended_mvg": (512, 384)}  # where images and masks differ in size


@dataclasses.dataclass(frozen=True)
class OmnidataLayout:
    """A component of Omnidata's starter set: a folder with `rgb`, `depth_zbuffer` and `mask_valid`.

    Without `mask_valid`, depth is valid where it is not 65535. The path of `--splits` is relative to
    `--root`.
    """

    component: Component = "replica"
    """component of the starter set"""
    splits: Path | None = None
    """CSV file with the columns id,train,val,test; without it, all images are in train"""
    far: Positive = 65535
    """depth, in units of 1/512 m, that becomes 1: 65535 (128 m) is Omnidata's scale, 8000 Taskonomy's"""
    size: ClassVar = 384  # pixels of a side at which images are prepared by default

    def __post_init__(self) -> None:
        check_ranges(self)

    @property
    def frame(self) -> tuple[int, int] | None:
        """Return the width and height that all files stand for; None if they are equally large."""
        return FRAMES.get(self.component)

    def find(self, root: Path) -> Inventory:
        """List the examples, with ids `{building}/{point}/{view}`; raise the errors of `Layout.find`."""

        folder, masks = root / "rgb" / self.component, root / "mask_valid" / self.component

        def locate(building: str) -> Building:
            image, depth, mask = (
                Domain(root / name / self.component / building, name)
                for name in ("rgb", "depth_zbuffer", "mask_valid")
            )
            return Building(image, depth, mask if masks.is_dir() else None)

        if self.splits is not None:
            splits = read_splits(root / self.splits)
        elif folder.is_dir():
            splits = {"train": list_folders(folder)}
        else:
            raise FileNotFoundError(f"{folder} is missing: it must hold the buildings of {self.component}")
        splits, excluded = leave_out(splits, EXCLUDED.get(self.component, ()))
        return find_buildings(splits, locate).noting(excluded, note_missing_masks(masks))

    def decode(self, raw: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Decode depth: raw / `far`, at most 1; it is valid except at 65535."""
        return decode_zbuffer(raw, self.far)
