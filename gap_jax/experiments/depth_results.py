"""The depth experiment's results, put together from what its stages left behind."""

import json
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np

from gap_jax.report import pictures
from gap_jax.report.results import (
    MEAN_MAP,
    METRICS,
    Column,
    Example,
    Frame,
    Generated,
    Point,
    Prompt,
)

CORRUPTED = ("cc", "3dcc")


def columns(measured: list[dict[str, Any]], arms: tuple[str, ...]) -> Iterator[Column]:
    """A column for each test set of `evaluate.json`, one such file for each seed."""
    for name in measured[0][arms[0]]:
        kind, *rest = name.split("/")
        corruption = kind in CORRUPTED
        own = {
            arm: {metric: tuple(seed[arm][name][metric] for seed in measured) for metric in METRICS}
            for arm in arms
        }
        flat = (
            "clean" if corruption else name
        )  # labels are those of clean images, and it looks at nothing else
        own[MEAN_MAP] = {
            metric: tuple(seed[MEAN_MAP][flat][metric] for seed in measured) for metric in METRICS
        }
        if corruption:
            yield Column(kind, rest[0], int(rest[1]), own)
        else:
            yield Column("clean" if name == "clean" else "domain", name, None, own)


def efficiency(
    measured: list[dict[str, Any]], arms: tuple[str, ...], targets: tuple[str, ...], full: dict[str, int]
) -> dict[str, dict[str, tuple[Point, ...]]]:
    """Error on each target against the number of generated images; 0 is the control's."""
    found: dict[str, dict[str, tuple[Point, ...]]] = {}
    for target in targets:
        found[target] = {}
        for arm in arms:
            if arm not in full:
                continue
            counts = {full[arm]: arm, **({0: "control"} if "control" in arms else {})}
            counts |= {int(name.split("@")[1]): name for name in measured[0] if name.startswith(f"{arm}@")}
            found[target][arm] = tuple(
                Point(count, tuple(seed[counts[count]][target]["l1"] for seed in measured))
                for count in sorted(counts)
            )
    return found


def generated(folders: list[Path], critic: list[float]) -> Generated:
    """What an arm generated, of one folder for each seed."""
    summaries = [json.loads((folder / "summary.json").read_text()) for folder in folders]
    removed: dict[str, int] = {}
    for summary in summaries:
        for reason, count in summary["dropped"].items():
            removed[reason] = removed.get(reason, 0) + count
    return Generated(sum(summary["images"] for summary in summaries), removed, tuple(critic))


def critic_errors(folder: Path) -> float:
    """The critic's mean L1 on the images of a generated set."""
    lines = (folder / "images" / "train" / "metadata.jsonl").read_text().splitlines()
    return float(np.mean([json.loads(line)["critic_l1"] for line in lines]))


def draw_example(
    folder: Path,
    root: Path,
    label: Mapping[str, np.ndarray],
    frames: Mapping[int, tuple[np.ndarray, np.ndarray]],
) -> Example:
    """The pictures of one label: `image`, `depth`, `mask`, and by step a generated image and prediction."""

    def save(name: str, picture: np.ndarray) -> str:
        path = folder / f"{name}.png"
        pictures.save(path, picture)
        return str(path.relative_to(root))

    depth, mask = label["depth"], label["mask"]
    return Example(
        save("depth", pictures.depth(depth, mask)),
        save("original", label["image"]),
        tuple(
            Frame(
                step,
                save(f"generated-{step:05d}", image),
                save(f"prediction-{step:05d}", pictures.depth(prediction)),
                save(f"error-{step:05d}", pictures.error(prediction, depth, mask)),
            )
            for step, (image, prediction) in sorted(frames.items())
        ),
    )


def losses_of(trajectory: Mapping[str, np.ndarray], prompt: int, terms: tuple[str, ...]) -> dict[str, tuple]:
    """A prompt's losses by term, until it stopped."""
    stopped = np.flatnonzero(trajectory["stopped"][:, prompt])
    end = stopped[0] + 1 if len(stopped) else len(trajectory["stopped"])
    return {term: tuple(map(float, trajectory[term][:end, prompt])) for term in terms}


def stopping_step(trajectory: Mapping[str, np.ndarray], prompt: int, window: int) -> int | None:
    """The step whose embeddings early stopping returned, or None."""
    stopped = np.flatnonzero(trajectory["stopped"][:, prompt])
    return int(stopped[0]) - window + 1 if len(stopped) else None


def spread_steps(last: int, count: int) -> list[int]:
    """`count` steps from 0 to `last`, evenly."""
    return sorted({round(step) for step in np.linspace(0, last, min(count, last + 1))})


Draw = Callable[[np.ndarray], tuple[np.ndarray, np.ndarray]]


def draw_prompt(
    prompt: Mapping[str, Any],
    draw: Draw,
    contexts: Mapping[int, np.ndarray],
    labels: Mapping[str, np.ndarray],
    folder: Path,
    root: Path,
) -> Prompt:
    """A `Prompt` of these fields with its pictures: `contexts` by step, `[L,D]` each.

    `draw(context) -> (images, predictions)`, one for each of the labels.
    """
    drawn = {step: draw(context) for step, context in contexts.items()}
    examples = tuple(
        draw_example(
            folder / str(i),
            root,
            {name: array[i] for name, array in labels.items()},
            {step: (images[i], predictions[i]) for step, (images, predictions) in drawn.items()},
        )
        for i in range(len(labels["image"]))
    )
    return Prompt(examples=examples, **prompt)
