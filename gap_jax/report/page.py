"""The page of a report: one HTML file that holds all that it shows; its tables and figures lie beside it.

The page opens from disk and loads nothing, which its content security policy enforces. Like the paper's
project page, it lets a reader step through an optimisation, and compare arms, prompts and target domains.
"""

import dataclasses
import json
import os
import re
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any
from urllib.parse import quote

from jinja2 import Environment, FileSystemLoader, StrictUndefined
from matplotlib.figure import Figure

from gap_jax.files import write_whole
from gap_jax.report import figures, tables
from gap_jax.report.arms import INK, arm_styles
from gap_jax.report.citations import citations
from gap_jax.report.embedded import EmbeddedPictures
from gap_jax.report.findings import findings, headline
from gap_jax.report.results import CONSTANT, ArmStyle, ExamplePictures, Frame, Prompt, Results, load

_MODELS_EXAMPLES = 2  # images of each kind that are shown with the predictions of all models
_FOLDER = Path(__file__).parent


def write_page(results_path: str | Path, folder: str | Path) -> Path:
    """Write a report into `folder` and return the path of its page, `index.html`.

    Beside the page lie `table.md`, `table.tex` and `figures/*.svg`. Nothing is written before everything is
    made; each file is replaced when the new one is complete, the page last.

    Raises ValueError for an invalid results file and for a picture that cannot be read, and
    FileNotFoundError for a picture that is missing.
    """
    results_path, folder = Path(results_path), Path(folder)
    results = load(results_path)
    gallery = EmbeddedPictures(results, results_path.parent)
    all_tables = tables.all_tables(results)
    figures_by_name = dict(_figures(results, results_path.parent))
    title = tables.markdown_text(results.title)
    files = {
        "table.md": "\n".join([f"# {title}", "", *map(tables.markdown, all_tables)]),
        "table.tex": "\n".join(map(tables.latex, all_tables)),
        **{f"figures/{name}.svg": figures.to_svg(figure) for name, figure in figures_by_name.items()},
        "index.html": _page(results, gallery, figures_by_name, _links(results_path, folder, results)),
    }
    for name, text in files.items():
        write_whole(folder / name, text.encode())
    return folder / "index.html"


def _figures(results: Results, folder: Path) -> Iterator[tuple[str, Figure]]:
    """Yield all figures with the names of their files.

    Every optimised prompt gets its losses; the first one of each arm and target also gets a filmstrip.
    """
    kinds = {column.kind for column in results.columns}
    yield from ((kind, figures.corruptions(results, kind)) for kind in ("cc", "3dcc") if kind in kinds)
    if results.generated:
        yield "fidelity", figures.fidelity(results)
    for i, target in enumerate(results.efficiency):
        yield _file_name("efficiency", i, target), figures.efficiency(results, target)
    for i, shift in enumerate(tables.iterated_shifts(results)):
        yield _file_name("iterations", i, shift), figures.iterations(results, shift)
    arms, done = arm_styles(results), set()
    for i, prompt in enumerate(results.prompts):
        if prompt.losses:
            yield _losses_name(i, prompt), figures.losses(prompt, arms[prompt.arm])
        group = (prompt.arm, prompt.target)
        if group not in done and prompt.examples and len(prompt.examples[0].frames) > 1:
            done.add(group)
            yield _file_name("filmstrip", i, *filter(None, group)), figures.filmstrip(prompt, folder)


def _losses_name(index: int, prompt: Prompt) -> str:
    return _file_name("losses", index, prompt.arm, prompt.target or "")


def _links(results_path: Path, folder: Path, results: Results) -> dict[str, Any]:
    """Return the addresses, relative to the page, of the results file and of each arm's files."""

    def address(path: Path) -> str:
        return quote(Path(os.path.relpath(path, folder)).as_posix())

    artefacts = results.origin.artefacts if results.origin else {}
    arms = {
        arm: {kind: address(results_path.parent / path) for kind, path in paths.items()}
        for arm, paths in artefacts.items()
        if arm in arm_styles(results)
    }
    kinds = dict.fromkeys(kind for paths in arms.values() for kind in paths)
    return {"results": address(results_path), "kinds": list(kinds), "arms": arms}


def _page(
    results: Results,
    gallery: EmbeddedPictures,
    figures_by_name: Mapping[str, Figure],
    links: Mapping[str, Any],
) -> str:
    """Return the HTML of the page."""
    arms = arm_styles(results)
    prompts = [
        _prompt_data(i, prompt, arms[prompt.arm], gallery.numbers, figures_by_name)
        for i, prompt in enumerate(results.prompts)
    ]
    order = {name: i for i, name in enumerate(arms)}
    groups = _groups(prompts, order)
    explored = _explored(prompts, arms)
    start = _start(groups, explored)
    main = tables.main_tables(results)
    found = findings(results, main[0]) if main else []
    return render(
        "page.html",
        results=results,
        arms=css_styles(arms),
        prompts=prompts,
        explored=explored,
        arms_explored=[arms[group["arm"]].label for group in explored],
        groups=groups,
        start=start,
        examples=max((len(prompt["examples"]) for prompt in prompts), default=0),
        guided=_guided(groups),
        main=main,
        headline=headline(results, main[0], found) if main else "",
        findings=[finding.sentence for finding in found],
        links=links,
        citations=citations(results),
        shifts=_shifts(results, figures_by_name),
        fidelity=_fidelity(results, figures_by_name),
        efficiency=_efficiency(results, figures_by_name),
        iterations=_iterations(results, figures_by_name),
        models=_models(results, gallery.numbers),
        config=list(flattened(results.config)),
        constant=CONSTANT,
        uris=gallery.uris,
        small=gallery.small,
        data={
            "label": results.label.capitalize(),
            "pictures": gallery.uris,
            "small": [int(small) for small in gallery.small],
            "prompts": prompts,
            "start": start,
            "explored": [group["prompts"] for group in explored],
            "groups": [[prompt["index"] for prompt in group["prompts"]] for group in groups],
        },
    )


def render(template: str, **values: Any) -> str:
    """Return the HTML that a template of this folder makes of the values; names are escaped in it."""
    environment = Environment(
        loader=FileSystemLoader(_FOLDER),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    return environment.get_template(template).render(**values)


def _prompt_data(
    index: int,
    prompt: Prompt,
    arm: ArmStyle,
    numbers: Mapping[str, int],
    figures_by_name: Mapping[str, Figure],
) -> dict[str, Any]:
    """Return what the template and the page's script need of a prompt; pictures are given by number."""
    data = {
        "index": index,
        "arm": prompt.arm,
        "label": arm.label,
        "name": prompt.name,
        "seed": prompt.seed,
        "steps": prompt.steps,
        "stopped": prompt.stopped,
        "target": prompt.target,
        "targets": [numbers[path] for path in prompt.targets],
        "target_note": prompt.target_note,
        "words": [[(word, f"{cosine:.2f}") for word, cosine in row] for row in prompt.words],
        "terms": {term: [f"{value:.3g}" for value in values] for term, values in prompt.losses.items()},
        "examples": [_example_data(prompt, example, numbers) for example in prompt.examples],
        "losses": None,
    }
    if prompt.losses:
        figure = figures_by_name[_losses_name(index, prompt)]
        title = f"Losses of the {arm.label} prompt {prompt.name}, by step"
        data["losses"] = figures.to_html(figure, f"losses-{index}", title)
        data["step_width"] = figures.step_width(figure)
    return data


def _example_data(prompt: Prompt, example: ExamplePictures, numbers: Mapping[str, int]) -> dict[str, Any]:
    """Return the pictures of an example; `chosen` is the frame nearest to the embeddings that are used."""
    steps = [frame.step for frame in example.frames]
    end = prompt.steps if prompt.stopped is None else prompt.stopped
    return {
        "label": numbers[example.label],
        "original": numbers[example.original],
        "frames": [_frame_data(frame, numbers) for frame in example.frames],
        "chosen": min(range(len(steps)), key=lambda i: abs(steps[i] - end)),
    }


def _frame_data(frame: Frame, numbers: Mapping[str, int]) -> dict[str, int]:
    data = {
        "step": frame.step,
        "generated": numbers[frame.generated],
        "prediction": numbers[frame.prediction],
    }
    return data if frame.error is None else data | {"error": numbers[frame.error]}


def _explored(prompts: Sequence[Mapping[str, Any]], arms: Mapping[str, ArmStyle]) -> list[dict[str, Any]]:
    """Return the arms with optimised prompts, each with its prompts' indices.

    The arm `adversarial` comes first, its earlier iterations next, then the others in their order. Within an
    arm, prompts with the most steps come first: they show the most.
    """
    groups: dict[str, dict[str, Any]] = {}
    for prompt in prompts:
        if any(len(example["frames"]) > 1 for example in prompt["examples"]):
            group = groups.setdefault(prompt["arm"], {"arm": prompt["arm"], "prompts": []})
            group["prompts"].append(prompt["index"])
    for group in groups.values():
        group["prompts"].sort(key=lambda index: -len(prompts[index]["examples"][0]["frames"]))

    order = list(arms)

    def place(arm: str) -> tuple[bool, bool, int]:
        return arm != "adversarial", arms[arm].earlier_of != "adversarial", order.index(arm)

    return [groups[arm] for arm in sorted(groups, key=place)]


def _groups(prompts: Sequence[Mapping[str, Any]], order: Mapping[str, int]) -> list[dict[str, Any]]:
    """Return the prompts with pictures, grouped by arm and target, in the arms' order."""
    groups: dict[tuple[str, str | None], dict[str, Any]] = {}
    for prompt in prompts:
        if prompt["examples"]:
            key = (prompt["arm"], prompt["target"])
            group = groups.setdefault(key, {"arm": key[0], "target": key[1], "prompts": []})
            group["prompts"].append(prompt)
    return sorted(groups.values(), key=lambda group: order[group["arm"]])


def _start(groups: Sequence[Mapping[str, Any]], explored: Sequence[Mapping[str, Any]]) -> int:
    """Return the place, in its arm, of the prompt that is explored first: all arms begin with that place."""
    first = explored[0]["prompts"][0] if explored else None
    places = (i for group in groups for i, prompt in enumerate(group["prompts"]) if prompt["index"] == first)
    return next(places, 0)


def _guided(groups: Sequence[Mapping[str, Any]]) -> list[dict[str, Any]]:
    """Return the targets of prompts with pictures, each with the groups that are guided towards it."""
    targets: dict[str, dict[str, Any]] = {}
    for group in groups:
        if name := group["target"]:
            target = {"name": name, "pictures": group["prompts"][0]["targets"], "groups": []}
            targets.setdefault(name, target)["groups"].append(group)
    return list(targets.values())


def _shifts(results: Results, figures_by_name: Mapping[str, Figure]) -> list[dict[str, Any]]:
    shifts = []
    for kind in filter(figures_by_name.__contains__, ("cc", "3dcc")):
        subject = f"{results.main_metric.name} under {tables.SHIFTS[kind]}, by corruption and arm"
        title = f"{subject}; the table below has the numbers"
        svg = figures.to_html(figures_by_name[kind], f"shift-{kind}", title)
        shifts.append({"svg": svg, "table": tables.corruptions(results, kind)})
    return shifts


def _fidelity(results: Results, figures_by_name: Mapping[str, Figure]) -> dict[str, Any] | None:
    if not results.generated:
        return None
    subject = f"The critic's {results.main_metric.name_in_text} on generated images, by arm"
    title = f"{subject}; the table beside it has the numbers"
    svg = figures.to_html(figures_by_name["fidelity"], "fidelity", title)
    return {"svg": svg, "table": tables.fidelity(results)}


def _efficiency(results: Results, figures_by_name: Mapping[str, Figure]) -> list[dict[str, Any]]:
    entries = []
    for i, target in enumerate(results.efficiency):
        subject = f"{results.main_metric.name} on {target} by the number of generated images"
        title = f"{subject}; the table below has the numbers"
        figure = figures_by_name[_file_name("efficiency", i, target)]
        svg = figures.to_html(figure, f"efficiency-{i}", title)
        entries.append({"svg": svg, "table": tables.efficiency(results, target)})
    return entries


def _iterations(results: Results, figures_by_name: Mapping[str, Figure]) -> list[dict[str, Any]]:
    entries = []
    for i, shift in enumerate(tables.iterated_shifts(results)):
        title = f"{results.main_metric.name} on {shift} by iteration; the table below has the numbers"
        figure = figures_by_name[_file_name("iterations", i, shift)]
        svg = figures.to_html(figure, f"iterations-{i}", title)
        entries.append({"shift": shift, "svg": svg, "table": tables.iterations(results, shift)})
    return entries


def _models(results: Results, numbers: Mapping[str, int]) -> dict[str, Any] | None:
    """Return the tables of several models and, by kind of images, the numbers of pictures."""
    if not results.models:
        return None
    rows = [
        {
            "name": _capitalised(row.name),
            "examples": [
                {
                    "label": numbers[shown.label],
                    "image": numbers[shown.image],
                    "predictions": [
                        [numbers[path] for path in paths] for paths in shown.predictions.values()
                    ],
                }
                for shown in row.examples[:_MODELS_EXAMPLES]
            ],
        }
        for row in results.models
    ]
    return {"names": list(results.models[0].scores), "tables": tables.models_tables(results), "rows": rows}


def flattened(config: Any, name: str = "") -> Iterator[tuple[str, str]]:
    """Return nested settings as dotted names with their values in JSON, one after the other."""
    if isinstance(config, Mapping) and config:
        for key, value in config.items():
            yield from flattened(value, f"{name}.{key}" if name else str(key))
    else:
        yield name, json.dumps(config, ensure_ascii=False)


def css_styles(arms: Mapping[str, ArmStyle]) -> dict[str, ArmStyle]:
    """Return the styles of arms with colours for CSS, in which ink follows the colour scheme."""
    return {
        name: dataclasses.replace(arm, colour="currentColor") if arm.colour == INK else arm
        for name, arm in arms.items()
    }


def _capitalised(text: str) -> str:
    return text[:1].upper() + text[1:]


def _file_name(*parts: str | int) -> str:
    """Return the parts in lower case, joined by hyphens, with a hyphen for all but letters and digits."""
    slugs = (re.sub(r"[^a-z0-9]+", "-", str(part).lower()).strip("-") for part in parts)
    return "-".join(filter(None, slugs))
