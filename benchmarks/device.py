"""The device that a benchmark runs on: its name, its memory, and the time that it takes."""

import statistics
import time
from collections.abc import Callable

import jax


def describe_device() -> str:
    """Return the kind of the device and the versions of JAX and torch, as text."""
    import torch

    return f"{jax.devices()[0].device_kind}; jax {jax.__version__}, torch {torch.__version__}"


def peak_memory() -> int | None:
    """Return the most memory that JAX's arrays and programs have held on the device so far, in bytes.

    None on a CPU, for which JAX does not count it.
    """
    statistics = jax.devices()[0].memory_stats()
    return None if statistics is None else statistics["peak_bytes_in_use"]


def seconds(function: Callable[[], object]) -> float:
    """Return the seconds that one call takes."""
    start = time.perf_counter()
    function()
    return time.perf_counter() - start


def median(function: Callable[[], object], repeats: int) -> float:
    """Return the median seconds of a call, after one that does not count."""
    function()
    return statistics.median(seconds(function) for _ in range(repeats))
