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
_NAMED = 3  # shifts or arms that a sentence names; of more it gives the number

_Beaten = tuple[tuple[str, tuple[str, ...]], ...]  # each baseline, and the shifts on which an arm beats it


class Finding(NamedTuple):
    """The best arm on one shift; of several equal ones, the first.

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
    these arms, the gain is theirs there, and a better arm is named beside it. It is empty without findings.
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
        gain = _largest_gain(results, findings(results, narrow), found)
        return f"{gain}. {claims}" if gain else claims
    return _largest_gain(results, found, found) or "No arm is better than the control on any test set"


def _columns_of_claims(main: Table) -> list[int]:
    """Return the positions of the columns that the paper's claims are about."""
    for names in ({SHIFTS["cc"], SHIFTS["3dcc"]}, {plain_name(AVERAGE), plain_name(WORST)}):
        if positions := [i for i, name in enumerate(main.columns) if name in names]:
            return positions
    return [i for i, name in enumerate(main.columns) if name not in (SHIFTS["clean"], FIDELITY)]


def _largest_gain(results: Results, found: Sequence[Finding], best_found: Sequence[Finding]) -> str:
    """Return the largest gain as a sentence; empty if there is none.

    `best_found` are the findings of all arms: the best arm is named too if the gain is another one's.
    """
    largest = max(found, key=lambda finding: finding.gain, default=None)
    if largest is None or largest.gain <= 1:
        return ""
    metric = results.main_metric
    change = "raises" if metric.higher_is_better else "cuts"
    where = "on clean images" if largest.shift == SHIFTS["clean"] else f"on “{largest.shift}”"
    gain = (
        f"Training on images of the arm “{largest.arm}” {change} {metric.name_in_text} ({metric.unit}) "
        f"{where} from {largest.before.mean} to {largest.after.mean}"
    )
    best = next(finding for finding in best_found if finding.shift == largest.shift)
    if best.after.mean != largest.after.mean:
        return f"{gain}; the best arm there is “{best.arm}” with {best.after.mean}"
    return gain


def _claims(results: Results, main: Table, claimed: Sequence[int]) -> str:
    """Return where each arm of the paper is better than each baseline; empty without such arms."""
    rows = {row.key: row for row in main.rows}
    arms = [rows[name] for name in _CLAIMED if name in rows and claimed]
    baselines = [rows[name] for name in _BASELINES if name in rows]
    arms_by_beaten: dict[_Beaten, list[str]] = {}
    for arm in arms:
        beaten = tuple(
            (
                baseline.label,
                tuple(
                    main.columns[i] for i in claimed if _is_better(results, baseline.cells[i], arm.cells[i])
                ),
            )
            for baseline in baselines
        )
        arms_by_beaten.setdefault(beaten, []).append(arm.label)
    if not arms_by_beaten:
        return ""
    text = "; ".join(_clause(names, beaten, len(claimed)) for beaten, names in arms_by_beaten.items())
    counts = [len(shifts) for beaten in arms_by_beaten for _, shifts in beaten]
    if min(counts) == len(claimed):
        text += ", as in the paper"
    if len(results.seeds) == 1:
        return f"{text}; one seed does not say how sure this is"
    times = ", each time" if any(counts) else ""
    return f"{text}{times} by more than both standard errors over {len(results.seeds)} seeds"


def _clause(arms: Sequence[str], beaten: _Beaten, total: int) -> str:
    """Return which baselines the arms beat on which of `total` shifts, and which ones they do not beat."""
    baselines: dict[str, list[str]] = {}  # by where the arms beat them
    for baseline, shifts in beaten:
        baselines.setdefault(_places(shifts, total), []).append(baseline)
    unbeaten = baselines.pop("", [])
    subject, plural = _joined(arms), len(arms) > 1
    if not baselines:
        if len(unbeaten) > 1:
            return f"{subject} {'beat' if plural else 'beats'} neither {_joined(unbeaten, 'nor')}"
        return f"{subject} {'do' if plural else 'does'} not beat {_joined(unbeaten)}"
    parts = [f"{_joined(names)} {where}" for where, names in baselines.items()]
    text = f"{subject} {'beat' if plural else 'beats'} {', and '.join(parts)}"
    return f"{text}, but not {_joined(unbeaten)}" if unbeaten else text


def _places(shifts: Sequence[str], total: int) -> str:
    """Return the shifts on which an arm is better, by name if there are few in all; empty for none."""
    if not shifts:
        return ""
    return f"on {len(shifts)} of {total} shifts" if total > _NAMED else f"on {_joined(shifts)}"


def _joined(names: Sequence[str], word: str = "and") -> str:
    """Return names in quotes, with commas and, before the last one, the word."""
    *others, last = [f"“{name}”" for name in names]
    return f"{', '.join(others)} {word} {last}" if others else last


def _is_better(results: Results, before: Cell, after: Cell) -> bool:
    """Return True if the second mean is better than the first by more than both standard errors together."""
    old, new = _number(before.mean), _number(after.mean)
    if old is None or new is None:
        return False
    gain = new - old if results.main_metric.higher_is_better else old - new
    return gain > float(before.error or 0) + float(after.error or 0)


def _finding(results: Results, shift: str, control: Row, rows: Sequence[Row], column: int) -> Finding:
    before = control.cells[column]
    best = _best(results, rows, column)
    clear = [row for row in rows if _is_better(results, before, row.cells[column])]
    if not clear:
        number = _number_of(best, column)
        if len(best) == len(rows) and number == with_error(before):
            sentence = f"{shift}: all arms equal the control ({number})."
            return Finding(sentence, 1.0, shift, best[0].label, before, best[0].cells[column])
        others = f"the best other {'one is' if len(best) == 1 else 'ones are'} {_names(best)} ({number})"
        if len(best) > _NAMED:
            others = f"the {len(best)} best others have {number}"
        sentence = f"{shift}: no arm is clearly better than the control ({with_error(before)}); {others}."
        return Finding(sentence, 1.0, shift, best[0].label, before, best[0].cells[column])
    claim = "the best"
    if not any(row in clear for row in best):
        best, claim = _best(results, clear, column), "the best of those clearly better than the control"
    after = best[0].cells[column]
    old, new = float(before.mean), float(after.mean)
    better, worse = (new, old) if results.main_metric.higher_is_better else (old, new)
    gain = better / worse if worse > 0 else math.inf
    sentence = (
        f"{shift}: {_names(best)} {'is' if len(best) == 1 else 'are'} {claim} "
        f"({_number_of(best, column)}, against {with_error(before)} of the control)."
    )
    return Finding(sentence, gain, shift, best[0].label, before, after)


def _best(results: Results, rows: Sequence[Row], column: int) -> list[Row]:
    """Return the rows with the best mean: several if means are equal at the digits shown."""
    means = [float(row.cells[column].mean) for row in rows]
    best = max(means) if results.main_metric.higher_is_better else min(means)
    return [row for row, mean in zip(rows, means, strict=True) if mean == best]


def _names(rows: Sequence[Row]) -> str:
    return _joined([row.label for row in rows]) if len(rows) <= _NAMED else f"{len(rows)} arms"


def _number_of(rows: Sequence[Row], column: int) -> str:
    """Return the mean of equally good rows; of a single row, with its standard error."""
    cell = rows[0].cells[column]
    return with_error(cell) if len(rows) == 1 else cell.mean


def with_error(cell: Cell) -> str:
    """Return a mean with its standard error, if it has one, as text that does not break."""
    return f"{cell.mean}\u00a0±\u00a0{cell.error}" if cell.error else cell.mean


def _number(text: str) -> float | None:
    try:
        return float(text)
    except ValueError:
        return None
