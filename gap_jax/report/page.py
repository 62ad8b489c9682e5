"""The report: one HTML page that holds all it shows, with its tables and figures as files beside it.

The page opens from disk, loads nothing, and says so to the browser by its content security policy. What it
lets explore is that of the paper's project page: optimisation by step, prompts by arm, targets of guidance.
"""

import base64
import dataclasses
import io
import json
import re
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from jinja2 import Environment, FileSystemLoader, StrictUndefined
from matplotlib.figure import Figure
from PIL import Image, UnidentifiedImageError

from gap_jax.files import write_whole
from gap_jax.report import figures, tables
from gap_jax.report.arms import INK, arms
from gap_jax.report.results import CONSTANT, ArmStyle, Example, Frame, Prompt, Results, load

SMALL = 128  # pixels: pictures up to here are shown enlarged, pixel by pixel; larger ones are compressed
LARGEST = 512
_QUALITY = 85
_HERE = Path(__file__).parent


def write_page(results_path: str | Path, folder: str | Path) -> Path:
    """Make `folder/index.html`, `table.md`, `table.tex` and `figures/*.svg`; the path of the first.

    Nothing is written before all is made, and each file is replaced when it is complete, the page last.
    Raises ValueError for a results file that is not one, and for a picture that is not readable;
    FileNotFoundError for a picture that is not there.
    """
    results_path, folder = Path(results_path), Path(folder)
    results = load(results_path)
    picture = _Pictures(results, results_path.parent)
    shown = tables.tables(results)
    drawn = dict(_figures(results, results_path.parent))
    files = {
        "table.md": "\n".join([f"# {results.title}", "", *map(tables.markdown, shown)]),
        "table.tex": "\n".join(map(tables.latex, shown)),
        **{f"figures/{name}.svg": figures.to_svg(figure) for name, figure in drawn.items()},
        "index.html": _page(results, picture, drawn),
    }
    for name, text in files.items():
        write_whole(folder / name, text.encode())
    return folder / "index.html"


class _Pictures:
    """All pictures of the results, each once, as data URIs; calling it with a path gives its number."""

    def __init__(self, results: Results, folder: Path):
        found = {path: _data_uri(folder / path) for path in dict.fromkeys(_paths(results))}
        different = {picture: i for i, picture in enumerate(dict.fromkeys(found.values()))}
        self.numbers = {path: different[picture] for path, picture in found.items()}
        self.uris = [uri for uri, _ in different]
        self.small = [small for _, small in different]

    def __call__(self, path: str) -> int:
        return self.numbers[path]


def _paths(results: Results) -> Iterator[str]:
    for prompt in results.prompts:
        yield from prompt.targets
        for example in prompt.examples:
            yield from (example.label, example.original)
            for frame in example.frames:
                yield from filter(None, (frame.generated, frame.prediction, frame.error))


def _data_uri(path: Path) -> tuple[str, bool]:
    """A picture's bytes; of a large one, those of a WebP. And whether it is small."""
    if not path.is_file():
        raise FileNotFoundError(f"picture {path} is not there, but the results name it")
    content = path.read_bytes()
    try:
        image = Image.open(io.BytesIO(content))
        image.load()
    except (UnidentifiedImageError, OSError) as error:
        raise ValueError(f"picture {path} is not readable: {error}") from error
    small, kind = max(image.size) <= SMALL, Image.MIME[image.format]
    if not small:
        image = image.convert("RGB")
        image.thumbnail((LARGEST, LARGEST))
        file = io.BytesIO()
        image.save(file, "WEBP", quality=_QUALITY)
        content, kind = file.getvalue(), "image/webp"
    return f"data:{kind};base64,{base64.b64encode(content).decode()}", small


def _figures(results: Results, folder: Path) -> Iterator[tuple[str, Figure]]:
    """All figures, each with its file's name; a filmstrip of the first prompt of each arm and target."""
    kinds = {column.kind for column in results.columns}
    yield from ((kind, figures.corruptions(results, kind)) for kind in ("cc", "3dcc") if kind in kinds)
    if results.generated:
        yield "fidelity", figures.fidelity(results)
    for i, target in enumerate(results.efficiency):
        yield _slug("efficiency", i, target), figures.efficiency(results, target)
    shown, seen = arms(results), set()
    for i, prompt in enumerate(results.prompts):
        if prompt.losses:
            yield _losses(i, prompt), figures.losses(prompt, shown[prompt.arm])
        group = (prompt.arm, prompt.target)
        if group not in seen and prompt.examples and len(prompt.examples[0].frames) > 1:
            seen.add(group)
            yield _slug("filmstrip", i, *filter(None, group)), figures.filmstrip(prompt, folder)


def _losses(index: int, prompt: Prompt) -> str:
    return _slug("losses", index, prompt.arm, prompt.target or "")


def _page(results: Results, picture: _Pictures, drawn: Mapping[str, Figure]) -> str:
    shown = arms(results)
    prompts = [
        _prompt(i, prompt, shown[prompt.arm], picture, drawn) for i, prompt in enumerate(results.prompts)
    ]
    order = {name: i for i, name in enumerate(shown)}
    groups = _groups(prompts, order)
    explored = _explored(prompts, order)
    main = [table for table in tables.tables(results) if table.title.startswith("Results")]
    environment = Environment(
        loader=FileSystemLoader(_HERE),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    return environment.get_template("page.html").render(
        results=results,
        arms={name: dataclasses.replace(arm, colour=_css(arm.colour)) for name, arm in shown.items()},
        prompts=prompts,
        explored=explored,
        arms_explored=[shown[group["arm"]].label for group in explored],
        groups=groups,
        examples=max((len(prompt["examples"]) for prompt in prompts), default=0),
        guided=_guided(groups),
        main=main,
        lead=_lead(main, results),
        shifts=_shifts(results, drawn),
        fidelity=_fidelity(results, drawn),
        efficiency=_efficiency(results, drawn),
        config=list(_flat(results.config)),
        constant=CONSTANT,
        uris=picture.uris,
        small=picture.small,
        data={
            "label": results.label.capitalize(),
            "pictures": picture.uris,
            "small": [int(small) for small in picture.small],
            "prompts": prompts,
            "explored": [group["prompts"] for group in explored],
            "groups": [[prompt["index"] for prompt in group["prompts"]] for group in groups],
        },
    )


def _prompt(
    index: int, prompt: Prompt, arm: ArmStyle, picture: _Pictures, drawn: Mapping[str, Figure]
) -> dict[str, Any]:
    """What the page's script needs of a prompt."""
    found = {
        "index": index,
        "arm": prompt.arm,
        "label": arm.label,
        "name": prompt.name,
        "seed": prompt.seed,
        "steps": prompt.steps,
        "stopped": prompt.stopped,
        "target": prompt.target,
        "targets": [picture(path) for path in prompt.targets],
        "words": [[(word, f"{cosine:.2f}") for word, cosine in row] for row in prompt.words],
        "terms": {term: [f"{value:.3g}" for value in values] for term, values in prompt.losses.items()},
        "examples": [_example(prompt, example, picture) for example in prompt.examples],
        "losses": None,
    }
    if prompt.losses:
        figure = drawn[_losses(index, prompt)]
        title = f"Losses of {arm.label} prompt {prompt.name} by step"
        found["losses"] = figures.to_html(figure, f"losses-{index}", title)
        found["step_width"] = figures.step_width(figure)
    return found


def _example(prompt: Prompt, example: Example, picture: _Pictures) -> dict[str, Any]:
    """Pictures by number; `chosen`, the frame of the embeddings that optimisation returned."""
    steps = [frame.step for frame in example.frames]
    end = prompt.steps if prompt.stopped is None else prompt.stopped
    return {
        "label": picture(example.label),
        "original": picture(example.original),
        "frames": [_frame(frame, picture) for frame in example.frames],
        "chosen": min(range(len(steps)), key=lambda i: abs(steps[i] - end)),
    }


def _frame(frame: Frame, picture: _Pictures) -> dict[str, int]:
    found = {
        "step": frame.step,
        "generated": picture(frame.generated),
        "prediction": picture(frame.prediction),
    }
    return found if frame.error is None else found | {"error": picture(frame.error)}


def _explored(prompts, order: Mapping[str, int]) -> list[dict[str, Any]]:
    """Arms whose prompts were optimised, with their prompts' indices; the adversarial arm is shown first."""
    found: dict[str, dict[str, Any]] = {}
    for prompt in prompts:
        if any(len(example["frames"]) > 1 for example in prompt["examples"]):
            group = found.setdefault(prompt["arm"], {"arm": prompt["arm"], "prompts": []})
            group["prompts"].append(prompt["index"])
    return [found[arm] for arm in sorted(found, key=lambda arm: (arm != "adversarial", order[arm]))]


def _groups(prompts, order: Mapping[str, int]) -> list[dict[str, Any]]:
    """Prompts with pictures by arm and target, in the arms' order."""
    found: dict[tuple[str, str | None], dict[str, Any]] = {}
    for prompt in prompts:
        if prompt["examples"]:
            key = (prompt["arm"], prompt["target"])
            group = found.setdefault(key, {"arm": key[0], "target": key[1], "prompts": []})
            group["prompts"].append(prompt)
    return sorted(found.values(), key=lambda group: order[group["arm"]])


def _guided(groups) -> list[dict[str, Any]]:
    """Targets that pictures are given of, with the groups guided towards each."""
    found: dict[str, dict[str, Any]] = {}
    for group in groups:
        pictures_of_target = group["prompts"][0]["targets"]
        if group["target"] and pictures_of_target:
            entry = found.setdefault(
                group["target"], {"name": group["target"], "pictures": pictures_of_target, "groups": []}
            )
            entry["groups"].append(group)
    return list(found.values())


def _lead(main: list[tables.Table], results: Results) -> str:
    """The main finding in a sentence: who is best under Common Corruptions, beside control and constant."""
    if not main or tables.SHIFTS["cc"] not in main[0].columns:
        return ""
    column = main[0].columns.index(tables.SHIFTS["cc"])
    best = next((row for row in main[0].rows if row.cells[column].best), None)
    if best is None:
        return ""
    others = [row for row in main[0].rows if row.key in ("control", CONSTANT) and row is not best]
    beside = ", ".join(f"{row.label.lower()} {_number(row.cells[column])}" for row in others)
    metric = results.main
    end = "Highest" if metric.higher_is_better else "Lowest"
    shown = f"{end} mean {metric.name} {metric.unit} over Common Corruptions"
    text = f"{shown}: {best.label}, {_number(best.cells[column])}"
    return f"{text}; {beside}." if beside else f"{text}."


def _number(cell: tables.Cell) -> str:
    return f"{cell.mean}\u00a0±\u00a0{cell.error}" if cell.error else cell.mean


def _shifts(results: Results, drawn: Mapping[str, Figure]) -> list[dict[str, Any]]:
    found = []
    for kind in filter(drawn.__contains__, ("cc", "3dcc")):
        shift = f"{results.main.name} under {tables.SHIFTS[kind]}"
        title = f"{shift} by corruption and arm; the table below has the numbers"
        svg = figures.to_html(drawn[kind], f"shift-{kind}", title)
        found.append({"svg": svg, "table": tables.corruptions(results, kind)})
    return found


def _fidelity(results: Results, drawn: Mapping[str, Figure]) -> dict[str, Any] | None:
    if not results.generated:
        return None
    shown = f"The critic's {results.main.name} on generated images by arm"
    title = f"{shown}; the table beside it has the numbers"
    svg = figures.to_html(drawn["fidelity"], "fidelity", title)
    return {"svg": svg, "table": tables.fidelity(results)}


def _efficiency(results: Results, drawn: Mapping[str, Figure]) -> list[dict[str, Any]]:
    found = []
    for i, target in enumerate(results.efficiency):
        shown = f"{results.main.name} on {target} by the number of generated images"
        title = f"{shown}; the table below has the numbers"
        svg = figures.to_html(drawn[_slug("efficiency", i, target)], f"efficiency-{i}", title)
        found.append({"svg": svg, "table": tables.efficiency(results, target)})
    return found


def _flat(config: Any, name: str = "") -> Iterator[tuple[str, str]]:
    """Nested settings as dotted names with their values in JSON."""
    if isinstance(config, Mapping) and config:
        for key, value in config.items():
            yield from _flat(value, f"{name}.{key}" if name else str(key))
    else:
        yield name, json.dumps(config, ensure_ascii=False)


def _css(colour: str) -> str:
    return "currentColor" if colour == INK else colour


def _slug(*parts: str | int) -> str:
    """A file's name of parts."""
    return "-".join(
        filter(None, (re.sub(r"[^a-z0-9]+", "-", str(part).lower()).strip("-") for part in parts))
    )
