"""The findings of an experiment in words: the paper's claims, and the best arm on each shift."""

import math
from collections.abc import Sequence
from typing import NamedTuple

from gap_jax.report.arms import references
from gap_jax.report.results import AVERAGE, WORST, Results
from gap_jax.report.tables import FIDELITY, SHIFTS, Cell, Row, Table, plain_name

_CONTROL = "control"
_BASELINES = (_CONTROL, "agnostic")
_CLAIMED = ("adversarial", "guided-adversarial")  # the arms that the paper says are better than the baselines
_NAMED = 3  # shifts that the headline names; of more it gives the number


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

    The claims are that adversarial and guided adversarial prompts are better than the baselines under
    corruptions, or on the average and in the worst of several domains; without these, on all shifts. With
    these arms, the gain is theirs there. It is empty without findings.
    """
    if not found:
        return ""
    claimed = _columns_of_claims(main)
    if claims := _claims(results, main, claimed):
        rows = [row for row in main.rows if row.key in (_CONTROL, *_CLAIMED)]
        narrow = main._replace(
            columns=tuple(main.columns[i] for i in claimed),
            rows=tuple(row._replace(cells=tuple(row.cells[i] for i in claimed)) for row in rows),
        )
        gain = _largest_gain(results, findings(results, narrow))
        return f"{gain}. {claims}" if gain else claims
    return _largest_gain(results, found) or "No arm is better than the control on any test set"


def _columns_of_claims(main: Table) -> list[int]:
    """Return the positions of the columns that the paper's claims are about."""
    for names in ({SHIFTS["cc"], SHIFTS["3dcc"]}, {plain_name(AVERAGE), plain_name(WORST)}):
        if positions := [i for i, name in enumerate(main.columns) if name in names]:
            return positions
    return [i for i, name in enumerate(main.columns) if name not in (SHIFTS["clean"], FIDELITY)]


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


def _claims(results: Results, main: Table, claimed: Sequence[int]) -> str:
    """Return where each arm of the paper is better than each baseline; empty without such arms."""
    rows = {row.key: row for row in main.rows}
    arms = [rows[name] for name in _CLAIMED if name in rows and claimed]
    arms_by_clause: dict[str, list[str]] = {}
    all_seen = True
    for arm in arms:
        baselines: dict[str, list[str]] = {}  # by where the arm beats them
        for baseline in (rows[name] for name in _BASELINES if name in rows):
            better = [
                main.columns[i] for i in claimed if _is_better(results, baseline.cells[i], arm.cells[i])
            ]
            all_seen &= len(better) == len(claimed)
            baselines.setdefault(_places(better, len(claimed)), []).append(f"“{baseline.label}”")
        beaten = " and ".join(f"{' and '.join(names)} {where}" for where, names in baselines.items())
        arms_by_clause.setdefault(beaten, []).append(f"“{arm.label}”")
    if not arms_by_clause:
        return ""
    clauses = [
        f"{' and '.join(names)} {'beat' if len(names) > 1 else 'beats'} {beaten}"
        for beaten, names in arms_by_clause.items()
    ]
    text = "; ".join(clauses) + (", as in the paper" if all_seen else "")
    if len(results.seeds) == 1:
        return f"{text}; one seed does not say how sure this is"
    return f"{text}, each time by more than both standard errors over {len(results.seeds)} seeds"


def _places(shifts: Sequence[str], total: int) -> str:
    """Return the shifts on which an arm is better, by name if there are few in all."""
    if total > _NAMED:
        return f"on {len(shifts)} of {total} shifts"
    return f"on {' and '.join(f'“{shift}”' for shift in shifts)}" if shifts else "nowhere"


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
