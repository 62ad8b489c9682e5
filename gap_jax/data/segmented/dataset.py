"""The TFDS data set of one's own images with class maps."""

from typing import Any, ClassVar

import numpy as np
import tensorflow_datasets as tfds

from gap_jax.data.encoding import png
from gap_jax.data.folder_dataset import FolderConfig, FolderDataset
from gap_jax.data.segmented.folder import SegmentedFolderLayout
from gap_jax.data.segmented.read import UNLABELLED, SegmentedPaths, read_segmented_example


class SegmentedFolder(FolderDataset, skip_registration=True):  # type: ignore[call-arg]
    """One's own images with class maps in 512 pixels; errors are those of `FolderDataset`.

    Features are `image`; `classes`, int32 `[S,S,1]`, numbers from 0, and 255 where there is none;
    `largest_class`, the largest of them; `id`; and `file`, the image's path in the data set's folder.
    """

    VERSION = tfds.core.Version("1.0.0")
    MANUAL_DOWNLOAD_INSTRUCTIONS = """\
    The folder must hold rgb and classes, or train, validation and test with these. docs/data.md describes
    them; check them with `python -m gap_jax.data check segmented-folder`.
    """
    BUILDER_CONFIGS: ClassVar = [FolderConfig(name="512", layout=SegmentedFolderLayout(), size=512)]

    def _features(self, size: int) -> dict[str, Any]:
        return {
            "image": tfds.features.Image(shape=(size, size, 3), encoding_format="png"),
            "classes": tfds.features.Tensor(shape=(size, size, 1), dtype=np.int32, encoding="zlib"),
            "largest_class": tfds.features.Scalar(np.int32),
        }

    def _example(self, paths: SegmentedPaths) -> dict[str, Any]:
        layout: SegmentedFolderLayout = self.builder_config.layout
        size = self.builder_config.size
        image, classes = read_segmented_example(paths, size, layout.first, layout.unlabelled)
        largest = classes[classes != UNLABELLED].max()
        return {"image": png(image), "classes": classes, "largest_class": largest}
