"""Folders of files as TFDS data sets: checked, converted and written once, then read by Grain."""

import hashlib
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Self

import grain
import tensorflow_datasets as tfds
from tqdm import tqdm

from gap_jax.data.files import Fault
from gap_jax.data.inventory import Inventory, Layout, check_fault_share, describe_faults
from gap_jax.data.quiet_tfds import hide_progress_bars, write_dataset


class FolderConfig(tfds.core.BuilderConfig):
    """A configuration of a `FolderDataset`.

    - `layout`: the arrangement of the files in TFDS's manual folder.
    - `size`: the side of the prepared images, in pixels.
    - `tolerance`: the share of examples that may be unusable.
    """

    def __init__(self, *, name: str, layout: Layout, size: int, tolerance: float = 0.01):
        super().__init__(name=name)
        self.layout, self.size, self.tolerance = layout, size, tolerance


class FolderDataset(tfds.core.GeneratorBasedBuilder, skip_registration=True):  # type: ignore[call-arg]
    """A data set prepared from a folder of files; subclasses define `_features` and `_example`.

    Preparing prints which examples the folder has and which are left out; `metadata.json` lists the latter as
    `left_out`. It raises ValueError with the inventory's problems, or if more examples than the tolerance
    cannot be used, and the errors of the layout's `find`.
    """

    @classmethod
    def prepared(cls, layout: Layout, root: Path, data_dir: Path, size: int, tolerance: float = 0.01) -> Self:
        """Prepare the data set of the folder `root`, unless `data_dir` already has it.

        Layout, `root` and `size` identify a data set. Raises FileNotFoundError if `root` is missing or empty,
        and the errors of the class.
        """
        digest = hashlib.sha256(f"{layout} {root.resolve()}".encode()).hexdigest()[:8]
        config = FolderConfig(name=f"{size}_{digest}", layout=layout, size=size, tolerance=tolerance)
        with hide_progress_bars():
            builder = cls(config=config, data_dir=data_dir, file_format="array_record")
            if not builder.data_path.exists() and not any(root.glob("*")):
                raise FileNotFoundError(f"{root} is missing or empty: it must hold the data set's files")
        write_dataset(builder, root)
        return builder

    def _features(self, size: int) -> dict[str, Any]:
        """Return the features of an example with images of `size` pixels, except `id` and `file`."""
        raise NotImplementedError

    def _example(self, paths: Any) -> dict[str, Any]:
        """Read an example as its features, with images as PNG files; raise `Fault` if it cannot be used."""
        raise NotImplementedError

    def _log_download_bytes(self) -> None:
        """Print where the data set is prepared; TFDS would speak of a download."""
        print(f"preparing {self.data_dir}")

    def _log_download_done(self) -> None:
        """Print nothing."""

    def _check(self, inventory: Inventory) -> None:
        """Raise ValueError for an error of the examples as a whole."""

    def _info(self) -> tfds.core.DatasetInfo:
        features = self._features(self.builder_config.size)
        features |= {"id": tfds.features.Text(), "file": tfds.features.Text()}
        return self.dataset_info_from_configs(
            features=tfds.features.FeaturesDict(features), metadata=tfds.core.MetadataDict()
        )

    def _split_generators(self, dl_manager: tfds.download.DownloadManager) -> dict[str, Any]:
        root, config = Path(dl_manager.manual_dir), self.builder_config
        inventory = config.layout.find(root)
        print(inventory.summary())
        inventory.check_faults(config.tolerance)
        self._check(inventory)
        self.info.metadata["left_out"] = [str(fault) for fault in inventory.faults]
        faults: list[Fault] = []
        return {
            split: self._generate_examples(split, examples, root, inventory.num_examples, faults)
            for split, examples in inventory.splits.items()
        }

    def _generate_examples(
        self, split: str, examples: list[Any], root: Path, total: int, faults: list[Fault]
    ) -> Iterator[tuple[str, dict[str, Any]]]:
        """Yield a split's examples by id; their faults are added to those of earlier splits."""
        tolerance, earlier = self.builder_config.tolerance, len(faults)

        def convert(paths: Any) -> Fault | dict[str, Any]:
            try:
                example = self._example(paths)
            except Fault as fault:
                return fault
            return example | {"id": paths.id, "file": os.path.relpath(paths.image, root)}

        threads = os.cpu_count() or 1
        options = grain.ReadOptions(num_threads=threads, prefetch_buffer_size=4 * threads)
        converted = grain.MapDataset.source(examples).map(convert).to_iter_dataset(options)
        for example in tqdm(converted, total=len(examples), desc=split, unit="image"):
            if isinstance(example, Fault):
                faults.append(example)
                check_fault_share(faults, total, tolerance)
            else:
                yield example["id"], example
        self.info.metadata["left_out"] += [str(fault) for fault in faults[earlier:]]
        for line in describe_faults(faults[earlier:]):
            tqdm.write(f"{split}: {line}")
