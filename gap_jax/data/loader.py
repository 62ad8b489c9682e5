"""Training batches by Grain: shuffled, endless, and the same for any number of processes."""

import itertools
from collections.abc import Iterator, Mapping, Sequence
from typing import Protocol

import grain
import numpy as np

from gap_jax.data.batch import Example, HostBatch, Transform


class Source(Protocol):
    """Examples by index: a TFDS data source, a list, or an object of one's own."""

    def __len__(self) -> int: ...
    def __getitem__(self, index: int) -> Example: ...


class Subset:
    """The examples of a source at the given indices; a `Source`."""

    def __init__(self, source: Source, indices: Sequence[int] | np.ndarray):
        self._source, self._indices = source, indices

    def __len__(self) -> int:
        return len(self._indices)

    def __getitem__(self, index: int) -> Example:
        return self._source[int(self._indices[index])]


def stack(examples: Sequence[Mapping[str, np.ndarray]]) -> dict[str, np.ndarray]:
    """Stack one or more examples, whose arrays have the same names and shapes, into a batch.

    Raises ValueError naming a field that some examples lack, or that has other shapes in some.
    """
    return {name: _stack_field(name, examples) for name in dict.fromkeys(itertools.chain(*examples))}


def _stack_field(name: str, examples: Sequence[Mapping[str, np.ndarray]]) -> np.ndarray:
    if not all(name in example for example in examples):
        raise ValueError(f"all examples must have the same fields, but some lack {name}: leave it out of all")
    arrays = [np.asarray(example[name]) for example in examples]
    forms = sorted({f"{'a string' if array.dtype.kind == 'U' else list(array.shape)}" for array in arrays})
    if len(forms) > 1:
        raise ValueError(
            f"{name} must have one shape in all examples, found {' and '.join(forms[:2])}: fill it up with "
            "rows that mean nothing, such as boxes of zeros, or leave it out"
        )
    return np.stack(arrays)


def unstack(batch: HostBatch, fields: Sequence[str] | None = None) -> list[dict[str, np.ndarray]]:
    """Return a batch as a list of its examples, which is a data source; `fields` None: with all fields."""
    names = tuple(batch) if fields is None else fields
    return [{name: batch[name][i] for name in names} for i in range(len(batch[names[0]]))]


class Batches:
    """Batches of `size` examples in a new order in every epoch, starting at any step.

    `transform(example, random)` returns an example's arrays by name. It may draw from `random`, a numpy
    Generator that depends only on `seed` and the example's position in the run.

    Raises ValueError for an empty source.
    """

    def __init__(
        self,
        source: Source,
        transform: Transform,
        *,
        size: int,
        seed: int,
        threads: int = 8,
    ):
        if not len(source):
            raise ValueError("the data set has no examples: check its folder and its split")
        self.size, self._threads = size, threads
        examples = grain.MapDataset.source(source).seed(seed).shuffle().repeat()
        self._examples = examples.random_map(lambda example, random: dict(transform(example, random)))

    def load(self, step: int, rows: slice) -> HostBatch:
        """Load rows of the batch of a step: arrays `[rows,…]`.

        The array `row`, uint32, has each example's position in the run, modulo 2³².
        """
        positions = range(step * self.size + rows.start, step * self.size + rows.stop)
        stacked = stack([self._examples[position] for position in positions])
        return stacked | {"row": np.array([position % 2**32 for position in positions], np.uint32)}

    def __call__(self, first: int, steps: int, rows: slice) -> Iterator[HostBatch]:
        """Iterate over these rows of the batches of steps `first` to `steps` - 1, read ahead by threads."""
        step_numbers = grain.MapDataset.range(first, steps)
        options = grain.ReadOptions(num_threads=self._threads, prefetch_buffer_size=2 * self._threads)
        return iter(step_numbers.map(lambda step: self.load(int(step), rows)).to_iter_dataset(options))
