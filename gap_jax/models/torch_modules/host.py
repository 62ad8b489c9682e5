"""Calls of Python functions from compiled programs; these functions run on the host."""

import os
from collections.abc import Callable
from typing import Any

import jax


def call_on_host(function: Callable[..., Any], shapes: Any, *args: Any) -> Any:
    """Return what `function(*args)` returns on the host, arrays of these `shapes`, from inside a program.

    XLA copies the arguments by a thread of a pool. A program on as many CPU devices as the pool has threads
    would wait for that copy forever. Raises ValueError in this case, and in a job of several processes.
    """
    devices, threads = jax.local_device_count(), _num_threads()
    if jax.process_count() > 1:
        raise ValueError(
            "a program of several processes cannot call Python functions on the host, such as a torch module "
            f"that torchax cannot run; found {jax.process_count()} processes: start one alone"
        )
    if jax.default_backend() == "cpu" and 1 < devices >= threads:
        raise ValueError(
            f"a program on {devices} CPU devices needs {devices + 1} threads or more to call Python "
            "functions on the host, such as a torch module that torchax cannot run; found "
            f"{threads}: set the environment variable NPROC, as in `NPROC={devices + 1} python -m …`"
        )
    return jax.pure_callback(function, shapes, *args, vmap_method="sequential")


def _num_threads() -> int:
    """Return the number of threads in XLA's pool for CPU devices."""
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()
    return int(os.environ.get("NPROC") or cores or 1)
