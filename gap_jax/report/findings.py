"""The findings of an experiment in words: the paper's claims, and the best arm on each shift."""

import math
from collections.abc import Sequence
from typing import NamedTuple

from gap_jax.report.arms import references
from gap_jax.report.results import Results
from gap_jax.report.tables import FIDELITY, SHIFTS, Cell, Row, Table

_CONTROL = "control"
_BASELINES = (_CONTROL, "agnostic")
_CLAIMED = ("adversarial", "guided-adversarial")  # the arms that the paper says are better than the baselines


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
    rows = {row.key: row for row in main.rows if row.key not in references(results)}
    control = rows.pop(_CONTROL, None)
    if control is None:
        return []
    found = []
    for i, shift in enumerate(main.columns):
        measured = [row for row in rows.values() if _number(row.cells[i].mean) is not None]
        if shift != FIDELITY and measured and _number(control.cells[i].mean) is not None:
            found.append(_finding(results, shift, control, measured, i))
    return found


def headline(results: Results, main: Table, found: Sequence[Finding]) -> str:
    """Return the largest gain, whether the paper's claims are seen in the main table, and how sure that is.

    The claims are that adversarial and guided adversarial prompts are better than the baselines under shift.
    With these arms, the gain is theirs. It is empty without findings.
    """
    if not found:
        return ""
    if claims := _claims(results, main):
        rows = tuple(row for row in main.rows if row.key in (_CONTROL, *_CLAIMED))
        gain = _largest_gain(results, findings(results, main._replace(rows=rows)))
        return f"{gain}. {claims}" if gain else claims
    return _largest_gain(results, found) or "No arm is better than the control on any test set"


def _largest_gain(results: Results, found: Sequence[Finding]) -> str:
    """Return the largest gain as a sentence; empty if there is none."""
    best = max(found, key=lambda finding: finding.gain, default=None)
    if best is None or best.gain <= 1:
        return ""
    metric = results.main_metric
    change = "raises" if metric.higher_is_better else "cuts"
    where = "on clean images" if best.shift == SHIFTS["clean"] else f"on “{best.shift}”"
    return (
        f"Training on images of the arm “{best.arm}” {change} {metric.name} ({metric.unit}) {where} "
        f"from {best.before.mean} to {best.after.mean}"
    )


def _claims(results: Results, main: Table) -> str:
    """Return on how many shifts each arm of the paper is better than each baseline; empty without them."""
    rows = {row.key: row for row in main.rows}
    shifts = [i for i, name in enumerate(main.columns) if name not in (SHIFTS["clean"], FIDELITY)]
    baselines = [rows[name] for name in _BASELINES if name in rows]
    total = "1 shift" if len(shifts) == 1 else f"{len(shifts)} shifts"
    clauses: list[str] = []
    for row in (rows[name] for name in _CLAIMED if name in rows and shifts):
        counts: list[str] = []
        for baseline in baselines:
            better = sum(_is_better(results, baseline.cells[i], row.cells[i]) for i in shifts)
            of_all = "" if clauses or counts else f" of {total}"
            counts.append(f"“{baseline.label}” on {better}{of_all}")
        clauses.append(f"“{row.label}” beats {' and '.join(counts)}")
    if not clauses:
        return ""
    one = "; one seed does not say how sure this is"
    several = f", each time by more than both standard errors over {len(results.seeds)} seeds"
    return "; ".join(clauses) + (one if len(results.seeds) == 1 else several)


def _is_better(results: Results, before: Cell, after: Cell) -> bool:
    """Return True if the second mean is better than the first by more than both standard errors together."""
    old, new = _number(before.mean), _number(after.mean)
    if old is None or new is None:
        return False
    gain = new - old if results.main_metric.higher_is_better else old - new
    return gain > float(before.error or 0) + float(after.error or 0)


def _finding(results: Results, shift: str, control: Row, rows: Sequence[Row], column: int) -> Finding:
    higher = results.main_metric.higher_is_better
    sign = 1 if higher else -1
    row = max(rows, key=lambda row: sign * float(row.cells[column].mean))
    before, after = control.cells[column], row.cells[column]
    old, new = float(before.mean), float(after.mean)
    if not _is_better(results, before, after):
        best = f"the best other one is “{row.label}” ({with_error(after)})"
        sentence = f"{shift}: no arm is clearly better than the control ({with_error(before)}); {best}."
        return Finding(sentence, 1.0, shift, row.label, before, after)
    better, worse = (new, old) if higher else (old, new)
    gain = better / worse if worse > 0 else math.inf
    numbers = f"{with_error(after)}, against {with_error(before)} of the control"
    return Finding(f"{shift}: “{row.label}” is the best ({numbers}).", gain, shift, row.label, before, after)


def with_error(cell: Cell) -> str:
    """Return a mean with its standard error, if it has one, as text that does not break."""
    return f"{cell.mean}\u00a0±\u00a0{cell.error}" if cell.error else cell.mean


def _number(text: str) -> float | None:
    try:
        return float(text)
    except ValueError:
        return None
