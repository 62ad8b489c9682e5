"""The rendering of many examples on all cores."""

from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor
from multiprocessing import get_context
from typing import TypeVar

Made = TypeVar("Made")

FEW = 128  # examples that are made sooner than processes start
_CHUNK = 32  # examples


def make_in_processes(make: Callable[[range], Sequence[Made]], count: int) -> Iterator[tuple[int, Made]]:
    """Yield the examples 0 to `count` - 1, each with its number, in order.

    `make(numbers)` returns the examples of a range of numbers. It runs in processes of its own, one per core,
    so it has to be picklable. `FEW` examples or fewer are made in the calling process.
    """
    chunks = [range(start, min(start + _CHUNK, count)) for start in range(0, count, _CHUNK)]
    if count <= FEW:
        for chunk in chunks:
            yield from zip(chunk, make(chunk), strict=True)
        return
    with ProcessPoolExecutor(mp_context=get_context("spawn")) as pool:
        for chunk, examples in zip(chunks, pool.map(make, chunks), strict=True):
            yield from zip(chunk, examples, strict=True)
