"""Generated data sets on disk: chunks while they grow, at the end a TFDS folder and an image folder.

`chunks/*.npz`: what one process made in one step; a file is whole or not there. From them come
`tfds/generated/1.0.0` (ArrayRecord; `tfds.builder_from_directory(…).as_data_source()`) and `images/train`
(PNG files with `metadata.jsonl`, by class if there are classes; `datasets.load_dataset("imagefolder")`).
"""

import contextlib
import json
import os
import shutil
import zipfile
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np

from gap_jax.data.encoding import png
from gap_jax.data.tfds_progress import without_bars

Record = dict[str, Any]


def write_chunk(folder: Path, name: str, arrays: Mapping[str, np.ndarray]) -> None:
    """Keep records, arrays of equal first axes, as the chunk `name`; raises OSError, e.g. for a full disk.

    `image` uint8 `[n,H,W,3]`; `depth` float `[n,H,W,1]` in [0,1]; boolean `[n,H,W,1]` are masks; the rest
    is numbers or strings `[n]`. `dropped`: why an image is not to be used, "" for one that is.
    """
    folder.mkdir(parents=True, exist_ok=True)
    scratch = folder / f".{name}.{os.getpid()}"
    try:
        with scratch.open("wb") as stream:
            np.savez_compressed(stream, **arrays)
            stream.flush()
            os.fsync(stream.fileno())
        os.replace(scratch, folder / f"{name}.npz")
    except OSError as error:
        raise OSError(f"{folder / name}.npz could not be written, all before it are kept: {error}") from error
    finally:
        scratch.unlink(missing_ok=True)


def read_chunks(folder: Path) -> Iterator[Record]:
    """The records of all chunks in the order of their names; raises ValueError for one that is damaged."""
    for path in sorted(folder.glob("*.npz")):
        try:
            with np.load(path) as file:
                arrays = dict(file)
        except (OSError, ValueError, zipfile.BadZipFile) as error:
            raise ValueError(f"{path} is damaged: delete it, and run again to make it anew") from error
        for i in range(len(next(iter(arrays.values()), ()))):
            yield {name: array[i] for name, array in arrays.items()}


def drop_chunks_of_other_lengths(folder: Path, length: int) -> None:
    """Remove what another number of processes made: names end in the first row and the one after the last."""
    for path in folder.glob("*.npz"):
        start, stop = map(int, path.stem.split("-")[-2:])
        if stop - start != length:
            path.unlink()


def used(chunks: Path) -> Iterator[Record]:
    """The records that were not dropped."""
    for record in read_chunks(chunks):
        if not record.pop("dropped"):
            yield record


def write_images(chunks: Path, folder: Path, class_names: tuple[str, ...] | None = None) -> int:
    """Write `folder` anew as an image folder; returns the number of images.

    With `class_names`, an image goes to the folder of its `label`'s class. Other numbers and strings go to
    `metadata.jsonl`, depth and masks to PNG files that it names as `depth_file_name`, `mask_file_name`.
    """
    scratch = folder.with_name(f".{folder.name}")
    shutil.rmtree(scratch, ignore_errors=True)
    train = scratch / "train"
    train.mkdir(parents=True)
    count = 0
    with (train / "metadata.jsonl").open("w", encoding="utf-8") as lines:
        for record in used(chunks):
            line = {"file_name": f"{count:06d}.png"}
            if class_names is not None:
                line["file_name"] = f"{class_names[record['label']]}/{count:06d}.png"
            for name, value in record.items():
                if np.ndim(value) == 0:
                    line[name] = value.item()
                elif name != "image":
                    line[f"{name}_file_name"] = f"{name}/{count:06d}.png"
            for name in ("image", *(name for name in record if name != "image" and np.ndim(record[name]))):
                path = train / line["file_name" if name == "image" else f"{name}_file_name"]
                path.parent.mkdir(parents=True, exist_ok=True)
                path.write_bytes(png(record[name]))
            lines.write(json.dumps(line) + "\n")
            count += 1
    shutil.rmtree(folder, ignore_errors=True)
    os.replace(scratch, folder)
    return count


def write_tfds(chunks: Path, folder: Path) -> Path:
    """Write a TFDS data set with the split `train` into `folder` anew; returns its own folder."""
    import tensorflow_datasets as tfds

    first = next(used(chunks), None)
    if first is None:
        raise ValueError(f"{chunks} holds no images: nothing was generated, or everything dropped")

    def feature(name: str, value: Any) -> Any:
        if np.ndim(value) == 0:
            return tfds.features.Text() if isinstance(value, str) else tfds.features.Scalar(value.dtype)
        dtype = np.uint16 if name == "depth" else np.uint8
        return tfds.features.Image(shape=value.shape, dtype=dtype, encoding_format="png")

    features = tfds.features.FeaturesDict({name: feature(name, value) for name, value in first.items()})

    class Generated(tfds.core.GeneratorBasedBuilder, skip_registration=True):
        VERSION = tfds.core.Version("1.0.0")
        name = "generated"
        pkg_dir_path = Path(__file__).parent

        def _info(self):
            return tfds.core.DatasetInfo(builder=self, features=features, disable_shuffling=True)

        def _split_generators(self, dl_manager):
            return {"train": self._generate_examples()}

        def _generate_examples(self):
            for number, record in enumerate(used(chunks)):
                yield number, {n: png(v) if np.ndim(v) else v.item() for n, v in record.items()}

    shutil.rmtree(folder, ignore_errors=True)
    builder = Generated(data_dir=folder, file_format="array_record")
    with without_bars(), contextlib.redirect_stdout(None):
        builder.download_and_prepare()
    return Path(builder.data_dir)
