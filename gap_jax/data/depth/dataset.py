"""Images with depth as a TFDS data set: checked, resized and written once, then read through Grain."""

from typing import Any

import numpy as np
import tensorflow_datasets as tfds

from gap_jax.data.depth.read import DepthPaths, read
from gap_jax.data.encoding import png
from gap_jax.data.folder_dataset import FolderDataset


class DepthDataset(FolderDataset, skip_registration=True):
    """Features: `image`, `depth` (uint16, depth · 65535), `mask` (255 = valid), `id`, `file`.

    `file` is the image's path in the manual folder. Faults and errors are `FolderDataset`'s.
    """

    def _features(self, size: int) -> dict[str, Any]:
        return {
            "image": tfds.features.Image(shape=(size, size, 3), encoding_format="png"),
            "depth": tfds.features.Image(shape=(size, size, 1), dtype=np.uint16, encoding_format="png"),
            "mask": tfds.features.Image(shape=(size, size, 1), encoding_format="png"),
        }

    def _example(self, files: DepthPaths) -> dict[str, Any]:
        config = self.builder_config
        parts = read(files, config.layout.decode, config.size, config.layout.frame)
        return {name: png(pixels) for name, pixels in parts._asdict().items()}
