"""Omnidata's starter set (Eftekhar et al., arXiv 2110.04994): images of one component, by building."""

import dataclasses
from pathlib import Path
from typing import ClassVar, Literal, get_args

import numpy as np
import tensorflow_datasets as tfds

from gap_jax.data.depth.dataset import DepthDataset
from gap_jax.data.depth.taskonomy_layout import Building, Domain, decode, find_buildings, read_splits
from gap_jax.data.folder_dataset import FolderConfig
from gap_jax.data.inventory import Found

Component = Literal["replica", "replica_gso", "hypersim", "blended_mvg", "taskonomy"]
FRAMES = {"hypersim": (512, 384), "blended_mvg": (512, 384)}  # images and masks differ in size


@dataclasses.dataclass(frozen=True)
class OmnidataLayout:
    """One component, in the folder that holds `rgb`, `depth_zbuffer` and `mask_valid`."""

    component: Component = "replica"
    splits: Path | None = None  # buildings, columns id,train,val,test; without it, all are `train`
    far: float = 65535  # of 1/512 m, what depth 1 is: 128 m; 8000 is Taskonomy's scale

    def __post_init__(self):
        if not self.far > 0:
            raise ValueError(f"far, in 1/512 m, must be positive, found {self.far}")

    @property
    def frame(self) -> tuple[int, int] | None:
        """Width and height that all of an example is resized to."""
        return FRAMES.get(self.component)

    def find(self, root: Path) -> Found:
        """The examples, with ids `{building}/{point}/{view}`; raises as `Layout.find`."""

        def where(building: str) -> Building:
            names = ("rgb", "depth_zbuffer", "mask_valid")
            return Building(*(Domain(root / name / self.component / building, name) for name in names))

        if self.splits is not None:
            return find_buildings(read_splits(root / self.splits), where)
        folder = root / "rgb" / self.component
        if not folder.is_dir():
            raise FileNotFoundError(f"{folder} is missing: it should hold {self.component}'s buildings")
        buildings = sorted(path.name for path in folder.iterdir() if path.is_dir())
        return find_buildings({"train": buildings}, where)

    def decode(self, raw: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Raw / far, clipped; 65535 is invalid."""
        return decode(raw, self.far)


class Omnidata(DepthDataset):
    """A component of 256 or 384 pixels, e.g. `Omnidata(config="replica_256")`; its only split is `train`."""

    VERSION = tfds.core.Version("1.0.0")
    MANUAL_DOWNLOAD_INSTRUCTIONS = """\
    rgb, depth_zbuffer and mask_valid, each with {component}/{building}: see docs/data.md, and check them by
    `python -m gap_jax.data check omnidata`.
    """
    BUILDER_CONFIGS: ClassVar = [
        FolderConfig(name=f"{component}_{size}", layout=OmnidataLayout(component), size=size)
        for component in get_args(Component)
        for size in (256, 384)
    ]
