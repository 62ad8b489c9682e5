"""Prepared data sets: TFDS folders, as `python -m gap_jax.data prepare` and generation write them."""

from pathlib import Path

import numpy as np
import tensorflow_datasets as tfds

from gap_jax.data.encoding import as_arrays

_INFO = "dataset_info.json"


class Prepared:
    """Examples of one split, the `fields` that `generated.as_arrays` makes of each; a `loader.Source`.

    `folder` has the data set or, below it, a single one. `numbers`: which of its examples, all by default.
    Raises FileNotFoundError for a folder without a data set, ValueError for more than one, a split without
    examples, and examples without a field.
    """

    def __init__(
        self,
        folder: str | Path,
        split: str,
        numbers: np.ndarray | None = None,
        fields: tuple[str, ...] = ("image", "depth", "mask"),
    ):
        self.folder, self.split, self.fields = find(Path(folder)), split, fields
        builder = tfds.builder_from_directory(self.folder)
        sizes = {name: info.num_examples for name, info in builder.info.splits.items()}
        if not sizes.get(split):
            raise ValueError(f"{self.folder} has no examples in the split {split!r}, found {sizes}")
        known = set(builder.info.features)
        if missing := set(fields) - known:
            missing, found = (", ".join(sorted(names)) for names in (missing, known))
            raise ValueError(f"examples of {self.folder} lack {missing}, found {found}")
        self._source = builder.as_data_source(split)
        self._numbers = np.arange(len(self._source)) if numbers is None else numbers

    def __len__(self) -> int:
        return len(self._numbers)

    def __getitem__(self, index: int) -> dict[str, np.ndarray]:
        example = self._source[int(self._numbers[index])]
        return as_arrays({name: example[name] for name in self.fields})

    def only(self, numbers: np.ndarray) -> "Prepared":
        """These of its examples."""
        return Prepared(self.folder, self.split, self._numbers[numbers], self.fields)

    def some(self, count: int) -> "Prepared":
        """So many of its examples, evenly spread, or all."""
        return self.only(np.linspace(0, len(self) - 1, min(count, len(self))).astype(int))

    def files(self) -> list[str]:
        """Each example's `file`, its image's path in the folder that it came from."""
        return [self._source[int(number)]["file"].decode() for number in self._numbers]


def splits(folder: str | Path) -> tuple[str, ...]:
    """The names of a prepared data set's splits that have examples."""
    found = tfds.builder_from_directory(find(Path(folder))).info.splits
    return tuple(name for name, split in found.items() if split.num_examples)


def find(folder: Path) -> Path:
    """The folder of the one data set in `folder` or below it; raises as `Prepared`."""
    found = [folder] if (folder / _INFO).is_file() else sorted(p.parent for p in folder.rglob(_INFO))
    if not found:
        raise FileNotFoundError(
            f"{folder} has no prepared data set ({_INFO}): make one by `python -m gap_jax.data prepare`"
        )
    if len(found) > 1:
        raise ValueError(f"{folder} has several data sets: give one of {', '.join(map(str, found))}")
    return found[0]
