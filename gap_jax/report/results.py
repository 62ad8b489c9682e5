"""What an experiment measured, and its file `results.json`: all that the report is made from, but pictures.

The file is plain JSON with the dataclasses' fields as keys. Floats come back to the last bit; NaN and
infinity, which JSON does not have, are null there and NaN when read.
"""

import json
import math
import types
import typing
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import MISSING, dataclass, fields, is_dataclass
from pathlib import Path
from typing import Any

import numpy as np

from gap_jax.files import write_whole
from gap_jax.tasks.metric import MetricStyle

KINDS = ("clean", "cc", "3dcc", "domain")
CONSTANT = "constant"  # the arm that predicts the same for all images
WORST = "worst group"  # the column of the worst of some domains
SEVERITIES = range(1, 6)

Values = tuple[float, ...]


@dataclass(frozen=True)
class ArmStyle:
    """The way an arm is shown: its label, a sentence about it, a colour `#rrggbb`, a matplotlib marker."""

    label: str
    description: str
    colour: str
    marker: str


@dataclass(frozen=True)
class Column:
    """The scores of every arm on one test set.

    - `kind`: `clean`; `cc`, Common Corruptions; `3dcc`; `domain`, another data set or a target shift.
    - `severity`: 1 to 5 of `cc` and `3dcc`, else None.
    - `scores`: arm -> metric -> a value for each seed. The arm `constant` predicts the same for any image.
    """

    kind: str
    name: str
    severity: int | None
    scores: Mapping[str, Mapping[str, Values]]

    def __post_init__(self) -> None:
        if self.kind not in KINDS:
            raise ValueError(f"kind must be one of {', '.join(KINDS)}, found {self.kind!r}")
        if self.kind in ("cc", "3dcc") and self.severity not in SEVERITIES:
            raise ValueError(f"severity of a corruption must be 1 to 5, found {self.severity}")
        if self.kind in ("clean", "domain") and self.severity is not None:
            raise ValueError(f"severity of {self.name!r}, no corruption, must be null, found {self.severity}")


@dataclass(frozen=True)
class Generated:
    """What one arm generated, over all seeds.

    - `kept`: images trained on; `removed`: reason (`one colour`, `not finite`, a filter's) -> images dropped.
    - `critic`: the main metric of the critic, a stronger model, on the kept images, for each seed: label
      fidelity, good where images show what their labels say.
    """

    kept: int
    removed: Mapping[str, int]
    critic: Values


@dataclass(frozen=True)
class Point:
    """The main metric on a target shift after fine-tuning with so many generated images, for each seed."""

    images: int
    score: Values


@dataclass(frozen=True)
class Legend:
    """What a picture's colours mean: `colours`, `#rrggbb`, lead from `low` to `high`."""

    low: str
    high: str
    colours: tuple[str, ...]


@dataclass(frozen=True)
class Frame:
    """Pictures of one example after `step` updates of the prompt; see `report.pictures`."""

    step: int
    generated: str
    prediction: str
    error: str | None = None


@dataclass(frozen=True)
class Example:
    """A label, the image it belongs to, and what the prompt made of it, by step."""

    label: str
    original: str
    frames: tuple[Frame, ...]

    def __post_init__(self) -> None:
        steps = [frame.step for frame in self.frames]
        if not steps or steps != sorted(set(steps)) or steps[0] < 0:
            raise ValueError(f"frames must be one or more, of rising steps from 0, found steps {steps}")


@dataclass(frozen=True)
class Prompt:
    """One prompt of one arm. Pictures are paths of PNG files, relative to the results file.

    - `name`: what tells it from others of its arm; of a written prompt, its text.
    - `examples`: of the same labels, in the same order, for every prompt that is for the same images.
    - `losses`: term -> its value at each step: entry i is of the embeddings after i updates. Empty for
      prompts that are not optimised.
    - `stopped`: the step whose embeddings early stopping returned; None: it did not stop, the last count.
    - `words`: for each placeholder, its nearest words and their cosines, nearest first.
    - `target`, `targets`: of a guided prompt, the domain's name and pictures of it.
    """

    arm: str
    seed: int
    name: str
    losses: Mapping[str, Values]
    examples: tuple[Example, ...]
    stopped: int | None = None
    words: tuple[tuple[tuple[str, float], ...], ...] = ()
    target: str | None = None
    targets: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        lengths = {term: len(values) for term, values in self.losses.items()}
        if len(set(lengths.values())) > 1:
            raise ValueError(f"losses must have as many steps for each term, found {lengths}")
        if self.stopped is not None and not 0 <= self.stopped <= self.steps:
            raise ValueError(f"stopped must be a step from 0 to {self.steps}, found {self.stopped}")
        for i, example in enumerate(self.examples):
            if example.frames[-1].step > self.steps:
                raise ValueError(
                    f"examples[{i}] has a frame of step {example.frames[-1].step}, losses has {self.steps}"
                )

    @property
    def steps(self) -> int:
        """The number of updates made."""
        return max(map(len, self.losses.values()), default=0)


@dataclass(frozen=True)
class Results:
    """An experiment's results.

    - `title`, `summary`: the report's heading, and a sentence or two on model, generator and data.
    - `label`: what images are generated from, such as `depth map`; `legends`: of pictures of it, `label`, and
      of errors, `error`; `note`: a sentence on these pictures.
    - `config`: the resolved configuration; JSON values, nested.
    - `arms`: how each arm is shown, in the order of tables and legends.
    - `metrics`: what is measured, by the name it has in `columns`; the main one first.
    - `columns`: the test sets, in the order they are shown in.
    - `generated`: by arm, those that generate; `critic_real`, `critic_constant`: the main metric of the
      critic on real images, and the constant prediction's on the same, for each seed (empty: not measured).
    - `efficiency`: target shift -> arm -> points of rising number of images.
    """

    title: str
    summary: str
    label: str
    legends: Mapping[str, Legend]
    note: str
    config: Mapping[str, Any]
    seeds: tuple[int, ...]
    arms: Mapping[str, ArmStyle]
    metrics: Mapping[str, MetricStyle]
    columns: tuple[Column, ...]
    generated: Mapping[str, Generated]
    critic_real: Values
    critic_constant: Values
    efficiency: Mapping[str, Mapping[str, tuple[Point, ...]]]
    prompts: tuple[Prompt, ...]

    @property
    def main(self) -> MetricStyle:
        """The metric that all is compared by."""
        return next(iter(self.metrics.values()))

    def __post_init__(self) -> None:
        if not self.seeds or len(set(self.seeds)) < len(self.seeds):
            raise ValueError(f"seeds must be one or more, all different, found {list(self.seeds)}")
        if not self.metrics:
            raise ValueError("metrics must be one or more, found none")
        for i, column in enumerate(self.columns):
            unknown = {metric for scores in column.scores.values() for metric in scores} - set(self.metrics)
            if unknown:
                known = ", ".join(self.metrics)
                raise ValueError(f"columns[{i}].scores: {sorted(unknown)} are not among the metrics {known}")
        keys = Counter((column.kind, column.name, column.severity) for column in self.columns)
        twice = [key for key, count in keys.items() if count > 1]
        if twice:
            raise ValueError(f"columns: {twice[0]} is there twice")
        for where, values in _values_by_seed(self):
            if len(values) != len(self.seeds):
                raise ValueError(f"{where} has {len(values)} values, one for each of {len(self.seeds)} seeds")
        for target, curves in self.efficiency.items():
            for arm, points in curves.items():
                images = [point.images for point in points]
                if images != sorted(set(images)) or min(images, default=0) < 0:
                    raise ValueError(f"efficiency.{target}.{arm}: images must rise from 0, found {images}")
        for i, prompt in enumerate(self.prompts):
            if prompt.seed not in self.seeds:
                raise ValueError(f"prompts[{i}].seed is {prompt.seed}, seeds are {list(self.seeds)}")


def save(path: str | Path, results: Results) -> None:
    """Write `results`; an existing file is replaced when the new one is complete.

    Raises ValueError naming the field that is not of its type.
    """
    content = _plain(results, "")
    _typed(Results, content, "")
    text = json.dumps(content, allow_nan=False, ensure_ascii=False, indent=1)
    write_whole(path, text.encode())


def load(path: str | Path) -> Results:
    """The results in a file. Raises FileNotFoundError; ValueError naming the field that is not right."""
    path = Path(path)
    try:
        return _typed(Results, json.loads(path.read_text(encoding="utf-8")), "")
    except ValueError as error:
        raise ValueError(f"{path} is no results file: {error}") from error


def _values_by_seed(results: Results) -> typing.Iterator[tuple[str, Values]]:
    for i, column in enumerate(results.columns):
        for arm, scores in column.scores.items():
            for metric, values in scores.items():
                yield f"columns[{i}].scores.{arm}.{metric}", values
    for arm, generated in results.generated.items():
        yield f"generated.{arm}.critic", generated.critic
    for target, curves in results.efficiency.items():
        for arm, points in curves.items():
            for i, point in enumerate(points):
                yield f"efficiency.{target}.{arm}[{i}].score", point.score
    for name in ("critic_real", "critic_constant"):
        if getattr(results, name):
            yield name, getattr(results, name)


def _plain(value: Any, where: str) -> Any:
    """What JSON has, of dataclasses, mappings, sequences, numpy's numbers and NaN."""
    if isinstance(value, np.generic | np.ndarray):
        value = value.tolist()
    if is_dataclass(value):
        value = {field.name: getattr(value, field.name) for field in fields(value)}
    if isinstance(value, Mapping):
        return {str(name): _plain(entry, _at(where, name)) for name, entry in value.items()}
    if isinstance(value, Sequence) and not isinstance(value, str | bytes):
        return [_plain(entry, f"{where}[{i}]") for i, entry in enumerate(value)]
    if isinstance(value, float) and not math.isfinite(value):
        return None
    if value is not None and not isinstance(value, str | int | float):
        raise ValueError(f"{where} is a {type(value).__name__}, which JSON does not have")
    return value


def _typed(kind: Any, value: Any, where: str) -> Any:
    """JSON's `value` as the type `kind` that a field declares."""
    origin, arguments = typing.get_origin(kind), typing.get_args(kind)
    if kind is Any:
        return value
    if is_dataclass(kind):
        return _dataclass(kind, _expect(value, dict, "an object", where), where)
    if origin is types.UnionType:
        return None if value is None else _typed(arguments[0], value, where)
    if origin is tuple:
        entries = _expect(value, list, "a list", where)
        each = arguments[:1] * len(entries) if arguments[-1] is Ellipsis else arguments
        if len(each) != len(entries):
            raise ValueError(f"{where} must have {len(each)} entries, found {len(entries)}")
        return tuple(
            _typed(type_, entry, f"{where}[{i}]")
            for i, (type_, entry) in enumerate(zip(each, entries, strict=True))
        )
    if origin is Mapping:
        entries = _expect(value, dict, "an object", where)
        return {name: _typed(arguments[1], entry, _at(where, name)) for name, entry in entries.items()}
    if kind is float:
        return math.nan if value is None else float(_expect(value, int | float, "a number or null", where))
    return _expect(value, kind, {int: "an integer", str: "a string", bool: "true or false"}[kind], where)


def _dataclass(kind: type, value: Mapping[str, Any], where: str) -> Any:
    hints = typing.get_type_hints(kind)
    unknown = sorted(set(value) - set(hints))
    if unknown:
        raise ValueError(f"{_at(where, unknown[0])} is not a field of {kind.__name__}")
    given = {}
    for field in fields(kind):
        if field.name in value:
            given[field.name] = _typed(hints[field.name], value[field.name], _at(where, field.name))
        elif field.default is MISSING:
            raise ValueError(f"{_at(where, field.name)} is missing")
    try:
        return kind(**given)
    except ValueError as error:
        raise ValueError(_at(where, str(error))) from error


def _expect(value: Any, kind: Any, description: str, where: str) -> Any:
    if not isinstance(value, kind) or (isinstance(value, bool) and kind is not bool):
        raise ValueError(f"{where or 'the file'} must be {description}, found {json.dumps(value)[:60]}")
    return value


def _at(where: str, name: str) -> str:
    return f"{where}.{name}" if where else name
