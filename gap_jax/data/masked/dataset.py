"""TFDS data sets of images with classes and masks: Waterbirds, iWildCam, and one's own."""

from typing import Any, ClassVar

import numpy as np
import tensorflow_datasets as tfds

from gap_jax.data.encoding import png
from gap_jax.data.files import Fault
from gap_jax.data.folder_dataset import FolderConfig, FolderDataset
from gap_jax.data.inventory import Inventory, sample_evenly
from gap_jax.data.masked.folder import MaskedFolderLayout, WholeFolderLayout
from gap_jax.data.masked.iwildcam import IWildCamLayout
from gap_jax.data.masked.read import MaskedLayout, MaskedPaths, check_kept_share, read_masked_example
from gap_jax.data.masked.waterbirds import WaterbirdsLayout

_CHECKED_MASKS = 200  # masks whose kept shares are checked before all examples are read


class MaskedDataset(FolderDataset, skip_registration=True):  # type: ignore[call-arg]
    """Images with classes and masks as a TFDS data set.

    Features are `image`, `keep` (255 on the foreground), `label`, `group`, the layout's `attributes`, `id`,
    and `file`, the image's path in the data set's folder. `metadata.json` has the labels' names as `classes`.
    Errors are those of `FolderDataset`, and ValueError for masks that look inverted.
    """

    def _features(self, size: int) -> dict[str, Any]:
        return {
            "image": tfds.features.Image(shape=(size, size, 3), encoding_format="png"),
            "keep": tfds.features.Image(shape=(size, size, 1), encoding_format="png"),
        } | {
            name: tfds.features.Scalar(np.int32)
            for name in ("label", "group", *self.builder_config.layout.attributes)
        }

    def _example(self, paths: MaskedPaths) -> dict[str, Any]:
        layout: MaskedLayout = self.builder_config.layout
        example = read_masked_example(paths, self.builder_config.size, layout.scaled_masks)
        encoded = {name: png(pixels) for name, pixels in example._asdict().items()}
        return encoded | {"label": paths.label, "group": paths.group, **paths.attributes}

    def _check(self, inventory: Inventory) -> None:
        self.info.metadata["classes"] = list(inventory.classes)
        config, shares = self.builder_config, []
        with_mask = [paths for examples in inventory.splits.values() for paths in examples if paths.mask]
        for paths in sample_evenly(with_mask, _CHECKED_MASKS):
            try:
                example = read_masked_example(paths, config.size, config.layout.scaled_masks)
            except Fault:
                continue  # counted when the examples are converted
            shares.append(example.keep.mean())
        if shares:
            check_kept_share(float(np.median(shares)), config.layout.most_kept)


class Waterbirds(MaskedDataset):
    """Waterbirds in 384 pixels, the size of generated images; splits `train`, `validation`, `test`."""

    VERSION = tfds.core.Version("1.0.0")
    MANUAL_DOWNLOAD_INSTRUCTIONS = """\
    The folder must hold metadata.csv, {species}/{stem}.jpg and {species}/{stem}_mask.png. docs/data.md says
    where to get them; check them with `python -m gap_jax.data check waterbirds`.
    """
    BUILDER_CONFIGS: ClassVar = [FolderConfig(name="384", layout=WaterbirdsLayout(), size=384)]


class IWildCam(MaskedDataset):
    """iWildCam in 448 pixels, which classifiers crop; splits `train`, `train_extra`, `validation`, `test`."""

    VERSION = tfds.core.Version("1.0.0")
    MANUAL_DOWNLOAD_INSTRUCTIONS = """\
    The folder must hold {train,train_extra,val,test}_subset.csv, train/{filename} and
    instance_masks/{image_id}.png. docs/data.md says where to get them; check them with
    `python -m gap_jax.data check iwildcam`.
    """
    BUILDER_CONFIGS: ClassVar = [FolderConfig(name="448", layout=IWildCamLayout(), size=448)]


class MaskedFolder(MaskedDataset):
    """One's own images with masks in 384 pixels; splits `train`, `validation`, `test`."""

    VERSION = tfds.core.Version("1.0.0")
    MANUAL_DOWNLOAD_INSTRUCTIONS = """\
    The folder must hold images/{class}/{name}.png and masks/{class}/{name}.png. docs/data.md describes them;
    check them with `python -m gap_jax.data check masked-folder`.
    """
    BUILDER_CONFIGS: ClassVar = [FolderConfig(name="384", layout=MaskedFolderLayout(), size=384)]


class WholeFolder(MaskedDataset):
    """One's own images without masks in 384 pixels; splits `train`, `validation`, `test`."""

    VERSION = tfds.core.Version("1.0.0")
    MANUAL_DOWNLOAD_INSTRUCTIONS = """\
    The folder must hold {class}/{name}.png. docs/data.md describes it; check it with
    `python -m gap_jax.data check class-folder`.
    """
    BUILDER_CONFIGS: ClassVar = [FolderConfig(name="384", layout=WholeFolderLayout(), size=384)]
