"""CSV tables that describe data sets, read with errors that name the line."""

import csv
import io
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

from gap_jax.data.files import Fault
from gap_jax.data.reading.text import read_text


class TableRow(NamedTuple):
    """A row of a table: its place in the file, such as `folder/metadata.csv:2`, and its cells by column."""

    place: str
    cells: dict[str, str]

    def number(self, column: str) -> int:
        """Return a cell as an integer; raise a `Fault` of the line if it is not one."""
        try:
            return int(self.cells[column])
        except ValueError as error:
            raise self.fault(f"must have an integer as {column}, found {self.cells[column]!r}") from error

    def fault(self, reason: str) -> Fault:
        """Return the `Fault` of this line."""
        return Fault(self.place, reason)


def read_table(
    path: Path, columns: Sequence[str], delimiter: str = ",", header: bool = True
) -> list[TableRow]:
    """Read the rows of a CSV file as `read_rows` does; raise the first `Fault` of a row."""
    rows, faults = read_rows(path, columns, delimiter, header)
    for fault in faults:
        raise fault
    return rows


def read_rows(
    path: Path, columns: Sequence[str], delimiter: str = ",", header: bool = True
) -> tuple[list[TableRow], list[Fault]]:
    """Read the rows of a CSV file whose header names at least `columns`, and the faults of other rows.

    With `header=False` the file has no header, and its columns are exactly `columns`. Blanks around cells are
    cut off, and empty lines are passed over. A row with an empty cell in `columns` is a fault. Raises
    FileNotFoundError if the file is missing, ValueError if a column is missing, there are no rows, or the
    file is no text.
    """
    if not path.is_file():
        kind = "a CSV file" if header else "a table without a header,"
        raise FileNotFoundError(f"{path} is missing: it must be {kind} with the columns {', '.join(columns)}")
    reader = csv.reader(io.StringIO(read_text(path)), delimiter=delimiter)
    try:
        lines = [(reader.line_num, [cell.strip() for cell in line]) for line in reader]
    except csv.Error as error:
        raise ValueError(f"{path}:{reader.line_num} is not CSV: {error}") from error
    lines = [(number, cells) for number, cells in lines if any(cells)]
    names = (lines.pop(0)[1] if lines else []) if header else list(columns)
    if missing := [name for name in columns if name not in names]:
        raise ValueError(f"{path} lacks the columns {', '.join(missing)}; found {', '.join(names) or 'none'}")
    rows, faults = [], []
    for number, cells in lines:
        row = TableRow(f"{path}:{number}", dict(zip(names, cells, strict=False)))
        if empty := [name for name in columns if not row.cells.get(name)]:
            faults.append(row.fault(f"is empty in the columns {', '.join(empty)}"))
        else:
            rows.append(row)
    if not rows and not faults:
        raise ValueError(f"{path} has {'a header but ' if header else ''}no rows")
    return rows, faults
