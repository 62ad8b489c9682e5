"""A data set on the disk that is to be written in another format: prepared or generated, both TFDS."""

import hashlib
import json
from collections.abc import Collection, Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import tensorflow_datasets as tfds

from gap_jax.data.encoding import DEPTH_SCALE, as_mask
from gap_jax.data.inventory import sample_evenly
from gap_jax.data.prepared import builder_of, find_dataset, read_example
from gap_jax.data.writing.fields import Field, Record, describe_fields

SUMMARY, CONFIG = "summary.json", "config.json"  # in the folder of the stage that generated a data set


class StoredSet(NamedTuple):
    """A data set in TFDS folders, with what a reader of its files wants to know.

    - `folder`: the data set's own folder.
    - `sizes`: the number of examples of each split that has any.
    - `fields`: those that are written.
    - `class_names`: the names of `label`'s values or, without `label`, those of class maps and of the classes
      of boxes; None if they are not known.
    - `recipe`: how the data set was made, JSON values.
    """

    folder: Path
    sizes: dict[str, int]
    fields: dict[str, Field]
    class_names: tuple[str, ...] | None
    recipe: Mapping[str, Any]

    def records(self, split: str) -> Iterator[Record]:
        """Iterate over the examples of a split as records of `fields`."""
        return _records(self.folder, split, self.fields, range(self.sizes[split]))

    def sample(self, count: int) -> list[Record]:
        """Return `count` examples of the first split, at even distances."""
        split, size = next(iter(self.sizes.items()))
        return list(_records(self.folder, split, self.fields, sample_evenly(range(size), count)))

    def digest(self) -> str:
        """Return a digest of the data set's own description, which tells it from others."""
        content = hashlib.sha256()
        for path in sorted(self.folder.glob("*")):
            content.update(f"{path.name} {path.stat().st_size} ".encode())
            content.update(path.read_bytes() if path.suffix == ".json" else b"")
        return content.hexdigest()


def open_stored(folder: Path, class_names: Collection[str] = (), left_out: Collection[str] = ()) -> StoredSet:
    """Open the only data set in `folder` or below it and read all its examples once.

    - `class_names`: as in `StoredSet`; empty: those that the data set knows.
    - `left_out`: the names of fields that are not to be written.

    Raises the errors of `find_dataset` and `describe_fields`; ValueError for a data set that lacks an image
    or a field to leave out, or has labels without a name.
    """
    found = find_dataset(folder)
    info = builder_of(found).info
    names = sorted(info.features, key=lambda name: (name != "image", name))  # TFDS keeps no order
    if "image" not in names or "image" in left_out:
        raise ValueError(
            f"{found} has no field `image`, which a data set must have; found {', '.join(names)}"
        )
    if unknown := sorted(set(left_out) - set(names)):
        raise ValueError(f"{found} has no field {', '.join(unknown)} to leave out; found {', '.join(names)}")
    sizes = {name: split.num_examples for name, split in info.splits.items() if split.num_examples}
    if not sizes:
        raise ValueError(f"{found} has no examples: make it anew by the command that made it")
    kept = [name for name in names if name not in left_out]
    fields = describe_fields(
        record for split, size in sizes.items() for record in _records(found, split, kept, range(size))
    )
    metadata = info.metadata or {}
    classes = tuple(class_names or metadata.get("classes", ())) or None
    label = fields.get("label")
    if classes and label and label.is_integer and not 0 <= label.low <= label.high < len(classes):
        raise ValueError(
            f"labels must be in 0..{len(classes) - 1}, as there are the classes {', '.join(classes)}; found "
            f"{label.low} to {label.high}: give all names in --classes"
        )
    return StoredSet(found, sizes, fields, classes, _recipe(found, info))


def _records(
    folder: Path, split: str, names: Collection[str], numbers: Iterable[int]
) -> Iterator[dict[str, np.ndarray]]:
    builder = builder_of(folder)
    source, features = builder.as_data_source(split), builder.info.features
    for number in numbers:
        example = read_example(source, number, f"the split {split!r} of {folder}")
        yield {name: _array(name, example[name], features[name].np_dtype) for name in names}


def _array(name: str, value: Any, dtype: Any) -> np.ndarray:
    """Return a stored value as generation keeps it: depth as floats, masks as bools, text as a string."""
    if isinstance(value, bytes):
        return np.asarray(value.decode())
    array = np.asarray(value, dtype)
    if name == "depth" and array.dtype == np.uint16:
        return array.astype(np.float32) / DEPTH_SCALE
    if name != "image" and array.ndim == 3 and array.shape[-1] == 1 and array.dtype == np.uint8:
        return as_mask(name, array)
    return array


def _recipe(folder: Path, info: tfds.core.DatasetInfo) -> dict[str, Any]:
    """Return the settings of the run that generated a data set, or the name of a prepared one.

    Of absolute paths, only the last part is told: the recipe is for publication.
    """
    for parent in folder.parents[:3]:  # generate/tfds/generated/1.0.0
        if (parent / SUMMARY).is_file() and (parent / CONFIG).is_file():
            return _without_paths(json.loads((parent / CONFIG).read_text(encoding="utf-8")))
    left_out = (info.metadata or {}).get("left_out", [])
    return {"data set": info.full_name, "images that could not be used": len(left_out)}


def _without_paths(value: Any) -> Any:
    match value:
        case dict():
            return {name: _without_paths(entry) for name, entry in value.items()}
        case list():
            return [_without_paths(entry) for entry in value]
        case str() if Path(value).is_absolute():
            return Path(value).name
    return value
