"""The figures of a report, as SVG for print and for the page, drawn without matplotlib's global state."""

import io
import math
import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import matplotlib
import numpy as np
from matplotlib.axes import Axes
from matplotlib.backends.backend_svg import FigureCanvasSVG
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.markers import MarkerStyle
from matplotlib.path import Path as MplPath
from matplotlib.ticker import MaxNLocator
from PIL import Image

from gap_jax.report.arms import INK, arm_styles
from gap_jax.report.results import AVERAGE, CONSTANT, ArmStyle, Frame, Prompt, Results, Values
from gap_jax.report.tables import average, estimate, plain_name, values_by_iteration
from gap_jax.tasks.metric import MetricStyle

WIDTH = 4.4  # of all figures but filmstrips, in inches: fits a column in print and a phone's screen
FAINT = "#8a8a93"
NOW = "now"  # ends the ids of the rules that mark the current step in `losses`

_STYLE: dict[Any, Any] = {
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
    """Return the curves of an optimised prompt's losses by step: one panel for each term.

    A dashed rule marks the step that early stopping chose. The rules whose ids end in `now` stand at step 0;
    `step_width` is the distance that one step moves them. Raises ValueError for a prompt without losses.
    """
    if not prompt.losses:
        raise ValueError(f"prompt {prompt.name!r} of arm {prompt.arm!r} has no losses: it was not optimised")
    count = len(prompt.losses)
    figure, axes = _panels(0.75 * count + 0.55, count, left=0.62, bottom=0.45, top=0.1)
    for i, (axis, (term, values)) in enumerate(zip(axes, prompt.losses.items(), strict=True)):
        axis.plot(values, color=arm.colour, marker="o" if len(values) == 1 else "")
        axis.set_xlim(0, max(prompt.steps, 1))
        low, high = axis.get_ylim()
        axis.set_ylim(low, high + 0.28 * (high - low))  # room for the term above its curve
        axis.yaxis.set_major_locator(MaxNLocator(3))
        axis.grid(axis="y")
        axis.text(0.99, 0.94, plain_name(term), transform=axis.transAxes, ha="right", va="top")
        axis.axvline(0, color=INK, lw=1).set_gid(f"{i}-{NOW}")
        if prompt.stopped is not None:
            axis.axvline(prompt.stopped, color=FAINT, lw=1, ls=(0, (3, 2)))
        if i < count - 1:
            axis.tick_params(labelbottom=False)
    axes[-1].set_xlabel("step" if prompt.stopped is None else "step (dashed: chosen by early stopping)")
    axes[-1].xaxis.set_major_locator(MaxNLocator(6, integer=True))
    return figure


def step_width(figure: Figure) -> float:
    """Return the width of one step in a figure of `losses`, in the units of its SVG."""
    (left, _), (right, _) = figure.axes[0].transData.transform([(0, 0), (1, 0)])
    return float(right - left) * 72 / figure.dpi


@_styled
def corruptions(results: Results, kind: str) -> Figure:
    """Return the main metric of each arm under each corruption, averaged over severities.

    `kind` is `cc` or `3dcc`. The last row is the mean over all corruptions.
    """
    columns = [column for column in results.columns if column.kind == kind]
    names = list(dict.fromkeys(column.name for column in columns))
    rows = [[column for column in columns if column.name == name] for name in names]
    metric, arms = next(iter(results.metrics)), arm_styles(results)
    values = {
        arm: [average(row, arm, metric) for row in [*rows, columns]]
        for arm in arms
        if any(average([column], arm, metric) for column in columns)
    }
    return _dot_plot(values, [*map(plain_name, names), "Mean"], arms, results.main_metric)


@_styled
def fidelity(results: Results) -> Figure:
    """Return the critic's main metric on each arm's images.

    Vertical lines mark the critic on real images and the constant prediction.
    """
    metric = results.main_metric
    arms = {name: arm for name, arm in arm_styles(results).items() if name in results.generated}
    labels = [arm.label for arm in arms.values()]
    left = max(1.45, 0.065 * max(map(len, labels), default=0))  # 0.065 inches: the usual width of a letter
    figure, (axis,) = _panels(0.25 * len(arms) + 0.95, left=left, bottom=0.78, top=0.08)
    for row, (name, arm) in enumerate(arms.items()):
        _plot_means(axis, [results.generated[name].critic], [row], arm, metric)
    lines = (("real images", results.critic_real, "-"), ("constant", results.critic_constant, "--"))
    for label, values, dashes in lines:
        if values:
            axis.axvline(metric.scale * estimate(values).mean, color=INK, lw=1, ls=dashes, label=label)
    _label_rows(axis, labels)
    axis.set_xlabel(f"critic's {metric.name_in_text} {metric.unit} on generated images")
    axis.margins(x=0.08)
    if axis.get_legend_handles_labels()[0]:
        figure.legend(loc="lower center", ncols=2)
    return figure


@_styled
def efficiency(results: Results, target: str) -> Figure:
    """Return each arm's main metric on a target shift by the number of generated images.

    The axis of images is logarithmic, except that it begins at 0. A dashed line marks the metric without
    generated images.
    """
    metric, curves = results.main_metric, results.efficiency[target]
    points = {arm: [(point.images, point.score) for point in points] for arm, points in curves.items()}
    figure, axis, counts = _curves(results, points, "generated images")
    without = next((points[0].score for points in curves.values() if points[0].images == 0), ())
    if without:
        axis.axhline(metric.scale * estimate(without).mean, color=FAINT, lw=1, ls=(0, (3, 2)))
    name = f"Average {metric.name_in_text}" if target == AVERAGE else metric.name
    axis.set_ylabel(f"{name} {metric.unit}")
    least = next((count for count in counts if count), 1)
    axis.set_xscale("symlog", linthresh=least, linscale=0.6)
    _label_apart(axis, counts)
    axis.minorticks_off()
    return figure


@_styled
def iterations(results: Results, shift: str) -> Figure:
    """Return each arm's main metric after iterations 1 to n; `shift` is a column of the main table."""
    values = values_by_iteration(results, shift)
    points = {arm: [(i + 1, value) for i, value in enumerate(scores)] for arm, scores in values.items()}
    figure, axis, counts = _curves(results, points, "iteration")
    axis.set_xticks(counts)
    return figure


@_styled
def filmstrip(prompt: Prompt, folder: str | Path, example: int = 0, most: int = 8) -> Figure:
    """Return the images of one example while its prompt is optimised, in columns.

    The first column has the original and its label; then come at most `most` steps, with the generated
    image, the prediction and, if there is one, the picture of the error.

    `folder` is the results file's folder. Raises FileNotFoundError for a picture that is missing.
    """
    pictures = prompt.examples[example]
    frames = _evenly_spaced(pictures.frames, most)
    columns = [
        (pictures.original, pictures.label, None),
        *((frame.generated, frame.prediction, frame.error) for frame in frames),
    ]
    rows = ("image", "label", "error") if frames[0].error else ("image", "label")
    mosaic, pitch = _mosaic(Path(folder), columns)
    cell, left, top = 0.8, 0.75, 0.25  # inches
    figure = Figure((left + cell * len(columns), top + len(rows) * cell))
    axis = figure.add_axes(
        (left / figure.get_figwidth(), 0, 1, 1 - top / figure.get_figheight()), anchor="NW"
    )
    axis.imshow(mosaic, interpolation="none")
    axis.set_axis_off()
    titles = ["original"]
    for i, frame in enumerate(frames):
        title = f"step {frame.step}" if i == 0 else str(frame.step)
        titles.append(f"{title}, stop" if frame.step == prompt.stopped else title)
    for i, title in enumerate(titles):
        axis.text((i + 0.48) * pitch, -0.05 * pitch, title, ha="center", va="bottom", size=8)
    for i, name in enumerate(rows):
        axis.text(-0.08 * pitch, (i + 0.48) * pitch, name, ha="right", va="center", size=8)
    return figure


def _mosaic(folder: Path, columns: Sequence[tuple[str, str, str | None]]) -> tuple[np.ndarray, int]:
    """Return columns of pictures on a transparent ground, and the distance between two pictures in pixels.

    All pictures are resized to the size of the first.
    """
    size = Image.open(folder / columns[0][0]).size
    pitch = max(size) + max(max(size) // 24, 1)
    rows = max(len(column) - column.count(None) for column in columns)
    ground = Image.new("RGBA", (pitch * len(columns), pitch * rows))
    for i, column in enumerate(columns):
        for j, path in enumerate(column):
            if path is not None:
                picture = Image.open(folder / path).convert("RGB").resize(size, Image.Resampling.NEAREST)
                ground.paste(picture, (i * pitch, j * pitch))
    return np.asarray(ground), pitch


def to_svg(figure: Figure) -> str:
    """Return a standalone SVG for print, on white, letters as outlines. Equal figures give equal text."""
    with matplotlib.rc_context(_STYLE | {"svg.fonttype": "path"}):
        return _save(figure, "white")


def to_html(figure: Figure, name: str, title: str) -> str:
    """Return an `<svg>` element for a page: in the page's text colour and font, without a background.

    - `name`: all ids in it begin with this.
    - `title`: the description that a screen reader reads out.
    """
    with matplotlib.rc_context(_STYLE | {"svg.fonttype": "none"}):
        svg = _save(figure, "none")
    ((head, content),) = re.findall(r"<svg[^>]*?(viewBox=\"[^\"]*\")[^>]*>(.*)</svg>", svg, re.DOTALL)
    content = re.sub(r"<metadata>.*?</metadata>|<!--.*?-->", "", content, flags=re.DOTALL)
    content = content.replace(INK, "currentColor")
    content = re.sub(r"font: (?:[a-z]+ )*([\d.]+px)[^;\"]*", r"font-size: \1", content)
    content = re.sub(r"\bid=\"", f'id="{name}-', content)
    content = re.sub(r"(href=\"#|url\(#)", rf"\g<1>{name}-", content)
    width = 1.6 * float(head.split()[2])  # points to pixels, a fifth larger than in print
    label = title.replace("&", "&amp;").replace('"', "&quot;").replace("<", "&lt;")
    return f'<svg {head} role="img" aria-label="{label}" style="max-width:{width:.0f}px">{content}</svg>'


def _save(figure: Figure, paper: str) -> str:
    figure.patch.set_facecolor(paper)
    for axis in figure.axes:
        axis.patch.set_facecolor("none")
    file = io.StringIO()
    FigureCanvasSVG(figure).print_svg(file, metadata={"Date": None, "Creator": None})
    return file.getvalue()


def _panels(
    height: float, rows: int = 1, *, left: float, bottom: float, top: float, legend: Sequence[Line2D] = ()
) -> tuple[Figure, list[Axes]]:
    """Return a figure of panels one above the other, with a legend below them.

    The height, without the legend, and the margins are in inches.
    """
    columns = 2 if all(len(str(line.get_label())) <= 26 for line in legend) else 1
    below = 0.185 * math.ceil(len(legend) / columns) + 0.08 if legend else 0
    height += below
    figure = Figure((WIDTH, height))
    axes = list(figure.subplots(rows, 1, squeeze=False)[:, 0])
    figure.subplots_adjust(
        left=left / WIDTH,
        right=1 - 0.12 / WIDTH,
        bottom=(bottom + below) / height,
        top=1 - top / height,
        hspace=0.12,
    )
    if legend:
        figure.legend(handles=legend, loc="lower center", ncols=columns, columnspacing=1.4, handlelength=2.2)
    return figure, axes


def _curves(
    results: Results, points: Mapping[str, Sequence[tuple[int, Values]]], label: str
) -> tuple[Figure, Axes, list[int]]:
    """Return a plot of each arm's main metric by a number, with standard errors, and all of the numbers.

    - `points`: the arm's numbers and, for each, one score per seed.
    - `label`: that of the axis of numbers.
    """
    metric = results.main_metric
    arms = {name: arm for name, arm in arm_styles(results).items() if name in points}
    legend = [Line2D([], [], label=arm.label, **_line_style(name, arm)) for name, arm in arms.items()]
    figure, (axis,) = _panels(2.9, left=0.5, bottom=0.45, top=0.12, legend=legend)
    levels: set[float] = set()
    for name, arm in arms.items():
        scores = [estimate(score) for _, score in points[name]]
        means = [metric.scale * score.mean for score in scores]
        levels |= {round(mean, 9) for mean in means}
        axis.errorbar(
            [number for number, _ in points[name]],
            means,
            [metric.scale * (score.error or 0) for score in scores],
            elinewidth=0.9,
            **_line_style(name, arm),
        )
    axis.margins(x=0.04)
    axis.grid(axis="y")
    if len(levels) == 1:  # a flat curve would get a scale of tiny steps, below 0, too
        axis.set_yticks(list(levels))
    axis.set_xlabel(label)
    axis.set_ylabel(f"{metric.name} {metric.unit}")
    return figure, axis, sorted({number for curve in points.values() for number, _ in curve})


def _label_apart(axis: Axes, numbers: Sequence[int]) -> None:
    """Set a tick at each of the rising numbers, and leave out labels that would touch the next one."""
    places = axis.xaxis.get_transform().transform(np.array(numbers, float))
    least = 0.09 * places.max(initial=0)  # of an axis that begins at 0: wider than a label of four digits
    texts, last = [], np.inf
    for number, place in zip(reversed(numbers), reversed(places), strict=True):
        apart = last - place > least
        texts.append(str(number) if apart else "")
        last = place if apart else last
    axis.set_xticks(numbers, texts[::-1])


def _line_style(name: str, arm: ArmStyle) -> dict[str, Any]:
    """Return matplotlib's options for an arm's curve; that of the constant prediction is dashed."""
    return {
        "color": arm.colour,
        "marker": _shape(arm.marker),
        "linestyle": "--" if name == CONSTANT else "-",
        "markersize": _MARKER_SIZES.get(arm.marker, 4.5),
    }


def _marker_style(arm: ArmStyle) -> dict[str, Any]:
    """Return matplotlib's options for an arm's marker without a line.

    The constant prediction, which has no marker, gets a tick.
    """
    marker = "|" if arm.marker == "None" else arm.marker
    size = _MARKER_SIZES.get(marker, 4.5)
    return {"color": arm.colour, "linestyle": "none", "marker": _shape(marker), "markersize": size}


def _shape(marker: str) -> str | MplPath:
    """Return a marker as matplotlib draws it: a letter or sign between dollars as its outline."""
    if not marker.startswith("$"):
        return marker
    with matplotlib.rc_context({"text.parse_math": True}):  # elsewhere, text between dollars stays as it is
        sign = MarkerStyle(marker)
    return sign.get_transform().transform_path(sign.get_path())


_MARKER_SIZES = {"*": 6.5, "D": 3.8, "s": 4, "|": 7} | dict.fromkeys("1234", 7)  # others: 4.5


def _dot_plot(
    values: Mapping[str, Sequence[Values]],
    names: Sequence[str],
    arms: Mapping[str, ArmStyle],
    metric: MetricStyle,
) -> Figure:
    """Return a plot with a row for each name and, within it, a lane for each arm of `values`.

    The last row, a mean, is set apart by a line.
    """
    legend = [Line2D([], [], label=arms[arm].label, **_marker_style(arms[arm])) for arm in values]
    figure, (axis,) = _panels(0.31 * len(names) + 0.55, left=1.25, bottom=0.45, top=0.08, legend=legend)
    lanes = np.linspace(-0.33, 0.33, len(values)) if len(values) > 1 else [0.0]
    for lane, (arm, entries) in zip(lanes, values.items(), strict=True):
        _plot_means(axis, entries, np.arange(len(entries)) + lane, arms[arm], metric)
    _label_rows(axis, names)
    axis.axhline(len(names) - 1.5, color=FAINT, lw=0.8)
    axis.set_xlabel(f"{metric.name} {metric.unit}")
    return figure


def _plot_means(
    axis: Axes, values: Sequence[Values], heights: Sequence[float], arm: ArmStyle, metric: MetricStyle
) -> None:
    """Plot means over seeds with their standard errors, each at its height."""
    scores = [estimate(entry) for entry in values]
    means = [metric.scale * score.mean for score in scores]
    errors = [metric.scale * (score.error or 0) for score in scores]
    axis.errorbar(means, heights, xerr=errors, elinewidth=0.9, **_marker_style(arm))


def _label_rows(axis: Axes, names: Sequence[str]) -> None:
    axis.set_yticks(range(len(names)), names)
    axis.set_ylim(len(names) - 0.5, -0.5)
    axis.spines["left"].set_visible(False)
    axis.grid(axis="x")
    for edge in np.arange(len(names) - 1) + 0.5:
        axis.axhline(edge, color=FAINT, lw=0.4, alpha=0.35)


def _evenly_spaced(frames: Sequence[Frame], most: int) -> list[Frame]:
    """Return at most `most` of the frames, evenly spaced, the first and the last among them."""
    places = np.linspace(0, len(frames) - 1, min(most, len(frames))).round().astype(int)
    return [frames[i] for i in np.unique(places)]
