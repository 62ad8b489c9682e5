"""Lists of a folder's files, without those that systems and editors leave behind."""

import os
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import NamedTuple

from gap_jax.data.inventory import abbreviate

_CLUTTER = ("__MACOSX", "@eaDir", "Thumbs.db", "desktop.ini")  # beside all names that begin with a dot


class Listing(NamedTuple):
    """The files of a folder and of all folders below it.

    - `files`: the paths of files with one of the wanted suffixes, by their names below the folder.
    - `hidden`: the names of hidden files and folders, such as `._a.png` and `.ipynb_checkpoints`.
    - `others`: the names of files with another suffix.
    - `folder`, `suffixes`: where and for what files were looked.
    """

    files: dict[str, Path]
    hidden: list[str]
    others: list[str]
    folder: Path
    suffixes: Sequence[str]

    def notes(self) -> list[str]:
        """Return sentences that tell which files were passed over, and why."""
        return self.hidden_notes() + self._passed_over(self.others, f"not {', '.join(self.suffixes)}")

    def hidden_notes(self) -> list[str]:
        """Return a sentence that tells which hidden files and folders were passed over, if any."""
        return self._passed_over(self.hidden, "hidden")

    def _passed_over(self, names: list[str], kind: str) -> list[str]:
        line = f"passed over {len(names)} in {self.folder}, each {kind}: {abbreviate(names)}"
        return [line] if names else []

    def describe(self) -> str:
        """Return what was found, such as "holds 2 files (.png), such as a.png"."""
        example = f", such as {next(iter(self.files))}" if self.files else ""
        return f"{self.folder} holds {len(self.files)} files ({', '.join(self.suffixes)}){example}"


def list_files(folder: Path, suffixes: Sequence[str]) -> Listing:
    """List the files below a folder, in the order of their names, through links, and upper-case suffixes too.

    A link to a folder that contains it is not followed. Returns an empty listing if the folder is missing.
    """
    listing = Listing({}, [], [], folder, suffixes)
    for path in _walk(folder, (_identity(folder),)) if folder.is_dir() else ():
        name = path.relative_to(folder).as_posix()
        if is_hidden(path.name):
            listing.hidden.append(name)
        elif path.suffix.lower() in suffixes:
            listing.files[name] = path
        else:
            listing.others.append(name)
    return listing


def list_folders(folder: Path) -> list[str]:
    """Return the names of the folders in a folder, sorted, without hidden ones."""
    return sorted(path.name for path in folder.iterdir() if path.is_dir() and not is_hidden(path.name))


def unpacked(folder: Path) -> Path:
    """Return the folder of the same name in `folder`, which some archives hold, or `folder` itself."""
    inner = folder / folder.name
    return inner if inner.is_dir() else folder


def is_hidden(name: str) -> bool:
    """Return True for names that systems and editors give to files of their own."""
    return name.startswith(".") or name in _CLUTTER


def _walk(folder: Path, above: tuple[tuple[int, int], ...]) -> Iterator[Path]:
    """Yield the files and the hidden folders below a folder; `above` identifies the folders on the way."""
    for path in sorted(folder.iterdir()):
        if is_hidden(path.name) or not path.is_dir():
            yield path
        elif (identity := _identity(path)) not in above:
            yield from _walk(path, (*above, identity))


def _identity(folder: Path) -> tuple[int, int]:
    status = os.stat(folder)
    return status.st_dev, status.st_ino
