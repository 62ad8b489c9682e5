"""Many examples, made on all cores."""

from collections.abc import Callable, Iterator
from concurrent.futures import ProcessPoolExecutor
from multiprocessing import get_context
from typing import Any

_CHUNK = 32


def in_processes(make: Callable[[range], list[Any]], count: int) -> Iterator[tuple[int, Any]]:
    """Each of so many examples with its number; `make`, which can be pickled, makes those of a range."""
    chunks = [range(start, min(start + _CHUNK, count)) for start in range(0, count, _CHUNK)]
    with ProcessPoolExecutor(mp_context=get_context("spawn")) as pool:
        for chunk, examples in zip(chunks, pool.map(make, chunks), strict=True):
            yield from zip(chunk, examples, strict=True)
