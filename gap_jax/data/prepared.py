"""Prepared data sets: TFDS folders as `python -m gap_jax.data prepare` and image generation write them."""

from pathlib import Path
from typing import Any

import numpy as np
import tensorflow_datasets as tfds

from gap_jax.data.encoding import as_arrays
from gap_jax.data.reading.listing import list_files

_INFO = "dataset_info.json"


class Prepared:
    """The examples of one split, each with its `fields` as `encoding.as_arrays` returns them; a `Source`.

    `folder` is the data set's own folder or one above it. `indices` choose examples of the split; the default
    is all. Raises FileNotFoundError if `folder` has no data set, ValueError if it has several, if the split
    has no examples, or if the examples lack a field.
    """

    def __init__(
        self,
        folder: str | Path,
        split: str,
        indices: np.ndarray | None = None,
        fields: tuple[str, ...] = ("image", "depth", "mask"),
    ):
        self.folder, self.split, self.fields = find_dataset(Path(folder)), split, fields
        builder = builder_of(self.folder)
        sizes = {name: info.num_examples for name, info in builder.info.splits.items()}
        if not sizes.get(split):
            raise ValueError(
                f"{self.folder} has no examples in the split {split!r}; examples by split: {sizes}"
            )
        features = set(builder.info.features)
        if missing := set(fields) - features:
            raise ValueError(
                f"the examples of {self.folder} lack {', '.join(sorted(missing))}; "
                f"found {', '.join(sorted(features))}"
            )
        self._source = builder.as_data_source(split)
        self._indices = np.arange(len(self._source)) if indices is None else indices

    def __len__(self) -> int:
        return len(self._indices)

    def __getitem__(self, index: int) -> dict[str, np.ndarray]:
        example = read_example(
            self._source, int(self._indices[index]), f"the split {self.split!r} of {self.folder}"
        )
        return as_arrays({name: example[name] for name in self.fields})

    def select(self, indices: np.ndarray) -> "Prepared":
        """Return the examples at `indices`."""
        return Prepared(self.folder, self.split, self._indices[indices], self.fields)

    def sample(self, count: int) -> "Prepared":
        """Return `count` examples at even distances, or all if there are fewer."""
        return self.select(np.linspace(0, len(self) - 1, min(count, len(self))).astype(int))

    def column(self, field: str) -> np.ndarray:
        """Return an integer field of all examples, int `[n]`, without decoding their images."""
        builder = builder_of(self.folder)
        features = builder.info.features
        images = [name for name in features if isinstance(features[name], tfds.features.Image)]
        encoded = {name: tfds.decode.SkipDecoding() for name in images}
        source = builder.as_data_source(self.split, decoders=encoded)
        return np.array([int(source[int(index)][field]) for index in self._indices])

    def files(self) -> list[str]:
        """Return each example's `file`, the path of its image in the folder that the data set was made of."""
        return [self._source[int(index)]["file"].decode() for index in self._indices]


def read_example(source: Any, number: int, place: str) -> dict[str, Any]:
    """Return a stored example of a TFDS data source; raise ValueError with its `place` if it is damaged."""
    try:
        return source[number]
    except Exception as error:  # ArrayRecord, TensorFlow and Pillow raise errors of many types
        reason = str(error).split("\n")[0][:200]
        raise ValueError(
            f"{place} is damaged: example {number} cannot be read ({reason}). Delete the folder and make it "
            "anew by the command that made it"
        ) from error


def split_names(folder: str | Path) -> tuple[str, ...]:
    """Return the names of a prepared data set's splits that have examples."""
    splits = builder_of(find_dataset(Path(folder))).info.splits
    return tuple(name for name, split in splits.items() if split.num_examples)


def builder_of(folder: Path) -> Any:
    """Return TFDS's builder of a data set; raise ValueError if its JSON files are damaged."""
    try:
        return tfds.builder_from_directory(folder)
    except Exception as error:  # of many types
        reason = str(error).split("\n")[0][:200]
        raise ValueError(
            f"{folder} is damaged: its {_INFO} or features.json cannot be read ({reason}). Delete the folder "
            "and make it anew by the command that made it"
        ) from error


def find_dataset(folder: Path) -> Path:
    """Return the folder of the only data set in `folder` or below it.

    Raises FileNotFoundError if there is none, ValueError if there are several.
    """
    if (folder / _INFO).is_file():
        return folder
    files = list_files(folder, (".json",)).files.values()
    folders = sorted(path.parent for path in files if path.name == _INFO)
    if not folders:
        found = f"{folder} has no prepared data set (no {_INFO})"
        found = found if folder.is_dir() else f"there is no folder {folder}"
        raise FileNotFoundError(f"{found}: make a data set with `python -m gap_jax.data prepare`")
    if len(folders) > 1:
        raise ValueError(f"{folder} has several data sets: name one of {', '.join(map(str, folders))}")
    return folders[0]
