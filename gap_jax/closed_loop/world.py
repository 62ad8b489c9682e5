"""What an experiment is about, as a value: a generator, the model to improve, a critic, a task, data."""

from collections.abc import Callable, Iterable, Mapping
from types import MappingProxyType
from typing import Any, NamedTuple

import jax
import numpy as np

from gap_jax.data.loader import Example, Source, stack
from gap_jax.diffusion.align import Alignment
from gap_jax.diffusion.pipeline import Pipeline
from gap_jax.models.clip import Clip
from gap_jax.report.results import Legend
from gap_jax.stages.classifier_tuning import Mask
from gap_jax.stages.evaluate import Measure

Arrays = Mapping[str, np.ndarray]
Losses = Callable[[Any, Arrays], jax.Array]
Transform = Callable[[Example, np.random.Generator], Arrays]


def as_they_are(example: Example, random: np.random.Generator) -> Arrays:
    """No augmentation."""
    return example


class Network(NamedTuple):
    """`predict(params, images [B,H,W,3] in [0,1]) -> prediction`.

    `trained(params)`: a tree of bools, which parameters fine-tuning may change; None: all.
    """

    predict: Callable[[Any, jax.Array], Any]
    params: Any
    trained: Mask | None = None


class Pictures(NamedTuple):
    """How a task's labels and predictions are drawn, as uint8 `[H,W,3]`, one image's at a time.

    - `name`: what a label is, such as `depth map`.
    - `label(label)`, `prediction(prediction, label)`: of the latter one or two, it and where it is wrong.
    - `legends`, of `label` and `error`, and a `note`: what the report says of their colours.
    """

    name: str
    label: Callable[[Arrays], np.ndarray]
    prediction: Callable[[Any, Arrays], tuple[np.ndarray, ...]]
    legends: Mapping[str, Legend] = MappingProxyType({})
    note: str = ""


class Task(NamedTuple):
    """What the model is for. Losses are `(prediction, batch) -> [B]`.

    - `align(strength)`: what keeps generated images faithful to their labels, by SDEdit for strength < 1.
    - `adversarial`: to be minimised by prompts; `check(batch)` raises for labels that mean nothing to it.
    - `loss`: to be minimised in fine-tuning; `metrics`: what is measured, the main one, a mean over images,
      first.
    - `constant(source)`: the best prediction that looks at no image, one for all images.
    - `classes`: the names of what a batch's `label` counts, if it has one.
    """

    align: Callable[[float], Alignment]
    adversarial: Losses
    loss: Losses
    metrics: Mapping[str, Measure]
    check: Callable[[Arrays], None]
    constant: Callable[[Source], np.ndarray]
    pictures: Pictures
    negative_prompt: str = ""
    classes: tuple[str, ...] | None = None


class TargetDomain(NamedTuple):
    """A target domain: a few images of it `[n,H,W,3]`, without labels, and in words; for one part alone."""

    images: np.ndarray
    text: str | None = None
    part: str | None = None


class Baseline(NamedTuple):
    """An arm without a generator: what is fine-tuned on in place of the original and of generated images."""

    original: Source
    added: Source | None = None
    transform: Transform = as_they_are


class World(NamedTuple):
    """Sets are `{"image": float [n,H,W,3] in [0,1], …labels}`; a source's examples are single rows.

    `parts` are numbers of original examples, such as those of a class: images are generated of these. A
    prompt of a part is for its examples alone: so are texts with `{part}`, which stands for its name, and, if
    they are `apart`, optimised prompts.
    """

    title: str
    summary: str
    pipe: Pipeline
    params: Any
    clip: Clip
    clip_params: Any
    task: Task
    model: Network  # under improvement, which prompts are optimised against
    critic: Network  # a stronger one, to judge labels by
    original: Source  # what the model is trained on; labels to generate from
    validation: Mapping[str, Arrays]  # clean, and shifts that are not tested
    test: Arrays  # clean
    domains: Mapping[str, Arrays]  # shifts to be tested
    targets: Mapping[str, TargetDomain]
    written: tuple[str, ...]  # prompts that a person wrote for the shifts
    agnostic: str = "room"  # the prompt that knows nothing of model and targets
    corrupted: Callable[[], Iterable[tuple[str, np.ndarray]]] = tuple  # more images of the test set, by set
    parts: Mapping[str, np.ndarray] = MappingProxyType({})
    apart: bool = False
    student: Network | None = None  # what is fine-tuned; None: the model
    baselines: Mapping[str, Callable[[], Baseline]] = MappingProxyType({})
    worst_of: tuple[str, ...] = ()  # domains of which the worst is a result of its own

    @property
    def learner(self) -> Network:
        """What is fine-tuned."""
        return self.student or self.model


def take(source: Source, numbers: np.ndarray) -> dict[str, np.ndarray]:
    """These examples as one batch."""
    return stack([source[int(number)] for number in numbers])


def whole(source: Source) -> dict[str, np.ndarray]:
    """All examples as one batch."""
    return take(source, np.arange(len(source)))
