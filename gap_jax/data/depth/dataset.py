"""TFDS data sets of images with depth: Taskonomy, Omnidata's starter set, and one's own."""

from typing import Any, ClassVar, get_args

import numpy as np
import tensorflow_datasets as tfds

from gap_jax.data.depth.folder import DepthFolderLayout
from gap_jax.data.depth.omnidata import Component, OmnidataLayout
from gap_jax.data.depth.read import DepthLayout, DepthPaths, read_depth_example
from gap_jax.data.depth.taskonomy import TaskonomyLayout
from gap_jax.data.encoding import png
from gap_jax.data.folder_dataset import FolderConfig, FolderDataset


class DepthDataset(FolderDataset, skip_registration=True):  # type: ignore[call-arg]
    """Images with depth as a TFDS data set; errors are those of `FolderDataset`.

    Features are `image`, `depth` (uint16, depth times 65535), `mask` (255 where depth is valid), `id`, and
    `file`, the image's path in the data set's folder.
    """

    def _features(self, size: int) -> dict[str, Any]:
        return {
            "image": tfds.features.Image(shape=(size, size, 3), encoding_format="png"),
            "depth": tfds.features.Image(shape=(size, size, 1), dtype=np.uint16, encoding_format="png"),
            "mask": tfds.features.Image(shape=(size, size, 1), encoding_format="png"),
        }

    def _example(self, paths: DepthPaths) -> dict[str, Any]:
        layout: DepthLayout = self.builder_config.layout
        example = read_depth_example(paths, layout.decode, self.builder_config.size, layout.frame)
        return {name: png(pixels) for name, pixels in example._asdict().items()}


class Taskonomy(DepthDataset):
    """Taskonomy in 256 pixels (for the U-Net) or 384 (for DPT); splits `train`, `validation`, `test`."""

    VERSION = tfds.core.Version("1.0.0")
    MANUAL_DOWNLOAD_INSTRUCTIONS = """\
    The folder must hold {building}_rgb/rgb, {building}_depth_zbuffer/depth_zbuffer, splits.csv and, if there
    are masks, masks/{building}_mask_valid. docs/data.md says where to get them; check them with
    `python -m gap_jax.data check taskonomy`.
    """
    BUILDER_CONFIGS: ClassVar = [
        FolderConfig(name=str(size), layout=TaskonomyLayout(), size=size) for size in (256, 384)
    ]


class Omnidata(DepthDataset):
    """A component in 256 or 384 pixels, such as `Omnidata(config="replica_256")`; one split, `train`."""

    VERSION = tfds.core.Version("1.0.0")
    MANUAL_DOWNLOAD_INSTRUCTIONS = """\
    The folder must hold rgb, depth_zbuffer and, if there are masks, mask_valid, each with
    {component}/{building}. docs/data.md says where to get them; check them with
    `python -m gap_jax.data check omnidata`.
    """
    BUILDER_CONFIGS: ClassVar = [
        FolderConfig(name=f"{component}_{size}", layout=OmnidataLayout(component), size=size)
        for component in get_args(Component)
        for size in (256, 384)
    ]


class DepthFolder(DepthDataset):
    """One's own images in 256 or 384 pixels; splits `train`, `validation`, `test`."""

    VERSION = tfds.core.Version("1.0.0")
    MANUAL_DOWNLOAD_INSTRUCTIONS = """\
    The folder must hold rgb, depth and optionally mask, or metadata.jsonl. docs/data.md describes them; check
    them with `python -m gap_jax.data check folder`.
    """
    BUILDER_CONFIGS: ClassVar = [
        FolderConfig(name=str(size), layout=DepthFolderLayout(), size=size) for size in (256, 384)
    ]
