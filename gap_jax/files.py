"""Atomic writing of files: after a crash, a file is the old one or the complete new one."""

import os
from pathlib import Path


def write_whole(path: str | Path, content: bytes) -> None:
    """Write a file atomically and durably; its folder is made if it is missing.

    The content goes to a hidden scratch file beside `path`, which then takes its place: at any moment, other
    processes see the old file or the complete new one. When the call returns, the new one is on the disk.

    Raises OSError naming `path`; the old file and no scratch file remain.
    """
    path = Path(path)
    scratch = path.with_name(f".{path.name}.{os.getpid()}")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        try:
            with scratch.open("wb") as stream:
                stream.write(content)
                stream.flush()
                os.fsync(stream.fileno())
            os.replace(scratch, path)
        finally:
            scratch.unlink(missing_ok=True)
        fsync(path.parent)
    except OSError as error:
        raise OSError(error.errno, f"{path} could not be written: {error.strerror or error}") from error


def fsync(path: str | Path) -> None:
    """Wait until the system has written a file's content, or a folder's list of names, to the disk."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def fsync_tree(folder: str | Path) -> None:
    """Wait until the system has written a folder, and all that it holds, to the disk."""
    for parent, _, names in os.walk(folder):
        for name in names:
            fsync(Path(parent, name))
        fsync(parent)
