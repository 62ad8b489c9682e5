"""Atomic writing of files: after a crash, a file is the old one or the complete new one.

JSON files that a run reads back have a digest, by which a change on the disk is noticed.
"""

import errno
import hashlib
import json
import os
import shutil
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

_DIGEST = "blake2b"  # the entry of a JSON file that is the digest of all others


class WriteError(OSError):
    """A failure to write, whose message names the file and, if the disk is full, the space that is left."""

    def __str__(self) -> str:
        return self.strerror or super().__str__()  # without the number, which says nothing to most people


@contextmanager
def writing(path: str | Path) -> Iterator[None]:
    """Raise any OSError of the block as a `WriteError` that names `path`; a `WriteError` stays as it is."""
    try:
        yield
    except WriteError:
        raise
    except OSError as error:
        reason = f"{path} could not be written: {error.strerror or error}"
        if error.errno in (errno.ENOSPC, errno.EDQUOT):
            reason += f"; {free_space(path)}. Make space, then run the same command again: it goes on"
        raise WriteError(error.errno, reason) from error


def free_space(path: str | Path) -> str:
    """Return how much space is left on the disk of a file or folder, also of one that does not exist yet."""
    folder = next(
        parent for parent in (Path(path).absolute(), *Path(path).absolute().parents) if parent.exists()
    )
    return f"{shutil.disk_usage(folder).free / 1e6:,.0f} MB are free on its disk"


def write_whole(path: str | Path, content: bytes) -> None:
    """Write a file atomically and durably; its folder is made if it is missing.

    The content goes to a hidden scratch file beside `path`, which then takes its place: at any moment, other
    processes see the old file or the complete new one. When the call returns, the new one is on the disk.

    Raises WriteError naming `path`; the old file and no scratch file remain.
    """
    path = Path(path)
    scratch = path.with_name(f".{path.name}.{os.getpid()}")
    with writing(path):
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


def write_json(path: str | Path, content: Mapping[str, Any]) -> None:
    """Write a JSON object for `read_json`, with its digest as the last entry; raise as `write_whole`."""
    text = json.dumps({**content, _DIGEST: _digest(content)}, indent=1)
    write_whole(path, f"{text}\n".encode())


def read_json(path: str | Path, advice: str) -> dict[str, Any]:
    """Read the JSON object in a file of `write_json`.

    Raises FileNotFoundError, and ValueError ending in `advice` for a file that has changed since.
    """
    path = Path(path)
    try:
        content = json.loads(path.read_bytes())
        if content.pop(_DIGEST) != _digest(content):
            raise ValueError("its digest is that of other content")
    except (ValueError, TypeError, KeyError, AttributeError, RecursionError, MemoryError) as error:
        raise ValueError(f"{path} is damaged ({_shortened(error)}): {advice}") from error
    return content


def _digest(content: Mapping[str, Any]) -> str:
    plain = json.dumps(json.loads(json.dumps(content)), sort_keys=True)
    return hashlib.blake2b(plain.encode(), digest_size=16).hexdigest()


def _shortened(error: BaseException) -> str:
    """Return the kind and the message of an error, at most 100 characters."""
    return f"{type(error).__name__}: {error}"[:100]


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
