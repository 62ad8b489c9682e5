"""The findings of an experiment in words: what the best arm changes on each shift, beside the control."""

import math
from collections.abc import Sequence
from typing import NamedTuple

from gap_jax.report.results import CONSTANT, Results
from gap_jax.report.tables import FIDELITY, SHIFTS, Cell, Row, Table

_CONTROL = "control"


class Finding(NamedTuple):
    """The best arm on one shift.

    - `sentence`: the finding as a sentence.
    - `gain`: the control's metric divided by the arm's, or the other way round, so that more is better; 1 if
      no arm is better than the control by more than both standard errors together.
    - `shift`, `arm`: their names as the tables show them.
    - `before`, `after`: the cells of the control and of the arm.
    """

    sentence: str
    gain: float
    shift: str
    arm: str
    before: Cell
    after: Cell


def findings(results: Results, main: Table) -> list[Finding]:
    """Return the finding on each test set of the main table, for results with a control and another arm."""
    rows = {row.key: row for row in main.rows}
    control = rows.pop(_CONTROL, None)
    rows.pop(CONSTANT, None)
    if control is None:
        return []
    found = []
    for i, shift in enumerate(main.columns):
        measured = [row for row in rows.values() if _number(row.cells[i].mean) is not None]
        if shift != FIDELITY and measured and _number(control.cells[i].mean) is not None:
            found.append(_finding(results, shift, control, measured, i))
    return found


def headline(results: Results, found: Sequence[Finding]) -> str:
    """Return the largest gain in one sentence, or that there is none; empty without findings."""
    if not found:
        return ""
    best = max(found, key=lambda finding: finding.gain)
    if best.gain <= 1:
        return "No arm is better than the control on any test set"
    metric = results.main_metric
    change = "raises" if metric.higher_is_better else "cuts"
    where = "on clean images" if best.shift == SHIFTS["clean"] else f"on “{best.shift}”"
    return (
        f"Training on images of the arm “{best.arm}” {change} {metric.name} ({metric.unit}) {where} "
        f"from {best.before.mean} to {best.after.mean}"
    )


def _finding(results: Results, shift: str, control: Row, rows: Sequence[Row], column: int) -> Finding:
    higher = results.main_metric.higher_is_better
    sign = 1 if higher else -1
    row = max(rows, key=lambda row: sign * float(row.cells[column].mean))
    before, after = control.cells[column], row.cells[column]
    old, new = float(before.mean), float(after.mean)
    margin = float(before.error or 0) + float(after.error or 0)
    numbers = f"{with_error(after)}, against {with_error(before)} of the control"
    if sign * (new - old) <= margin:
        best = f"the best is “{row.label}” ({numbers})"
        sentence = f"{shift}: no arm is clearly better than the control; {best}."
        return Finding(sentence, 1.0, shift, row.label, before, after)
    better, worse = (new, old) if higher else (old, new)
    gain = better / worse if worse > 0 else math.inf
    return Finding(f"{shift}: “{row.label}” is the best ({numbers}).", gain, shift, row.label, before, after)


def with_error(cell: Cell) -> str:
    """Return a mean with its standard error, if it has one, as text that does not break."""
    return f"{cell.mean}\u00a0±\u00a0{cell.error}" if cell.error else cell.mean


def _number(text: str) -> float | None:
    try:
        return float(text)
    except ValueError:
        return None
