"""The results of an experiment and their file, `results.json`: with its pictures, all that a report needs.

The file holds the dataclasses below as JSON objects, with the fields' names as keys. Floats come back exact
to the last bit; NaN and infinity, which JSON lacks, are null in the file and NaN when read.
"""

import json
from collections import Counter
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from gap_jax.files import write_whole
from gap_jax.report.json_types import from_json, to_json
from gap_jax.tasks.metric import MetricStyle

KINDS = ("clean", "cc", "3dcc", "domain")
CONSTANT = "constant"  # the arm whose prediction is the same for every image
AVERAGE = "average"  # the column with the mean result of several domains
WORST = "worst group"  # the column with the worst result of several domains
SEVERITIES = range(1, 6)

Values = tuple[float, ...]  # one for each seed, or one for each step


@dataclass(frozen=True)
class ArmStyle:
    """The way an arm is shown: its label, a sentence about it, a colour `#rrggbb` and a matplotlib marker.

    A `reference` is measured beside the arms, but is never called the best.
    """

    label: str
    description: str
    colour: str
    marker: str
    earlier_of: str | None = None  # the arm of which this is an earlier iteration
    reference: bool = False


@dataclass(frozen=True)
class Column:
    """The scores of every arm on one test set.

    - `kind`: `clean`; `cc` for Common Corruptions; `3dcc` for 3D Common Corruptions; `domain` for another
      data set or a target shift.
    - `severity`: 1 to 5 for `cc` and `3dcc`, else None.
    - `scores`: arm -> metric -> one value per seed. The arm `constant` predicts the same for every image.
    """

    kind: str
    name: str
    severity: int | None
    scores: Mapping[str, Mapping[str, Values]]

    def __post_init__(self) -> None:
        if self.kind not in KINDS:
            raise ValueError(f"kind must be one of {', '.join(KINDS)}, found {self.kind!r}")
        if self.kind in ("cc", "3dcc") and self.severity not in SEVERITIES:
            raise ValueError(f"severity must be 1 to 5 for a corruption, found {self.severity}")
        if self.kind in ("clean", "domain") and self.severity is not None:
            raise ValueError(f"severity must be null for kind {self.kind!r}, found {self.severity}")


@dataclass(frozen=True)
class Generated:
    """The images that one arm generated, over all seeds.

    - `kept`: the number of images that the model was trained on.
    - `removed`: reason (such as `one colour`, `not finite` or a filter's name) -> number of images dropped.
    - `critic`: label fidelity, one value per seed: the main metric of the critic, a stronger model, on the
      kept images. It is good where images show what their labels say.
    """

    kept: int
    removed: Mapping[str, int]
    critic: Values


@dataclass(frozen=True)
class Point:
    """The main metric on a target shift, one value per seed, after training on so many generated images."""

    images: int
    score: Values


@dataclass(frozen=True)
class Legend:
    """The meaning of a picture's colours: `colours`, each `#rrggbb`, lead from `low` to `high`."""

    low: str
    high: str
    colours: tuple[str, ...]


@dataclass(frozen=True)
class Frame:
    """The pictures of one example after `step` updates of the prompt, as `report.pictures` draws them."""

    step: int
    generated: str
    prediction: str
    error: str | None = None


@dataclass(frozen=True)
class ExamplePictures:
    """The pictures of one example: its label, its original image, and a frame for each step that is drawn."""

    label: str
    original: str
    frames: tuple[Frame, ...]

    def __post_init__(self) -> None:
        steps = [frame.step for frame in self.frames]
        if not steps or steps != sorted(set(steps)) or steps[0] < 0:
            raise ValueError(f"frames must be one or more, with rising steps from 0 on; found steps {steps}")


@dataclass(frozen=True)
class ModelsExample:
    """An image with its label, and the pictures of every model's prediction and, if drawn, of its error."""

    label: str
    image: str
    predictions: Mapping[str, tuple[str, ...]]


@dataclass(frozen=True)
class ModelsRow:
    """The images of one kind, such as those of prompts found against one model, and all models on them.

    - `scores`: model -> metric -> one value per seed. The first model is the one under improvement.
    - `examples`: some of the images.
    """

    name: str
    scores: Mapping[str, Mapping[str, Values]]
    examples: tuple[ModelsExample, ...]


@dataclass(frozen=True, kw_only=True)
class Prompt:
    """One prompt of one arm. Pictures are given by the paths of PNG files, relative to the results file.

    - `name`: tells the prompt from others of its arm; the text, if it has one.
    - `losses`: term -> its value at each step; entry i belongs to the embeddings after i updates. Empty for
      prompts that were not optimised.
    - `examples`: prompts for the same images show the same labels in the same order.
    - `stopped`: the step whose embeddings early stopping returned. None: it did not stop, and the last
      embeddings were returned.
    - `words`: for each placeholder, its nearest words with their cosines, nearest first.
    - `target`, `targets`: a guided prompt's target domain: its name, and pictures of it.
    - `target_note`: what guided the prompt if it was not these pictures, such as a text in quotes.
    """

    arm: str
    seed: int
    name: str
    losses: Mapping[str, Values]
    examples: tuple[ExamplePictures, ...]
    stopped: int | None = None
    words: tuple[tuple[tuple[str, float], ...], ...] = ()
    target: str | None = None
    targets: tuple[str, ...] = ()
    target_note: str = ""

    def __post_init__(self) -> None:
        lengths = {term: len(values) for term, values in self.losses.items()}
        if len(set(lengths.values())) > 1:
            raise ValueError(f"losses must have the same number of steps for every term, found {lengths}")
        if self.stopped is not None and not 0 <= self.stopped <= self.steps:
            raise ValueError(f"stopped must be a step from 0 to {self.steps}, found {self.stopped}")
        for i, example in enumerate(self.examples):
            last = example.frames[-1].step
            if last > self.steps:
                raise ValueError(
                    f"examples[{i}] has a frame of step {last}, but the losses have {self.steps} steps"
                )

    @property
    def steps(self) -> int:
        """The number of updates made."""
        return max(map(len, self.losses.values()), default=0)


@dataclass(frozen=True, kw_only=True)
class Origin:
    """The way results were made.

    - `command`: the command line.
    - `versions`: package -> version.
    - `devices`: the kind and number of the devices, in words.
    - `artefacts`: arm -> kind, such as `prompts` -> a file or folder, relative to the results file.
    """

    command: str
    versions: Mapping[str, str]
    devices: str
    artefacts: Mapping[str, Mapping[str, str]]


@dataclass(frozen=True, kw_only=True)
class Results:
    """The results of an experiment.

    - `title`, `summary`: the report's heading, and one or two sentences about model, generator and data.
    - `label`: the kind of label that images are generated from, such as `depth map`.
    - `legends`: the colours of pictures, by the pictures' kind (`label`, `error`).
    - `note`: a sentence about the pictures.
    - `config`: the resolved configuration as nested JSON values.
    - `arms`: the style of each arm, in the order of tables and legends. An arm is one way to make training
      data; with several iterations, each earlier iteration of an arm is an arm of its own.
    - `metrics`: the styles of the metrics by their names in `columns`, the main one first.
    - `columns`: the test sets, in the order in which they are shown.
    - `generated`: arm -> its images, for arms that generate.
    - `critic_real`, `critic_constant`: on real images, the main metric of the critic and of the constant
      prediction, one value per seed. Empty: not measured.
    - `efficiency`: target shift -> arm -> points with rising numbers of images.
    - `prompts`: the prompts that the report shows.
    - `models`: how several models do on the images of prompts that were found against each of them. Empty:
      there is one model only.
    - `origin`: how they were made; None: not known. It does not count when results are compared.
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
    models: tuple[ModelsRow, ...] = ()
    origin: Origin | None = field(default=None, compare=False)

    @property
    def main_metric(self) -> MetricStyle:
        """The metric of figures and of the first table."""
        return next(iter(self.metrics.values()))

    def __post_init__(self) -> None:
        if not self.seeds or len(set(self.seeds)) < len(self.seeds):
            raise ValueError(f"seeds must be one or more, all different; found {list(self.seeds)}")
        if not self.metrics:
            raise ValueError("metrics must name one or more metrics, found none")
        for i, column in enumerate(self.columns):
            unknown = {metric for scores in column.scores.values() for metric in scores} - set(self.metrics)
            if unknown:
                names = ", ".join(sorted(unknown))
                raise ValueError(
                    f"columns[{i}].scores must use the metrics {', '.join(self.metrics)}; found {names}"
                )
        counts = Counter((column.kind, column.name, column.severity) for column in self.columns)
        for (kind, name, severity), count in counts.items():
            if count > 1:
                raise ValueError(
                    f"columns must differ; {count} have kind {kind!r}, name {name!r} and severity {severity}"
                )
        for place, values in _values_by_seed(self):
            if len(values) != len(self.seeds):
                raise ValueError(
                    f"{place} must have one value for each of {len(self.seeds)} seeds, found {len(values)}"
                )
        for target, curves in self.efficiency.items():
            for arm, points in curves.items():
                images = [point.images for point in points]
                if images != sorted(set(images)) or min(images, default=0) < 0:
                    place = f"efficiency.{target}.{arm}"
                    raise ValueError(f"{place} must have rising numbers of images from 0 on, found {images}")
        for i, prompt in enumerate(self.prompts):
            if prompt.seed not in self.seeds:
                raise ValueError(
                    f"prompts[{i}].seed must be one of the seeds {list(self.seeds)}, found {prompt.seed}"
                )


def save(path: str | Path, results: Results) -> None:
    """Write `results` to a file; an existing one is replaced when the new one is complete.

    Raises ValueError naming the first field whose value does not have its declared type.
    """
    content = to_json(results)
    from_json(Results, content)
    write_whole(path, json.dumps(content, allow_nan=False, ensure_ascii=False, indent=1).encode())


def load(path: str | Path) -> Results:
    """Return the results in a file.

    Raises FileNotFoundError, and ValueError naming the first field that is wrong.
    """
    path = Path(path)
    try:
        return from_json(Results, json.loads(path.read_text(encoding="utf-8")))
    except (ValueError, RecursionError) as error:
        raise ValueError(f"{path} is not a valid results file: {error}") from error


def _values_by_seed(results: Results) -> Iterator[tuple[str, Values]]:
    """Yield every sequence that must have one value per seed, with its place in the file."""
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
    for i, row in enumerate(results.models):
        for model, scores in row.scores.items():
            for metric, values in scores.items():
                yield f"models[{i}].scores.{model}.{metric}", values
    for name in ("critic_real", "critic_constant"):
        if getattr(results, name):
            yield name, getattr(results, name)
