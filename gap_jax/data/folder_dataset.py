"""Files of a folder as a TFDS data set: checked, made into examples and written once, then read by Grain."""

import hashlib
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Self

import grain
import tensorflow_datasets as tfds
from tqdm import tqdm

from gap_jax.data.files import Fault
from gap_jax.data.inventory import Found, Layout, check_share, count, listed, summary
from gap_jax.data.tfds_progress import without_bars


class FolderConfig(tfds.core.BuilderConfig):
    """How files lie in the manual folder; images' size; which share of examples may be at fault."""

    def __init__(self, *, layout: Layout, size: int, tolerance: float = 0.01, **kwargs: Any):
        super().__init__(**kwargs)
        self.layout, self.size, self.tolerance = layout, size, tolerance


class FolderDataset(tfds.core.GeneratorBasedBuilder, skip_registration=True):
    """What kinds of examples share; a kind says its `_features` and how it makes an `_example`.

    What was found and left out is printed; what could not be used is also in `metadata.json`, as `left_out`.
    Preparing raises ValueError for more than that share of examples at fault, and as the layout's `find`.
    """

    @classmethod
    def prepared(cls, layout: Layout, root: Path, data_dir: Path, size: int, tolerance: float = 0.01) -> Self:
        """The data set of the folder `root`, made unless `data_dir` has one of the same layout and size.

        Raises FileNotFoundError for a folder that is missing or empty, and as the class says.
        """
        known = hashlib.sha256(f"{layout} {root.resolve()}".encode()).hexdigest()[:8]
        config = FolderConfig(name=f"{size}_{known}", layout=layout, size=size, tolerance=tolerance)
        builder = cls(config=config, data_dir=data_dir, file_format="array_record")
        if not builder.data_path.exists() and not any(root.glob("*")):
            raise FileNotFoundError(f"{root} is missing or empty: it should hold the files of {layout}")
        with without_bars():
            builder.download_and_prepare(download_config=tfds.download.DownloadConfig(manual_dir=root))
        return builder

    def _features(self, size: int) -> dict[str, Any]:
        """Of an example, for images of `size` pixels, but for `id` and `file`."""
        raise NotImplementedError

    def _example(self, files: Any) -> dict[str, Any]:
        """An example's features, images as PNG; raises `Fault`."""
        raise NotImplementedError

    def _check(self, found: Found) -> None:
        """Raise ValueError for what is wrong with all examples together."""

    def _info(self) -> tfds.core.DatasetInfo:
        features = self._features(self.builder_config.size)
        features |= {"id": tfds.features.Text(), "file": tfds.features.Text()}
        return self.dataset_info_from_configs(
            features=tfds.features.FeaturesDict(features), metadata=tfds.core.MetadataDict()
        )

    def _split_generators(self, dl_manager: tfds.download.DownloadManager) -> dict[str, Any]:
        root, config = Path(dl_manager.manual_dir), self.builder_config
        found = config.layout.find(root)
        print(summary(found))
        check_share(found.faults, count(found) + len(found.faults), config.tolerance)
        self._check(found)
        self.info.metadata["left_out"] = [str(fault) for fault in found.faults]
        return {
            split: self._generate_examples(split, examples, root) for split, examples in found.splits.items()
        }

    def _generate_examples(
        self, split: str, examples: list[Any], root: Path
    ) -> Iterator[tuple[str, dict[str, Any]]]:
        tolerance = self.builder_config.tolerance

        def make(files: Any) -> Fault | dict[str, Any]:
            try:
                example = self._example(files)
            except Fault as fault:
                return fault
            return example | {"id": files.id, "file": os.path.relpath(files.image, root)}

        threads = os.cpu_count() or 1
        options = grain.ReadOptions(num_threads=threads, prefetch_buffer_size=4 * threads)
        made = grain.MapDataset.source(examples).map(make).to_iter_dataset(options)
        faults = []
        for example in tqdm(made, total=len(examples), desc=split, unit="image"):
            if isinstance(example, Fault):
                faults.append(example)
                check_share(faults, len(examples), tolerance)
            else:
                yield example["id"], example
        self.info.metadata["left_out"] += [str(fault) for fault in faults]
        for line in listed(faults):
            tqdm.write(f"{split}: {line}")
