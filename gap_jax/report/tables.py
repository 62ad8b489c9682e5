"""The tables of a report, in Markdown and LaTeX: means over seeds with their standard errors.

As in the paper's Table 1 (Yeo et al., arXiv 2403.15309), the main table has a row for each arm, and Common
Corruptions and 3DCC are averaged over all corruptions and severities.
"""

import html
import math
import re
from collections.abc import Collection, Iterable, Mapping, Sequence
from statistics import fmean, stdev
from typing import NamedTuple

from gap_jax.report.arms import arm_styles, iterated_arms, references
from gap_jax.report.results import CONSTANT, KINDS, Column, Results, Values
from gap_jax.tasks.metric import MetricStyle

DIGITS = 2  # after the decimal point
FIDELITY = "Label fidelity"  # column of the main table
SHIFTS = {"clean": "Clean", "cc": "Common Corruptions", "3dcc": "3D Common Corruptions"}


class Estimate(NamedTuple):
    """A mean over seeds and its standard error.

    The mean is NaN if a seed was not measured; the error is None then, and if there is one seed only.
    """

    mean: float
    error: float | None


class Cell(NamedTuple):
    """A mean and its standard error (empty: none) as text.

    It is the `best` if no other arm has a better mean; references are not compared.
    """

    mean: str
    error: str
    best: bool = False


class Row(NamedTuple):
    """A row of a table; `key` is the name of the arm, or of the corruption, that it belongs to."""

    key: str
    label: str
    cells: tuple[Cell, ...]


class Table(NamedTuple):
    """A table: heading, caption, heads of the first column (`corner`) and of the other columns, and rows."""

    title: str
    caption: str
    corner: str
    columns: tuple[str, ...]
    rows: tuple[Row, ...]


def estimate(values: Sequence[float]) -> Estimate:
    """Return the mean and its standard error: the sample's standard deviation (with n-1) divided by √n."""
    mean = fmean(values) if values else math.nan
    if len(values) < 2 or not math.isfinite(mean):
        return Estimate(mean, None)
    return Estimate(mean, stdev(values) / math.sqrt(len(values)))


def average(columns: Iterable[Column], arm: str, metric: str) -> Values:
    """Return an arm's metric for each seed, averaged over test sets.

    Empty if the arm was not measured on every one of them.
    """
    scores = [column.scores.get(arm, {}).get(metric, ()) for column in columns]
    return tuple(fmean(values) for values in zip(*scores, strict=True)) if all(scores) else ()


def main(results: Results, metric: str | None = None) -> Table:
    """Return the paper's table: clean images, the mean over each kind of corruption, and each domain.

    `metric` is a name in `results.metrics`; None is the main one, whose table also has label fidelity.
    """
    first = next(iter(results.metrics))
    metric = metric or first
    style, arms = results.metrics[metric], arm_styles(results)
    values = {
        label: {arm: average(columns, arm, metric) for arm in arms}
        for label, columns in shifts(results.columns).items()
    }
    caption = style.caption
    if metric == first and results.generated:
        values[FIDELITY] = _fidelity_by_arm(results, arms)
        caption += f"; label fidelity is the critic's {style.name_in_text} on the generated images"
        real = _cell(results.critic_real, style)
        if real.mean != _NONE:
            caption += f" (on real images: {real.mean}{f' ± {real.error}' if real.error else ''})"
    columns = [_cells(column, style, references(results)) for column in values.values()]
    rows = [Row(name, arm.label, tuple(cells[name] for cells in columns)) for name, arm in arms.items()]
    title = "Results" if metric == first else f"Results in {style.name}"
    return Table(title, caption, "Arm", tuple(values), tuple(rows))


def corruptions(results: Results, kind: str) -> Table:
    """Return the main metric under each corruption, averaged over severities, with a column for each arm.

    `kind` is `cc` or `3dcc`.
    """
    arms, metric = arm_styles(results), next(iter(results.metrics))
    names = dict.fromkeys(column.name for column in results.columns if column.kind == kind)
    rows = []
    for name in names:
        columns = [column for column in results.columns if (column.kind, column.name) == (kind, name)]
        cells = _cells(
            {arm: average(columns, arm, metric) for arm in arms}, results.main_metric, references(results)
        )
        rows.append(Row(name, plain_name(name), tuple(cells[arm] for arm in arms)))
    caption = f"{results.main_metric.caption}; averaged over the severities of each corruption"
    labels = tuple(arm.label for arm in arms.values())
    return Table(SHIFTS[kind], caption, "Corruption", labels, tuple(rows))


def fidelity(results: Results) -> Table:
    """Return the critic's main metric on each arm's images, with the numbers of images kept and removed.

    The last rows have the critic's metric on real images and that of the constant prediction.
    """
    metric, rows = results.main_metric, []
    for name, arm in arm_styles(results).items():
        if name not in results.generated:
            continue
        generated = results.generated[name]
        removed = ", ".join(f"{count} {reason}" for reason, count in generated.removed.items() if count)
        cells = (_cell(generated.critic, metric), Cell(str(generated.kept), ""), Cell(removed or "0", ""))
        rows.append(Row(name, arm.label, cells))
    for name, values in (("real images", results.critic_real), (CONSTANT, results.critic_constant)):
        if values:
            cells = (_cell(values, metric), Cell(_NONE, ""), Cell(_NONE, ""))
            rows.append(Row(name, name.capitalize(), cells))
    subject = f"The critic's {metric.name_in_text}"
    caption = f"{subject} {metric.unit}, {metric.better}; numbers of images are totals over all seeds"
    columns = (f"Critic's {metric.name_in_text}", "Kept", "Removed")
    return Table(FIDELITY, caption, "Images of", columns, tuple(rows))


def efficiency(results: Results, target: str) -> Table:
    """Return the main metric on a target shift: a row for each arm, a column for each number of images."""
    curves = {
        arm: {point.images: point.score for point in points}
        for arm, points in results.efficiency[target].items()
    }
    counts = sorted({images for curve in curves.values() for images in curve})
    columns = [
        _cells(
            {arm: curve.get(count, ()) for arm, curve in curves.items()},
            results.main_metric,
            references(results),
        )
        for count in counts
    ]
    rows = [
        Row(name, arm.label, tuple(cells[name] for cells in columns))
        for name, arm in arm_styles(results).items()
        if name in curves
    ]
    title = f"Data efficiency: {plain_name(target)}"
    caption = f"{results.main_metric.caption}; columns are numbers of generated images"
    return Table(title, caption, "Arm", tuple(map(str, counts)), tuple(rows))


def iterations(results: Results, shift: str) -> Table:
    """Return the main metric after each iteration: a row for each arm, a column for each iteration.

    `shift` is a column of the main table, averaged as there.
    """
    arms, styles = iterated_arms(results), arm_styles(results)
    values = values_by_iteration(results, shift)
    count = max(map(len, values.values()))
    columns = [
        _cells(
            {arm: values[arm][i] for arm in arms if i < len(values[arm])},
            results.main_metric,
            references(results),
        )
        for i in range(count)
    ]
    empty = Cell(_NONE, "")
    rows = [Row(arm, styles[arm].label, tuple(cells.get(arm, empty) for cells in columns)) for arm in arms]
    caption = f"{results.main_metric.caption}; columns are iterations"
    return Table(f"Iterations: {shift}", caption, "Arm", tuple(str(i + 1) for i in range(count)), tuple(rows))


def values_by_iteration(results: Results, shift: str) -> dict[str, list[Values]]:
    """Return each arm's main metric under a shift after iterations 1 to n, one value per seed."""
    columns, metric = shifts(results.columns)[shift], next(iter(results.metrics))
    return {
        arm: [average(columns, name, metric) for name in names]
        for arm, names in iterated_arms(results).items()
    }


def iterated_shifts(results: Results) -> list[str]:
    """Return the main table's columns of test sets if there were several iterations."""
    return list(shifts(results.columns)) if iterated_arms(results) else []


def models(results: Results, metric: str) -> Table:
    """Return a metric of several models: a row for each kind of images, a column for each model."""
    style = results.metrics[metric]
    names = tuple(results.models[0].scores)
    rows = [
        Row(
            "",
            row.name[:1].upper() + row.name[1:],
            tuple(_cell(row.scores[name][metric], style) for name in names),
        )
        for row in results.models
    ]
    title = f"Several models in {style.name}"
    caption = f"{style.caption}; rows are kinds of images, columns are the models that are measured on them"
    return Table(title, caption, "Images", names, tuple(rows))


def models_tables(results: Results) -> list[Table]:
    """Return the table of several models in every metric, the main one first; none for one model."""
    return [models(results, metric) for metric in results.metrics] if results.models else []


def main_tables(results: Results) -> list[Table]:
    """Return the main table of every metric that the results have numbers for, the main metric first."""
    metrics = {metric for column in results.columns for scores in column.scores.values() for metric in scores}
    return [main(results, metric) for metric in results.metrics if metric in metrics]


def all_tables(results: Results) -> list[Table]:
    """Return every table that the results have numbers for, the main tables first."""
    kinds = {column.kind for column in results.columns}
    tables = main_tables(results)
    tables += [corruptions(results, kind) for kind in ("cc", "3dcc") if kind in kinds]
    tables += [fidelity(results)] if results.generated else []
    tables += [iterations(results, shift) for shift in iterated_shifts(results)]
    tables += [efficiency(results, target) for target in results.efficiency]
    return tables + models_tables(results)


def markdown(table: Table) -> str:
    """Return a table in GitHub's Markdown, below its heading and caption."""

    def line(cells: Iterable[str]) -> str:
        return "| " + " | ".join(markdown_text(cell).replace("|", "\\|") for cell in cells) + " |"

    def text(cell: Cell) -> str:
        mean = f"**{cell.mean}**" if cell.best else cell.mean
        return f"{mean} ± {cell.error}" if cell.error else mean

    title, caption = markdown_text(table.title), markdown_text(table.caption)
    head = [line((table.corner, *table.columns)), line((":--", *["--:"] * len(table.columns)))]
    body = [line((row.label, *map(text, row.cells))) for row in table.rows]
    return "\n".join([f"## {title}", "", f"{caption}.", "", *head, *body, ""])


def markdown_text(text: str) -> str:
    """Return a text as one line of Markdown, in which HTML is shown and not obeyed."""
    return re.sub(
        r"&(?=#?\w+;)|<(?=[a-zA-Z/!?])", lambda found: html.escape(found[0]), " ".join(text.split())
    )


def latex(table: Table) -> str:
    """Return a table as a LaTeX float with `booktabs` rules; a rule sets the constant prediction apart."""

    def text(cell: Cell) -> str:
        mean = rf"\textbf{{{escape(cell.mean)}}}" if cell.best else escape(cell.mean)
        return rf"{mean} $\pm$ {escape(cell.error)}" if cell.error else mean

    def line(cells: Iterable[str]) -> str:
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
    """Return text with LaTeX's special characters escaped."""
    return text.translate(_LATEX)


def plain_name(name: str) -> str:
    """Return a name in words: `gaussian_noise` becomes `Gaussian noise`, `fog_3d` becomes `Fog 3D`."""
    words = " ".join(_SHORT.get(word, word) for word in name.split("_"))
    return words[:1].upper() + words[1:]


_NONE = "–"
_SHORT = {"3d": "3D", "iso": "ISO", "jpeg": "JPEG", "xy": "XY"}
_LATEX = str.maketrans(
    {character: "\\" + character for character in "&%$#_{}"}
    | {"\\": r"\textbackslash{}", "~": r"\textasciitilde{}", "^": r"\textasciicircum{}"}
    | {"<": "$<$", ">": "$>$", "×": r"$\times$", "δ": r"$\delta$", "±": r"$\pm$", "–": "--"}
)


def shifts(columns: Sequence[Column]) -> dict[str, list[Column]]:
    """Return the test sets that each column of the main table averages, in the order of `KINDS`."""
    groups: dict[str, list[Column]] = {}
    for kind in KINDS:
        for column in columns:
            if column.kind == kind:
                groups.setdefault(SHIFTS.get(kind, plain_name(column.name)), []).append(column)
    return groups


def _fidelity_by_arm(results: Results, arms: Iterable[str]) -> dict[str, Values]:
    values = {arm: results.generated[arm].critic if arm in results.generated else () for arm in arms}
    return values | ({CONSTANT: results.critic_constant} if CONSTANT in values else {})


def _cells(values: Mapping[str, Values], metric: MetricStyle, unmarked: Collection[str]) -> dict[str, Cell]:
    """Return the cell of each arm, those of the best arms marked, except for the arms `unmarked`.

    Means are compared at the digits shown; if all are equal, none is marked.
    """
    cells = {arm: _cell(entry, metric) for arm, entry in values.items()}
    compared = {
        arm: float(cell.mean) for arm, cell in cells.items() if arm not in unmarked and cell.mean != _NONE
    }
    if len(set(compared.values())) < 2:
        return cells
    best = (max if metric.higher_is_better else min)(compared.values())
    return {arm: cell._replace(best=compared.get(arm) == best) for arm, cell in cells.items()}


def _cell(values: Values, metric: MetricStyle) -> Cell:
    mean, error = estimate(values)
    if not math.isfinite(mean):
        return Cell(_NONE, "")
    return Cell(
        f"{metric.scale * mean:.{DIGITS}f}", "" if error is None else f"{metric.scale * error:.{DIGITS}f}"
    )
