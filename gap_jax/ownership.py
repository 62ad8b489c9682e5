"""A lock on a work folder, so that only one job writes into it."""

import os
import socket
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import IO

import jax

from gap_jax.files import writing


@contextmanager
def only_job(folder: Path) -> Iterator[None]:
    """Own a folder as long as the block runs. Every process of a job calls it.

    Raises ValueError if another job owns the folder. The owner is process 0, by a lock on the file `.lock`,
    which the system gives back when the process ends in any way. On a system without such locks (Windows) and
    on file systems without them (some network ones), nothing is locked.
    """
    if jax.process_index() != 0:
        yield
        return
    with writing(folder):
        folder.mkdir(parents=True, exist_ok=True)
        file = (folder / ".lock").open("a+")
    with file:
        _lock(file, folder)
        yield


def _lock(file: IO[str], folder: Path) -> None:
    """Lock a file of a folder and write into it who holds it; raise ValueError if another process does."""
    try:
        import fcntl

        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError as error:
        file.seek(0)
        owner = file.read(100) or "another process"
        raise ValueError(
            f"{folder} is in use by {owner}: wait until it ends, or use another folder"
        ) from error
    except (ImportError, OSError):
        return
    with writing(folder / ".lock"):
        file.truncate(0)
        file.write(f"process {os.getpid()} on {socket.gethostname()}")
        file.flush()
