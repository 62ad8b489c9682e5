"""Tables of an experiment, in Markdown and LaTeX: means over seeds with their standard errors.

The paper's table (Yeo et al., arXiv 2403.15309, Table 1) has an arm in each row; Common Corruptions and 3DCC
are averaged over all corruptions and severities.
"""

import math
from collections.abc import Iterable, Mapping, Sequence
from statistics import fmean, stdev
from typing import NamedTuple

from gap_jax.report.arms import arms
from gap_jax.report.results import CONSTANT, KINDS, ArmStyle, Column, Results, Values
from gap_jax.tasks.metric import MetricStyle

DIGITS = 2


SHIFTS = {"clean": "Clean", "cc": "Common Corruptions", "3dcc": "3D Common Corruptions"}


class Estimate(NamedTuple):
    """A mean over seeds and its standard error, None of a single seed; NaN: not measured."""

    mean: float
    error: float | None


class Cell(NamedTuple):
    """A number as a table shows it, digits and all; `best` among the trained arms."""

    mean: str
    error: str
    best: bool = False


class Row(NamedTuple):
    """`key` is the arm's name, or what else the row is of."""

    key: str
    label: str
    cells: tuple[Cell, ...]


class Table(NamedTuple):
    """A heading, what the numbers are, the first column's name and the others', and rows."""

    title: str
    caption: str
    corner: str
    columns: tuple[str, ...]
    rows: tuple[Row, ...]


def estimate(values: Sequence[float]) -> Estimate:
    """The mean and its standard error: the sample's standard deviation (n-1) over √n. None without values."""
    mean = fmean(values) if values else math.nan
    if len(values) < 2 or not math.isfinite(mean):
        return Estimate(mean, None)
    return Estimate(mean, stdev(values) / math.sqrt(len(values)))


def average(columns: Iterable[Column], arm: str, metric: str) -> Values:
    """An arm's metric for each seed, averaged over test sets; empty unless it is measured on all of them."""
    found = [column.scores.get(arm, {}).get(metric, ()) for column in columns]
    return tuple(fmean(values) for values in zip(*found, strict=True)) if all(found) else ()


def main(results: Results, metric: str | None = None) -> Table:
    """The paper's table: clean, the mean over each kind of corruption, domains.

    Of the main metric, which None is, also label fidelity.
    """
    first = next(iter(results.metrics))
    metric = metric or first
    shown = results.metrics[metric]
    groups = _groups(results.columns)
    values = {
        label: {arm: average(columns, arm, metric) for arm in arms(results)}
        for label, columns in groups.items()
    }
    caption = shown.caption
    if metric == first and results.generated:
        values["Label fidelity"] = _fidelity(results)
        caption += f"; label fidelity is the critic's {shown.name} on the generated images"
        real = _cell(results.critic_real, shown)
        caption += f" (on real ones {real.mean} ± {real.error})" if real.error else ""
    by_column = [_cells(column, shown) for column in values.values()]
    rows = [
        Row(name, arm.label, tuple(cells[name] for cells in by_column)) for name, arm in arms(results).items()
    ]
    title = "Results" if metric == first else f"Results in {shown.name}"
    return Table(title, caption, "ArmStyle", tuple(values), tuple(rows))


def corruptions(results: Results, kind: str) -> Table:
    """The main metric by corruption of `kind` (`cc`, `3dcc`), averaged over severities, and arm."""
    shown, metric = arms(results), next(iter(results.metrics))
    names = dict.fromkeys(column.name for column in results.columns if column.kind == kind)
    rows = []
    for name in names:
        columns = [column for column in results.columns if (column.kind, column.name) == (kind, name)]
        cells = _cells({arm: average(columns, arm, metric) for arm in shown}, results.main)
        rows.append(Row(name, plain_name(name), tuple(cells[arm] for arm in shown)))
    caption = f"{results.main.caption}; each averaged over severities"
    return Table(SHIFTS[kind], caption, "Corruption", _labels(shown), tuple(rows))


def fidelity(results: Results) -> Table:
    """The critic's main metric on each arm's images and real ones, and the constant's; how many images."""
    shown, metric = arms(results), results.main
    rows = []
    for name in shown:
        if name not in results.generated:
            continue
        generated = results.generated[name]
        removed = ", ".join(f"{count} {reason}" for reason, count in generated.removed.items() if count)
        cells = (_cell(generated.critic, metric), Cell(str(generated.kept), ""), Cell(removed or "0", ""))
        rows.append(Row(name, shown[name].label, cells))
    for name, values in (("real images", results.critic_real), (CONSTANT, results.critic_constant)):
        if values:
            rows.append(
                Row(name, name.capitalize(), (_cell(values, metric), Cell(_NONE, ""), Cell(_NONE, "")))
            )
    caption = f"{metric.caption}, of the critic on generated images; images over all seeds"
    return Table(
        "Label fidelity", caption, "Images of", (f"Critic's {metric.name}", "Kept", "Removed"), tuple(rows)
    )


def efficiency(results: Results, target: str) -> Table:
    """The main metric on a target shift, a row for each arm, a column for each number of generated images."""
    curves = {
        arm: {point.images: point.score for point in points}
        for arm, points in results.efficiency[target].items()
    }
    counts = sorted({images for curve in curves.values() for images in curve})
    by_count = [
        _cells({arm: curve.get(count, ()) for arm, curve in curves.items()}, results.main) for count in counts
    ]
    rows = [
        Row(name, arm.label, tuple(cells[name] for cells in by_count))
        for name, arm in arms(results).items()
        if name in curves
    ]
    title = f"Data efficiency: {plain_name(target)}"
    caption = f"{results.main.caption}, by the number of generated images"
    return Table(title, caption, "ArmStyle", tuple(map(str, counts)), tuple(rows))


def tables(results: Results) -> list[Table]:
    """All tables that there are numbers for."""
    measured = {
        metric
        for column in results.columns
        for scores in column.scores.values()
        for metric in scores
    }  # fmt: skip
    kinds = {column.kind for column in results.columns}
    found = [main(results, metric) for metric in results.metrics if metric in measured]
    found += [corruptions(results, kind) for kind in ("cc", "3dcc") if kind in kinds]
    found += [fidelity(results)] if results.generated else []
    return found + [efficiency(results, target) for target in results.efficiency]


def markdown(table: Table) -> str:
    """A table as GitHub shows it, its heading and caption above."""

    def line(cells):
        return "| " + " | ".join(cell.replace("|", "\\|") for cell in cells) + " |"

    def text(cell):
        mean = f"**{cell.mean}**" if cell.best else cell.mean
        return f"{mean} ± {cell.error}" if cell.error else mean

    head = [line((table.corner, *table.columns)), line((":--", *["--:"] * len(table.columns)))]
    body = [line((row.label, *map(text, row.cells))) for row in table.rows]
    return "\n".join([f"## {table.title}", "", f"{table.caption}.", "", *head, *body, ""])


def latex(table: Table) -> str:
    """A table with `booktabs` rules, as a float; the constant prediction's row apart."""

    def text(cell):
        mean = rf"\textbf{{{escape(cell.mean)}}}" if cell.best else escape(cell.mean)
        return rf"{mean} $\pm$ {escape(cell.error)}" if cell.error else mean

    def line(cells):
        return "    " + " & ".join(cells) + r" \\"

    body = []
    for row in table.rows:
        body += [r"    \midrule"] * (row.key == CONSTANT)
        body.append(line((escape(row.label), *map(text, row.cells))))
    return "\n".join(
        [
            r"\begin{table}",
            r"  \centering",
            rf"  \caption{{{escape(table.title)}: {escape(table.caption)}.}}",
            rf"  \begin{{tabular}}{{l{'r' * len(table.columns)}}}",
            r"    \toprule",
            line(map(escape, (table.corner, *table.columns))),
            r"    \midrule",
            *body,
            r"    \bottomrule",
            r"  \end{tabular}",
            r"\end{table}",
            "",
        ]
    )


def escape(text: str) -> str:
    """Text as LaTeX prints it."""
    return text.translate(_LATEX)


def plain_name(name: str) -> str:
    """`gaussian_noise` as `Gaussian noise`, `fog_3d` as `Fog 3D`."""
    words = " ".join(_SHORT.get(word, word) for word in name.split("_"))
    return words[:1].upper() + words[1:]


_NONE = "–"
_SHORT = {"3d": "3D", "iso": "ISO", "jpeg": "JPEG", "xy": "XY"}
_LATEX = str.maketrans(
    {character: "\\" + character for character in "&%$#_{}"}
    | {"\\": r"\textbackslash{}", "~": r"\textasciitilde{}", "^": r"\textasciicircum{}"}
    | {"<": "$<$", ">": "$>$", "×": r"$\times$", "δ": r"$\delta$", "±": r"$\pm$", "–": "--"}
)


def _groups(columns: Sequence[Column]) -> dict[str, list[Column]]:
    """The main table's columns, in the order of `KINDS`, each with the test sets that it averages."""
    found: dict[str, list[Column]] = {}
    for kind in KINDS:
        for column in columns:
            if column.kind == kind:
                found.setdefault(SHIFTS.get(kind, plain_name(column.name)), []).append(column)
    return found


def _fidelity(results: Results) -> dict[str, Values]:
    found = {arm: results.generated[arm].critic if arm in results.generated else () for arm in arms(results)}
    return found | ({CONSTANT: results.critic_constant} if CONSTANT in found else {})


def _cells(values: Mapping[str, Values], metric: MetricStyle) -> dict[str, Cell]:
    """Arms' cells, the best of the trained ones marked, at the digits shown; none where all are the same."""
    cells = {arm: _cell(entry, metric) for arm, entry in values.items()}
    trained = {arm: float(cell.mean) for arm, cell in cells.items() if arm != CONSTANT and cell.mean != _NONE}
    if len(set(trained.values())) < 2:
        return cells
    best = (max if metric.higher_is_better else min)(trained.values())
    return {arm: cell._replace(best=trained.get(arm) == best) for arm, cell in cells.items()}


def _cell(values: Values, metric: MetricStyle) -> Cell:
    mean, error = estimate(values)
    if not math.isfinite(mean):
        return Cell(_NONE, "")
    scaled = "" if error is None else f"{metric.scale * error:.{DIGITS}f}"
    return Cell(f"{metric.scale * mean:.{DIGITS}f}", scaled)


def _labels(shown: Mapping[str, ArmStyle]) -> tuple[str, ...]:
    return tuple(arm.label for arm in shown.values())
