"""CSV tables that describe data sets, read with errors that name the line."""

import csv
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple


class TableRow(NamedTuple):
    """A row of a table: its place in the file, such as `folder/metadata.csv:2`, and its cells by column."""

    place: str
    cells: dict[str, str]

    def number(self, column: str) -> int:
        """Return a cell as an integer; raise ValueError naming the line if it is not one."""
        try:
            return int(self.cells[column])
        except ValueError as error:
            raise ValueError(
                f"{self.place}: {column} must be an integer, found {self.cells[column]!r}"
            ) from error


def read_table(
    path: Path, columns: Sequence[str], delimiter: str = ",", header: bool = True
) -> list[TableRow]:
    """Read the rows of a CSV file whose header names at least `columns`.

    With `header=False` the file has no header, and its columns are exactly `columns`. Raises
    FileNotFoundError if the file is missing, ValueError naming the columns or the line if a column is
    missing, a cell of `columns` is empty, or there are no rows.
    """
    if not path.is_file():
        kind = "a CSV file" if header else "a table without a header,"
        raise FileNotFoundError(f"{path} is missing: it must be {kind} with the columns {', '.join(columns)}")
    with path.open(encoding="utf-8-sig", newline="") as stream:
        table = csv.DictReader(stream, None if header else columns, delimiter=delimiter)
        names = table.fieldnames or []
        missing = [name for name in columns if name not in names]
        if missing:
            raise ValueError(
                f"{path} lacks the columns {', '.join(missing)}; found {', '.join(names) or 'none'}"
            )
        rows = [TableRow(f"{path}:{table.line_num}", cells) for cells in table]
    for row in rows:
        empty = [name for name in columns if not row.cells[name]]
        if empty:
            raise ValueError(f"{row.place} is empty in the columns {', '.join(empty)}")
    if not rows:
        raise ValueError(f"{path} has {'a header but ' if header else ''}no rows")
    return rows
