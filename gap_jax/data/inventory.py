"""What a folder of images holds: examples, and what is left out, counted and listed; tables of images."""

import csv
from collections import defaultdict
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple, Protocol

import numpy as np

from gap_jax.data.files import Fault

_SHOWN = 5


class Found(NamedTuple):
    """Files of examples by split; those at fault; in words, what is left out on purpose; labels' names.

    Examples are `rgbd.Files`, or `masked.Files` with labels 0, 1, …, whose names `classes` are.
    """

    splits: dict[str, list[Any]]
    faults: list[Fault]
    notes: list[str]
    classes: tuple[str, ...] = ()


class Layout(Protocol):
    """How a data set lies in its folder.

    `find` looks at names and tables alone, and raises ValueError or FileNotFoundError, saying what should be
    where, for a folder unlike it.
    """

    def find(self, root: Path) -> Found: ...


class TableRow(NamedTuple):
    """A line of a table: where it is, such as `folder/metadata.csv:2`, and its cells by column."""

    place: str
    cells: dict[str, str]

    def number(self, column: str) -> int:
        """A cell as an integer; raises ValueError naming the line."""
        try:
            return int(self.cells[column])
        except ValueError as error:
            raise ValueError(
                f"{self.place}: {column} must be an integer, found {self.cells[column]!r}"
            ) from error


def read_table(
    path: Path, columns: Sequence[str], delimiter: str = ",", header: bool = True
) -> list[TableRow]:
    """The lines of a CSV file with a header that has `columns`, perhaps among others.

    Without a `header`, all lines are of just these columns. Raises FileNotFoundError, and ValueError naming
    the columns or the line, for a file unlike this.
    """
    if not path.is_file():
        kind = "CSV" if header else "table, without a header,"
        raise FileNotFoundError(f"{path} is missing: a {kind} with the columns {', '.join(columns)}")
    with path.open(encoding="utf-8-sig", newline="") as stream:
        table = csv.DictReader(stream, None if header else columns, delimiter=delimiter)
        known = table.fieldnames or []
        lacking = [name for name in columns if name not in known]
        if lacking:
            raise ValueError(
                f"{path} lacks the columns {', '.join(lacking)}, found {', '.join(known) or 'none'}"
            )
        rows = [TableRow(f"{path}:{table.line_num}", cells) for cells in table]
    for row in rows:
        empty = [name for name in columns if not row.cells[name]]
        if empty:
            raise ValueError(f"{row.place} has nothing in the columns {', '.join(empty)}")
    if not rows:
        raise ValueError(f"{path} has {'a header, but ' if header else ''}no lines")
    return rows


def count(found: Found) -> int:
    """How many examples there are in all splits."""
    return sum(map(len, found.splits.values()))


def summary(found: Found) -> str:
    """How many examples each split has, and what is left out."""
    splits = ", ".join(f"{len(examples)} {split}" for split, examples in found.splits.items())
    return "\n".join([f"found {splits}", *found.notes, *listed(found.faults)])


def listed(faults: Sequence[Fault]) -> list[str]:
    """A line for each reason, with how many files and the first of them."""
    reasons = defaultdict(list)
    for fault in faults:
        reasons[fault.why].append(fault.path)
    return [f"left out {len(paths)}, each {why}: {some(paths)}" for why, paths in reasons.items()]


def some(names: Sequence[str]) -> str:
    """The first names, and how many more there are."""
    more = len(names) - _SHOWN
    return ", ".join(names[:_SHOWN]) + (f" and {more} more" if more > 0 else "")


def spread(things: Sequence[Any], number: int) -> list[Any]:
    """At most `number` of them, evenly spread."""
    places = np.linspace(0, len(things) - 1, min(number, len(things))).round().astype(int)
    return [things[place] for place in places]


def check_share(faults: Sequence[Fault], total: int, tolerance: float) -> None:
    """Raise ValueError, listing them, if more than the share `tolerance` of `total` files are at fault."""
    if len(faults) > tolerance * total:
        raise ValueError(
            f"{len(faults)} of {total} examples cannot be used, more than {tolerance:.3g} of all: mend them, "
            "or raise the tolerance\n" + "\n".join(listed(faults))
        )
