"""Figures of an experiment, by matplotlib without its global state, as SVG for print and for the page."""

import io
import re
from collections.abc import Mapping, Sequence
from pathlib import Path

import matplotlib
import numpy as np
from matplotlib.axes import Axes
from matplotlib.backends.backend_svg import FigureCanvasSVG
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.ticker import MaxNLocator
from PIL import Image

from gap_jax.report.arms import INK, arms
from gap_jax.report.results import CONSTANT, ArmStyle, Prompt, Results, Values
from gap_jax.report.tables import average, estimate, plain_name
from gap_jax.tasks.metric import MetricStyle

WIDTH = 4.4  # inches, of all but the filmstrip: a column of print, and a phone's screen
FAINT = "#8a8a93"
NOW = "now"  # the id of the losses' rules at the current step

_STYLE = {
    "axes.edgecolor": FAINT,
    "axes.grid.axis": "both",
    "axes.labelcolor": INK,
    "axes.linewidth": 0.6,
    "axes.spines.right": False,
    "axes.spines.top": False,
    "font.size": 8.5,
    "grid.alpha": 0.3,
    "grid.color": FAINT,
    "grid.linewidth": 0.5,
    "legend.frameon": False,
    "legend.fontsize": 8,
    "lines.linewidth": 1.4,
    "lines.markersize": 4.5,
    "svg.hashsalt": "gap_jax",
    "text.color": INK,
    "text.parse_math": False,
    "xtick.color": INK,
    "xtick.major.size": 0,
    "ytick.color": INK,
    "ytick.major.size": 0,
}
_styled = matplotlib.rc_context(_STYLE)


@_styled
def losses(prompt: Prompt, arm: ArmStyle) -> Figure:
    """Each term of an optimised prompt's loss by step, one above the other; early stopping's step dashed.

    Rules with ids that end in `now` stand at step 0; `step_width` says how far a step moves them.
    Raises ValueError for a prompt without losses.
    """
    if not prompt.losses:
        raise ValueError(f"prompt {prompt.name!r} of {prompt.arm} has no losses: it was not optimised")
    count = len(prompt.losses)
    figure, axes = _figure(0.75 * count + 0.55, count, left=0.62, bottom=0.45, top=0.1)
    for i, (axis, (term, values)) in enumerate(zip(axes, prompt.losses.items(), strict=True)):
        axis.plot(values, color=arm.colour)
        axis.set_xlim(0, max(prompt.steps, 1))
        axis.yaxis.set_major_locator(MaxNLocator(3))
        axis.grid(axis="y")
        axis.text(0.99, 0.94, plain_name(term), transform=axis.transAxes, ha="right", va="top")
        axis.axvline(0, color=INK, lw=1).set_gid(f"{i}-{NOW}")
        if prompt.stopped is not None:
            axis.axvline(prompt.stopped, color=FAINT, lw=1, ls=(0, (3, 2)))
        if i < count - 1:
            axis.tick_params(labelbottom=False)
    axes[-1].set_xlabel("step" if prompt.stopped is None else "step (dashed: early stop)")
    axes[-1].xaxis.set_major_locator(MaxNLocator(6, integer=True))
    return figure


def step_width(figure: Figure) -> float:
    """Of a figure of `losses`: the width of one step, in the units of its SVG."""
    (left, _), (right, _) = figure.axes[0].transData.transform([(0, 0), (1, 0)])
    return float(right - left) * 72 / figure.dpi


@_styled
def corruptions(results: Results, kind: str) -> Figure:
    """The main metric under each corruption of `kind` (`cc` or `3dcc`), averaged over severities, by arm."""
    columns = [column for column in results.columns if column.kind == kind]
    names = list(dict.fromkeys(column.name for column in columns))
    rows = {name: [column for column in columns if column.name == name] for name in names}
    metric = next(iter(results.metrics))
    values = {
        arm: [average(row, arm, metric) for row in [*rows.values(), columns]]
        for arm in arms(results)
        if any(average([column], arm, metric) for column in columns)
    }
    return _dots(values, [*map(plain_name, names), "Mean"], arms(results), results.main)


@_styled
def fidelity(results: Results) -> Figure:
    """The critic's main metric on each arm's images; lines mark real images and the constant prediction."""
    shown, metric = arms(results), results.main
    names = [name for name in shown if name in results.generated]
    figure, (axis,) = _figure(0.25 * len(names) + 0.95, left=1.45, bottom=0.78, top=0.08)
    for row, name in enumerate(names):
        _marks(axis, [results.generated[name].critic], [row], shown[name], metric)
    lines = (("real images", results.critic_real, "-"), ("constant", results.critic_constant, "--"))
    for label, values, dashes in lines:
        if values:
            axis.axvline(metric.scale * estimate(values).mean, color=INK, lw=1, ls=dashes, label=label)
    _rows(axis, [shown[name].label for name in names])
    axis.set_xlabel(f"critic's {metric.name} {metric.unit} on generated images")
    axis.margins(x=0.08)
    if axis.get_legend_handles_labels()[0]:
        figure.legend(loc="lower center", ncols=2)
    return figure


@_styled
def efficiency(results: Results, target: str) -> Figure:
    """The main metric on a target shift by the number of generated images, logarithmic but for 0, by arm."""
    metric = results.main
    curves = {name: arm for name, arm in arms(results).items() if name in results.efficiency[target]}
    legend = [Line2D([], [], label=arm.label, **_look(name, arm)) for name, arm in curves.items()]
    figure, (axis,) = _figure(2.9, left=0.5, bottom=0.45, top=0.12, legend=legend)
    for name, arm in curves.items():
        points = results.efficiency[target][name]
        found = [estimate(point.score) for point in points]
        axis.errorbar(
            [point.images for point in points],
            [metric.scale * entry.mean for entry in found],
            [metric.scale * (entry.error or 0) for entry in found],
            elinewidth=0.9,
            **_look(name, arm),
        )
    counts = sorted({p.images for points in results.efficiency[target].values() for p in points})
    least = next((count for count in counts if count), 1)
    axis.set_xscale("symlog", linthresh=least, linscale=0.6)
    axis.set_xticks(counts, [str(count) for count in counts])
    axis.minorticks_off()
    axis.margins(x=0.04)
    axis.grid(axis="y")
    axis.set_xlabel("generated images")
    axis.set_ylabel(f"{metric.name} {metric.unit}")
    return figure


@_styled
def filmstrip(prompt: Prompt, folder: str | Path, example: int = 0, most: int = 8) -> Figure:
    """What a prompt makes of one example as it is optimised: a column for each of at most `most` steps.

    `folder` is what pictures' paths are relative to. Raises FileNotFoundError.
    """
    shown = prompt.examples[example]
    frames = _spread(shown.frames, most)
    columns = [(shown.original, shown.label, None), *((f.generated, f.prediction, f.error) for f in frames)]
    rows = ("image", "label", "error") if frames[0].error else ("image", "label")
    mosaic, side = _mosaic(Path(folder), columns)
    cell, left, top = 0.8, 0.75, 0.25  # inches
    figure = Figure((left + cell * len(columns), top + len(rows) * cell))
    axis = figure.add_axes(
        (left / figure.get_figwidth(), 0, 1, 1 - top / figure.get_figheight()), anchor="NW"
    )
    axis.imshow(mosaic, interpolation="none")
    axis.set_axis_off()
    titles = [
        "original",
        *(f"step {frame.step}" if i == 0 else str(frame.step) for i, frame in enumerate(frames)),
    ]
    for i, (title, frame) in enumerate(zip(titles, [None, *frames], strict=True)):
        stop = ", stop" if frame is not None and frame.step == prompt.stopped else ""
        axis.text((i + 0.48) * side, -0.05 * side, title + stop, ha="center", va="bottom", size=8)
    for i, name in enumerate(rows):
        axis.text(-0.08 * side, (i + 0.48) * side, name, ha="right", va="center", size=8)
    return figure


def _mosaic(folder: Path, columns: Sequence[Sequence[str | None]]) -> tuple[np.ndarray, int]:
    """Pictures of the first one's size, columns of them, on clear ground; and the distance of two."""
    size = Image.open(folder / columns[0][0]).size
    side = max(size) + max(max(size) // 24, 1)
    rows = max(len(column) - column.count(None) for column in columns)
    ground = Image.new("RGBA", (side * len(columns), side * rows))
    for i, column in enumerate(columns):
        for j, path in enumerate(column):
            if path is not None:
                ground.paste(Image.open(folder / path).convert("RGB").resize(size, 0), (i * side, j * side))
    return np.asarray(ground), side


def to_svg(figure: Figure) -> str:
    """A standalone SVG for print: white paper, letters as outlines. Equal figures give equal text."""
    with matplotlib.rc_context(_STYLE | {"svg.fonttype": "path"}):
        return _save(figure, "white")


def to_html(figure: Figure, name: str, title: str) -> str:
    """An `<svg>` element for a page: its text colour and letters, no paper; ids begin with `name`.

    `title` is what it says to those who cannot see it.
    """
    with matplotlib.rc_context(_STYLE | {"svg.fonttype": "none"}):
        svg = _save(figure, "none")
    body = re.search(r"<svg[^>]*?(viewBox=\"[^\"]*\")[^>]*>(.*)</svg>", svg, re.DOTALL)
    head, content = body[1], re.sub(r"<metadata>.*?</metadata>|<!--.*?-->", "", body[2], flags=re.DOTALL)
    content = content.replace(INK, "currentColor")
    content = re.sub(r"font: (?:[a-z]+ )*([\d.]+px)[^;\"]*", r"font-size: \1", content)
    content = re.sub(r"\bid=\"", f'id="{name}-', content)
    content = re.sub(r"(href=\"#|url\(#)", rf"\g<1>{name}-", content)
    width = 1.6 * float(head.split()[2])  # a fifth larger than in print
    label = title.replace("&", "&amp;").replace('"', "&quot;").replace("<", "&lt;")
    return f'<svg {head} role="img" aria-label="{label}" style="max-width:{width:.0f}px">{content}</svg>'


def _save(figure: Figure, paper: str) -> str:
    figure.patch.set_facecolor(paper)
    for axis in figure.axes:
        axis.patch.set_facecolor("none")
    file = io.StringIO()
    FigureCanvasSVG(figure).print_svg(file, metadata={"Date": None, "Creator": None})
    return file.getvalue()


def _figure(
    height: float, rows: int = 1, *, left: float, bottom: float, top: float, legend: Sequence[Line2D] = ()
) -> tuple[Figure, Sequence[Axes]]:
    """Panels one above the other, with a legend below; height (without it) and margins in inches."""
    below = 0.185 * ((len(legend) + 1) // 2) + 0.08 if legend else 0
    height += below
    figure = Figure((WIDTH, height))
    axes = figure.subplots(rows, 1, squeeze=False)[:, 0]
    figure.subplots_adjust(
        left=left / WIDTH,
        right=1 - 0.12 / WIDTH,
        bottom=(bottom + below) / height,
        top=1 - top / height,
        hspace=0.12,
    )
    if legend:
        figure.legend(handles=legend, loc="lower center", ncols=2, columnspacing=1.4, handlelength=2.2)
    return figure, axes


def _look(name: str, arm: ArmStyle) -> dict[str, object]:
    return {
        "color": arm.colour,
        "marker": arm.marker,
        "linestyle": "--" if name == CONSTANT else "-",
        "markersize": _SIZES.get(arm.marker, 4.5),
    }


def _point(arm: ArmStyle) -> dict[str, object]:
    """A mark without a line; the constant prediction, which has no marker, is a tick."""
    marker = "|" if arm.marker == "None" else arm.marker
    return {"color": arm.colour, "linestyle": "none", "marker": marker, "markersize": _SIZES.get(marker, 4.5)}


_SIZES = {"*": 6.5, "D": 3.8, "s": 4, "|": 7}


def _dots(
    values: Mapping[str, Sequence[Values]],
    names: Sequence[str],
    shown: Mapping[str, ArmStyle],
    metric: MetricStyle,
) -> Figure:
    """A row for each name, in it a lane for each arm; the last row, an average, is set apart."""
    legend = [Line2D([], [], label=shown[arm].label, **_point(shown[arm])) for arm in values]
    figure, (axis,) = _figure(0.31 * len(names) + 0.55, left=1.25, bottom=0.45, top=0.08, legend=legend)
    lanes = np.linspace(-0.33, 0.33, len(values)) if len(values) > 1 else [0.0]
    for lane, (arm, entries) in zip(lanes, values.items(), strict=True):
        _marks(axis, entries, np.arange(len(entries)) + lane, shown[arm], metric)
    _rows(axis, names)
    axis.axhline(len(names) - 1.5, color=FAINT, lw=0.8)
    axis.set_xlabel(f"{metric.name} {metric.unit}")
    return figure


def _marks(
    axis: Axes, values: Sequence[Values], heights: Sequence[float], arm: ArmStyle, metric: MetricStyle
) -> None:
    """Means over seeds with their standard errors."""
    found = [estimate(entry) for entry in values]
    means, errors = (
        [metric.scale * x for x in column]
        for column in zip(*((e.mean, e.error or 0) for e in found), strict=True)
    )
    axis.errorbar(means, heights, xerr=errors, elinewidth=0.9, **_point(arm))


def _rows(axis: Axes, names: Sequence[str]) -> None:
    axis.set_yticks(range(len(names)), names)
    axis.set_ylim(len(names) - 0.5, -0.5)
    axis.spines["left"].set_visible(False)
    axis.grid(axis="x")
    for edge in np.arange(len(names) - 1) + 0.5:
        axis.axhline(edge, color=FAINT, lw=0.4, alpha=0.35)


def _spread(frames: Sequence, most: int) -> list:
    """At most `most` of the frames, evenly, first and last among them."""
    kept = np.unique(np.linspace(0, len(frames) - 1, min(most, len(frames))).round().astype(int))
    return [frames[i] for i in kept]
