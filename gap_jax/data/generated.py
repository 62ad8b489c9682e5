"""Generated data sets on disk: chunks while they grow, then a TFDS folder and an image folder.

- `chunks/*.npz`: each holds the records that one process made in one step, and is complete or absent.
- `tfds/generated/1.0.0`: ArrayRecord files for `tfds.builder_from_directory(…).as_data_source("train")`.
- `images/train`: PNG files with `metadata.jsonl`, in a folder for each class if there are classes, for
  `datasets.load_dataset("imagefolder")`. Arrays that PNG cannot hold are NumPy files beside them.

Every field of an example is kept as it is, whatever its kind; `encoding.kind_of` lists the kinds.
"""

import contextlib
import os
import shutil
import textwrap
from collections.abc import Collection, Iterator, Mapping
from io import BytesIO
from pathlib import Path
from typing import Any

import numpy as np

from gap_jax.data.encoding import kind_of, png
from gap_jax.data.quiet_tfds import write_dataset
from gap_jax.data.writing.fields import describe_fields
from gap_jax.data.writing.image_folder import METADATA, file_keys, write_image_folder
from gap_jax.files import WriteError, free_space, write_whole
from gap_jax.ranges import FILE_NAME, is_file_name

Record = dict[str, Any]
PNG_IN_TFDS = ("image", "depth", "mask")
RESERVED = ("text", "source_id", "prompt_id", "seed", "dropped", "prompt", "key", "row", "file_name")


def write_chunk(folder: Path, name: str, arrays: Mapping[str, np.ndarray]) -> None:
    """Write `n` records as the chunk `name`, atomically.

    The arrays are `image`, uint8 `[n,H,W,3]`; `depth`, floats in [0,1] `[n,H,W,1]`; masks, bool `[n,H,W,1]`;
    any other numbers `[n,…]`; and strings `[n]`. The string `dropped` is the reason why an image is not to be
    used, "" for an image that is.

    Raises OSError if the chunk cannot be written, for example because the disk is full.
    """
    stream = BytesIO()
    try:
        np.savez_compressed(stream, **arrays)  # type: ignore[arg-type]
        write_whole(folder / f"{name}.npz", stream.getvalue())
    except OSError as error:
        message = f"{error}; all earlier chunks are kept: run again to continue"
        raise WriteError(error.errno, message) from error


def check_names(names: Collection[str], taken: Collection[str]) -> None:
    """Raise ValueError if one of the `names` of the data's fields is taken by a field of generation's own."""
    if both := sorted(set(names) & set(taken)):
        raise ValueError(
            f"no field of the data may be named {', '.join(both)}: generated examples have fields of these "
            "names; rename yours"
        )


def check_fields(batch: Mapping[str, np.ndarray], class_names: Collection[str] | None = None) -> None:
    """Raise ValueError for a batch `[n,…]` whose fields cannot be kept with the images.

    With `class_names`, the field `label` must have the number of one for each example.
    """
    check_names(
        batch, [*RESERVED, METADATA, *(key for name in batch if name != "image" for key in file_keys(name))]
    )
    for name, array in batch.items():
        kind = kind_of(name, array[0])
        if kind == "depth" and not (np.min(array) >= 0 and np.max(array) <= 1):
            raise ValueError(
                f"depth must be in [0,1], found {np.min(array):.4g} to {np.max(array):.4g}: divide it by the "
                "largest distance, or give it another name, under which any values are kept"
            )
    if class_names is not None:
        label = np.asarray(batch.get("label", np.nan))
        if label.dtype.kind not in "iu" or not ((label >= 0) & (label < len(class_names))).all():
            raise ValueError(
                f"label must be an integer from 0 to {len(class_names) - 1}, the number of one of the "
                f"{len(class_names)} classes, found {np.unique(label)[[0, -1]]}: correct the labels"
            )


def read_chunks(folder: Path) -> Iterator[Record]:
    """Iterate over the records of all chunks, in the order of the chunks' names.

    Raises ValueError naming a damaged chunk.
    """
    for path in sorted(folder.glob("*.npz")):
        arrays = _read_arrays(path)
        for i in range(len(next(iter(arrays.values()), ()))):
            yield {name: array[i] for name, array in arrays.items()}


def read_columns(folder: Path, pattern: str, names: tuple[str, ...]) -> Record:
    """Return some arrays of the chunks whose names match `pattern`, in the order of the names, as one each.

    Raises ValueError naming a damaged chunk.
    """
    chunks = [_read_arrays(path, names) for path in sorted(folder.glob(f"{pattern}.npz"))]
    return {name: np.concatenate([chunk[name] for chunk in chunks]) for name in names}


def _read_arrays(path: Path, names: tuple[str, ...] | None = None) -> Record:
    try:
        with np.load(path) as file:
            return {name: file[name] for name in names or file.files}
    except Exception as error:  # zipfile, zlib and NumPy raise errors of many types
        raise ValueError(f"{path} is damaged: delete it and run again to make it anew") from error


def drop_chunks_of_other_lengths(folder: Path, length: int) -> None:
    """Delete chunks that do not have `length` rows, which another number of processes made.

    The names of chunks end in their first row and the row after their last.
    """
    for path in folder.glob("*.npz"):
        start, stop = map(int, path.stem.split("-")[-2:])
        if stop - start != length:
            path.unlink()


def kept_records(chunks: Path, left_out: Collection[int] = ()) -> Iterator[Record]:
    """Iterate over the records that were not dropped, but for those with the numbers `left_out`."""
    for number, record in enumerate(read_chunks(chunks)):
        if not record.pop("dropped") and number not in left_out:
            yield record


def write_images(
    chunks: Path,
    folder: Path,
    class_names: tuple[str, ...] | None = None,
    left_out: Collection[int] = (),
) -> int:
    """Write `folder` anew as an image folder of the `kept_records` and return the number of images.

    The arguments and the files are those of `write_image_folder`. Raises the errors of `read_chunks` and
    `check_class_names`.
    """
    scratch = folder.with_name(f".{folder.name}")
    shutil.rmtree(scratch, ignore_errors=True)
    if class_names is not None:
        check_class_names(class_names, next(kept_records(chunks, left_out), {}))
    fields = describe_fields(kept_records(chunks, left_out))
    count = write_image_folder(kept_records(chunks, left_out), fields, scratch / "train", class_names)
    shutil.rmtree(folder, ignore_errors=True)
    os.replace(scratch, folder)
    return count


def check_class_names(class_names: Collection[str], fields: Mapping[str, Any]) -> None:
    """Raise ValueError unless each class can have a folder of its own beside the folders of depth and masks.

    `fields` are those of an example, of which all but numbers and strings have a folder.
    """
    taken = {METADATA, *(name for name, value in fields.items() if name != "image" and np.ndim(value))}
    for name in class_names:
        if not is_file_name(name) or name in taken:
            raise ValueError(
                f"the class {name!r} must be renamed, because its images have a folder of this name: it must "
                f"be {FILE_NAME.text}, and none of {', '.join(sorted(taken))}"
            )


def write_tfds(
    chunks: Path,
    folder: Path,
    class_names: tuple[str, ...] | None = None,
    left_out: Collection[int] = (),
) -> Path:
    """Write `folder` anew as a TFDS data set of the `kept_records`, and return the data set's own folder.

    Its split is `train`, and `class_names` are the `classes` of its `metadata.json`. Raises ValueError if no
    image is left, and WriteError for a full disk.
    """
    import tensorflow_datasets as tfds

    first = next(kept_records(chunks, left_out), None)
    if first is None:
        raise ValueError(
            f"no image in {chunks} was kept: relax the filters (max_critic_loss, min_clip_similarity), or "
            "generate more images"
        )

    def feature(name: str, value: Any) -> Any:
        kind = kind_of(name, value)
        if kind == "value" and value.dtype != np.float64:  # of which a TFDS scalar has 32 bits
            return tfds.features.Text() if value.dtype.kind == "U" else tfds.features.Scalar(value.dtype)
        if kind in PNG_IN_TFDS:
            dtype = np.uint16 if kind == "depth" else np.uint8
            return tfds.features.Image(shape=value.shape, dtype=dtype, encoding_format="png")
        number = np.int32 if value.dtype == np.uint8 else value.dtype.newbyteorder("=")  # uint8 is for masks
        return tfds.features.Tensor(shape=value.shape, dtype=number, encoding="zlib")

    def stored(name: str, value: Any) -> Any:
        if kind_of(name, value) in PNG_IN_TFDS:
            return png(value)
        return value.item() if value.dtype.kind == "U" else value.astype(features[name].np_dtype)

    features = tfds.features.FeaturesDict({name: feature(name, value) for name, value in first.items()})

    class GeneratedDataset(tfds.core.GeneratorBasedBuilder, skip_registration=True):  # type: ignore[call-arg]
        VERSION = tfds.core.Version("1.0.0")
        name = "generated"
        pkg_dir_path = Path(__file__).parent

        def _info(self):
            metadata = None if class_names is None else tfds.core.MetadataDict(classes=list(class_names))
            return tfds.core.DatasetInfo(
                builder=self, features=features, disable_shuffling=True, metadata=metadata
            )

        def _split_generators(self, dl_manager):
            return {"train": self._generate_examples()}

        def _generate_examples(self):
            for index, record in enumerate(kept_records(chunks, left_out)):
                yield index, {name: stored(name, value) for name, value in record.items()}

    shutil.rmtree(folder, ignore_errors=True)
    builder = GeneratedDataset(data_dir=folder, file_format="array_record")
    try:
        with contextlib.redirect_stdout(None):
            write_dataset(builder)
    except RuntimeError as error:  # which ArrayRecord raises in place of an OSError
        raise WriteError(
            f"{folder} could not be written: {textwrap.shorten(str(error), 300)}; {free_space(folder)}"
        ) from error
    return Path(builder.data_dir)
