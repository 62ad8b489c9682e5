"""Images with depth as a TFDS data set: checked, resized and written once, then read through Grain."""

import hashlib
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Self

import grain
import numpy as np
import tensorflow_datasets as tfds
from tqdm import tqdm

from gap_jax.data.generated import png
from gap_jax.data.inventory import Layout, check_share, count, listed, summary
from gap_jax.data.rgbd import Fault, Files, read


class RgbdConfig(tfds.core.BuilderConfig):
    """How files lie in the manual folder; images' size; which share of examples may be at fault."""

    def __init__(self, *, layout: Layout, size: int, tolerance: float = 0.01, **kwargs: Any):
        super().__init__(**kwargs)
        self.layout, self.size, self.tolerance = layout, size, tolerance


class RgbdDataset(tfds.core.GeneratorBasedBuilder, skip_registration=True):
    """Features: `image`, `depth` (uint16, depth · 65535), `mask` (255 = valid), `id`, `file`.

    `file` is the image's path in the manual folder. What was found and left out is printed; what could not be
    used is also in `metadata.json`, as `left_out`. Preparing raises ValueError for more than that share of
    examples at fault, and as the layout's `find`.
    """

    @classmethod
    def prepared(cls, layout: Layout, root: Path, data_dir: Path, size: int, tolerance: float = 0.01) -> Self:
        """The data set of the folder `root`, made unless `data_dir` has one of the same layout and size."""
        known = hashlib.sha256(f"{layout} {root.resolve()}".encode()).hexdigest()[:8]
        config = RgbdConfig(name=f"{size}_{known}", layout=layout, size=size, tolerance=tolerance)
        builder = cls(config=config, data_dir=data_dir, file_format="array_record")
        tfds.display_progress_bar(False)  # its bars know no totals
        try:
            builder.download_and_prepare(download_config=tfds.download.DownloadConfig(manual_dir=root))
        finally:
            tfds.display_progress_bar(True)
        return builder

    def _info(self) -> tfds.core.DatasetInfo:
        shape = (self.builder_config.size, self.builder_config.size)
        features = {
            "image": tfds.features.Image(shape=(*shape, 3), encoding_format="png"),
            "depth": tfds.features.Image(shape=(*shape, 1), dtype=np.uint16, encoding_format="png"),
            "mask": tfds.features.Image(shape=(*shape, 1), encoding_format="png"),
            "id": tfds.features.Text(),
            "file": tfds.features.Text(),
        }
        return self.dataset_info_from_configs(
            features=tfds.features.FeaturesDict(features), metadata=tfds.core.MetadataDict()
        )

    def _split_generators(self, dl_manager: tfds.download.DownloadManager) -> dict[str, Any]:
        root, config = Path(dl_manager.manual_dir), self.builder_config
        found = config.layout.find(root)
        print(summary(found))
        check_share(found.faults, count(found) + len(found.faults), config.tolerance)
        self.info.metadata["left_out"] = [str(fault) for fault in found.faults]
        return {
            split: self._generate_examples(split, examples, root) for split, examples in found.splits.items()
        }

    def _generate_examples(
        self, split: str, examples: list[Files], root: Path
    ) -> Iterator[tuple[str, dict[str, Any]]]:
        config = self.builder_config

        def make(files: Files) -> Fault | dict[str, Any]:
            try:
                parts = read(files, config.layout.decode, config.size, config.layout.frame)
            except Fault as fault:
                return fault
            encoded = {name: png(pixels) for name, pixels in parts._asdict().items()}
            return encoded | {"id": files.id, "file": os.path.relpath(files.image, root)}

        threads = os.cpu_count() or 1
        options = grain.ReadOptions(num_threads=threads, prefetch_buffer_size=4 * threads)
        made = grain.MapDataset.source(examples).map(make).to_iter_dataset(options)
        faults = []
        for example in tqdm(made, total=len(examples), desc=split, unit="image"):
            if isinstance(example, Fault):
                faults.append(example)
                check_share(faults, len(examples), config.tolerance)
            else:
                yield example["id"], example
        self.info.metadata["left_out"] += [str(fault) for fault in faults]
        for line in listed(faults):
            tqdm.write(f"{split}: {line}")
