"""Images with a class and a mask as a TFDS data set: checked, resized, written once, then read by Grain."""

from typing import Any

import numpy as np
import tensorflow_datasets as tfds

from gap_jax.data.encoding import png
from gap_jax.data.files import Fault
from gap_jax.data.folder_dataset import FolderDataset
from gap_jax.data.inventory import Found, spread
from gap_jax.data.masked.read import MaskedPaths, check_kept, read

_LOOKED_AT = 200  # masks, before all are read


class MaskedDataset(FolderDataset, skip_registration=True):
    """Features: `image`, `keep` (255 = keep), `label`, `group`, what the layout is `about`, `id`, `file`.

    `file` is the image's path in the manual folder; labels' names are in `metadata.json`, as `classes`.
    Faults and errors are `FolderDataset`'s; preparing also raises ValueError for masks that look inverted.
    """

    def _features(self, size: int) -> dict[str, Any]:
        return {
            "image": tfds.features.Image(shape=(size, size, 3), encoding_format="png"),
            "keep": tfds.features.Image(shape=(size, size, 1), encoding_format="png"),
        } | {
            name: tfds.features.Scalar(np.int32)
            for name in ("label", "group", *self.builder_config.layout.about)
        }

    def _example(self, files: MaskedPaths) -> dict[str, Any]:
        config = self.builder_config
        parts = read(files, config.size, config.layout.scaled)
        encoded = {name: png(pixels) for name, pixels in parts._asdict().items()}
        return encoded | {"label": files.label, "group": files.group, **files.about}

    def _check(self, found: Found) -> None:
        self.info.metadata["classes"] = list(found.classes)
        config, shares = self.builder_config, []
        with_mask = [files for examples in found.splits.values() for files in examples if files.mask]
        for files in spread(with_mask, _LOOKED_AT):
            try:
                shares.append(read(files, config.size, config.layout.scaled).keep.mean())
            except Fault:
                continue  # counted when it is its turn
        if shares:
            check_kept(float(np.median(shares)), config.layout.most_kept)
