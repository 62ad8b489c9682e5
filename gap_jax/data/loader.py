"""Batches for training, by Grain: shuffled, without end, and the same for any number of processes."""

from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any, Protocol

import grain
import numpy as np

Example = Mapping[str, Any]
HostBatch = dict[str, np.ndarray]


class Source(Protocol):
    """Examples by number: a TFDS data source, a list, an object of one's own."""

    def __len__(self) -> int: ...
    def __getitem__(self, index: int) -> Example: ...


class Subset:
    """Some examples of a source, by their numbers in it; a `Source`."""

    def __init__(self, source: Source, numbers: Sequence[int]):
        self._source, self._numbers = source, numbers

    def __len__(self) -> int:
        return len(self._numbers)

    def __getitem__(self, index: int) -> Example:
        return self._source[int(self._numbers[index])]


def stack(examples: Sequence[Mapping[str, np.ndarray]]) -> HostBatch:
    """Examples, one or more with arrays of the same names, as one batch."""
    return {name: np.stack([example[name] for example in examples]) for name in examples[0]}


class Batches:
    """Batches of `size` examples, a new order in every epoch, from any step on.

    - `transform(example, random)`: arrays by name, drawing what it likes from `random`, a numpy Generator
      that depends on `seed` and the example's place in the run alone.

    Raises ValueError for an empty source.
    """

    def __init__(
        self,
        source: Source,
        transform: Callable[[Example, np.random.Generator], Mapping[str, np.ndarray]],
        *,
        size: int,
        seed: int,
        threads: int = 8,
    ):
        if not len(source):
            raise ValueError("the data set is empty")
        self.size, self._threads = size, threads
        examples = grain.MapDataset.source(source).seed(seed).shuffle().repeat()
        self._examples = examples.random_map(lambda example, random: dict(transform(example, random)))

    def load(self, step: int, rows: slice) -> HostBatch:
        """These rows of the batch of a step, arrays `[rows,…]`, with each one's place in the run as `row`."""
        places = range(step * self.size + rows.start, step * self.size + rows.stop)
        stacked = stack([self._examples[place] for place in places])
        return stacked | {"row": np.array([place % 2**32 for place in places], np.uint32)}

    def __call__(self, first: int, steps: int, rows: slice) -> Iterator[HostBatch]:
        """These rows of the batches of steps `first` to `steps`, read ahead by threads."""
        numbers = grain.MapDataset.range(first, steps)
        options = grain.ReadOptions(num_threads=self._threads, prefetch_buffer_size=2 * self._threads)
        return iter(numbers.map(lambda step: self.load(int(step), rows)).to_iter_dataset(options))
