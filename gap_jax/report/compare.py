"""The page that puts the results of several runs side by side: numbers, settings and pictures."""

import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from gap_jax.files import write_whole
from gap_jax.report import tables
from gap_jax.report.arms import arm_styles
from gap_jax.report.embedded import data_uri
from gap_jax.report.page import css_styles, flattened, render
from gap_jax.report.results import CONSTANT, ArmStyle, Column, Prompt, Results, Values, load

_CLEAR = 2  # standard errors; a larger difference is marked


def write_comparison(runs: Sequence[str | Path], path: str | Path) -> Path:
    """Write a page that compares runs, and return its path.

    - `runs`: two or more work folders, or their files `results.json`, in the order of the page's columns.
      Later runs are compared with the first one.

    Raises FileNotFoundError for a run without results, and ValueError for fewer than two runs, a run that is
    given twice, and runs that share no metric or no test set.
    """
    names = _names(runs)
    files = [run / "results.json" if run.is_dir() else run for run in map(Path, runs)]
    for file in files:
        if not file.is_file():
            raise FileNotFoundError(f"there is no {file}: give work folders of experiments that have ended")
    results = dict(zip(names, map(load, files), strict=True))
    folders = dict(zip(names, (file.parent for file in files), strict=True))
    styles: dict[str, ArmStyle] = {}
    for run in results.values():
        styles = {**arm_styles(run), **styles}
    if CONSTANT in styles:
        styles[CONSTANT] = styles.pop(CONSTANT)  # the last row
    html = render(
        "compare.html",
        runs=[{"name": name, "results": run, "command": _command(run)} for name, run in results.items()],
        arms=css_styles(styles),
        constant=CONSTANT,
        metrics=comparisons(results, styles),
        settings=_different_settings(results),
        pictures=_pictures(results, folders, styles),
        paired=len({run.seeds for run in results.values()}) == 1,
        clear=_CLEAR,
    )
    path = Path(path)
    write_whole(path, html.encode())
    return path


def comparisons(
    results: Mapping[str, Results], styles: Mapping[str, ArmStyle]
) -> list[tuple[str, list[tables.Table]]]:
    """Return, for each metric that all runs have, its caption and a table for each test set that all have.

    A table has a row for each arm, a column for each run, and one for each later run's difference from the
    first. Runs with the same seeds are compared seed by seed. Raises ValueError if there is no such table.
    """
    first = next(iter(results.values()))
    groups = [tables.shifts(run.columns) for run in results.values()]
    compared = []
    for metric, style in first.metrics.items():
        if any(run.metrics.get(metric) != style for run in results.values()):
            continue
        shared = [shift for shift in groups[0] if all(shift in group for group in groups)]
        made = [
            _comparison(results, [group[shift] for group in groups], styles, metric, shift)
            for shift in shared
        ]
        if made := [table for table in made if table.rows]:
            compared.append((style.caption, made))
    if not compared:
        raise ValueError(
            "these runs cannot be compared, because they share no metric on any test set: "
            + "; ".join(f"{name} has {', '.join(run.metrics)}" for name, run in results.items())
        )
    return compared


def _comparison(
    results: Mapping[str, Results],
    columns: Sequence[Sequence[Column]],
    styles: Mapping[str, ArmStyle],
    metric: str,
    shift: str,
) -> tables.Table:
    rows, scale = [], next(iter(results.values())).metrics[metric].scale
    for arm, style in styles.items():
        values = [tables.average(sets, arm, metric) for sets in columns]
        if not any(values):
            continue
        cells = [_cell(tables.estimate([scale * value for value in entry])) for entry in values]
        seeds = [run.seeds for run in results.values()]
        for entry, own in zip(values[1:], seeds[1:], strict=True):
            cells.append(_difference(values[0], entry, own == seeds[0], scale))
        rows.append(tables.Row(arm, style.label, tuple(cells)))
    names = list(results)
    differences = ["Difference"] if len(names) == 2 else [f"{name} − {names[0]}" for name in names[1:]]
    return tables.Table(shift, "", "Arm", (*names, *differences), tuple(rows))


def _difference(first: Values, other: Values, paired: bool, scale: float) -> tables.Cell:
    """Return how much larger the other mean is, marked if the difference is clear."""
    if not first or not other:
        return tables.Cell("–", "")
    if paired:
        found = tables.estimate([scale * (b - a) for a, b in zip(first, other, strict=True)])
    else:
        before, after = (tables.estimate([scale * value for value in entry]) for entry in (first, other))
        errors = (before.error, after.error)
        error = None if None in errors else math.hypot(*(error for error in errors if error is not None))
        found = tables.Estimate(after.mean - before.mean, error)
    clear = found.error is not None and abs(found.mean) > _CLEAR * found.error
    return _cell(found, "+")._replace(best=clear)


def _cell(found: tables.Estimate, sign: str = "") -> tables.Cell:
    if not math.isfinite(found.mean):
        return tables.Cell("–", "")
    error = "" if found.error is None else f"{found.error:.{tables.DIGITS}f}"
    return tables.Cell(f"{found.mean:{sign}.{tables.DIGITS}f}".replace("-", "−"), error)


def _names(runs: Sequence[str | Path]) -> list[str]:
    """Return a short name of each run: the last part of its path or, if these are not unique, the whole."""
    paths = [Path(run).parent if Path(run).name == "results.json" else Path(run) for run in runs]
    if len(paths) < 2:
        raise ValueError(f"give two or more work folders to compare, found {len(paths)}")
    if len({path.resolve() for path in paths}) < len(paths):
        raise ValueError(f"a run is given twice: {', '.join(map(str, paths))}")
    short = [path.name for path in paths]
    return short if len(set(short)) == len(short) and all(short) else [str(path) for path in paths]


def _command(run: Results) -> str:
    return run.origin.command if run.origin else ""


def _different_settings(results: Mapping[str, Results]) -> list[tuple[str, list[str]]]:
    """Return the settings that are not the same in all runs, each with its value in each run."""
    flat = [dict(flattened(run.config)) for run in results.values()]
    names = dict.fromkeys(name for config in flat for name in config)
    rows = [(name, [config.get(name, "–") for config in flat]) for name in names]
    return [(name, values) for name, values in rows if len(set(values)) > 1]


def _pictures(
    results: Mapping[str, Results], folders: Mapping[str, Path], styles: Mapping[str, ArmStyle]
) -> list[dict[str, Any]]:
    """Return, for each arm and target, an image of each run that draws one, with the words of its prompt."""
    shown = [
        {(prompt.arm, prompt.target): prompt for prompt in reversed(run.prompts) if prompt.examples}
        for run in results.values()
    ]
    rows = []
    for arm, target in dict.fromkeys(key for prompts in shown for key in prompts):
        cards = []
        for (name, folder), prompts in zip(folders.items(), shown, strict=True):
            if prompt := prompts.get((arm, target)):
                uri, small = data_uri(folder / _chosen(prompt))
                words = " · ".join(row[0][0] for row in prompt.words if row) or prompt.name
                cards.append({"run": name, "uri": uri, "small": small, "words": words})
        rows.append({"arm": arm, "label": styles[arm].label, "target": target, "cards": cards})
    order = list(styles)
    return sorted(rows, key=lambda row: order.index(row["arm"]))


def _chosen(prompt: Prompt) -> str:
    """Return the picture of the first image, drawn with the embeddings that are used."""
    end = prompt.steps if prompt.stopped is None else prompt.stopped
    return min(prompt.examples[0].frames, key=lambda frame: abs(frame.step - end)).generated
