"""What an experiment is about, as a value: a generator, the model to improve, a critic, a task, data."""

from collections.abc import Callable, Iterable, Mapping
from types import MappingProxyType
from typing import Any, NamedTuple

import jax
import numpy as np

from gap_jax.data.loader import Source, stack
from gap_jax.diffusion.align import Alignment
from gap_jax.diffusion.pipeline import Pipeline
from gap_jax.models.clip import Clip
from gap_jax.report.results import Legend, Metric

Arrays = Mapping[str, np.ndarray]
Losses = Callable[[Any, Arrays], jax.Array]


class Network(NamedTuple):
    """`predict(params, images [B,H,W,3] in [0,1]) -> prediction`."""

    predict: Callable[[Any, jax.Array], Any]
    params: Any


class Pictures(NamedTuple):
    """How a task's labels and predictions are drawn, as uint8 `[H,W,3]`, one image's at a time.

    - `name`: what a label is, such as `depth map`.
    - `label(label)`, `prediction(prediction, label)`: two of the latter, it and where it is wrong.
    - `legends`, of `label` and `error`, and a `note`: what the report says of their colours.
    """

    name: str
    label: Callable[[Arrays], np.ndarray]
    prediction: Callable[[Any, Arrays], tuple[np.ndarray, np.ndarray]]
    legends: Mapping[str, Legend] = MappingProxyType({})
    note: str = ""


class Task(NamedTuple):
    """What the model is for. Losses and metrics are `(prediction, batch) -> [B]`.

    - `align(strength)`: what keeps generated images faithful to their labels, by SDEdit for strength < 1.
    - `adversarial`: to be minimised by prompts; `check(batch)` raises for labels that mean nothing to it.
    - `loss`: to be minimised in fine-tuning; `metrics`: what is measured, the main one first, and how each is
      shown.
    - `constant(source)`: the best prediction that looks at no image, one for all images.
    """

    align: Callable[[float], Alignment]
    adversarial: Losses
    loss: Losses
    metrics: Mapping[str, tuple[Metric, Losses]]
    check: Callable[[Arrays], None]
    constant: Callable[[Source], np.ndarray]
    pictures: Pictures
    negative_prompt: str = ""


class World(NamedTuple):
    """Sets are `{"image": float [n,H,W,3] in [0,1], …labels}`; a source's examples are single rows."""

    title: str
    summary: str
    pipe: Pipeline
    params: Any
    clip: Clip
    clip_params: Any
    task: Task
    model: Network  # under improvement
    critic: Network  # a stronger one, to judge labels by
    original: Source  # what the model is trained on; labels to generate from
    validation: Mapping[str, Arrays]  # clean, and shifts that are not tested
    test: Arrays  # clean
    domains: Mapping[str, Arrays]  # shifts to be tested
    targets: Mapping[str, np.ndarray]  # a few images of each target domain, without labels
    written: tuple[str, ...]  # prompts that a person wrote for the shifts
    agnostic: str = "room"  # the prompt that knows nothing of model and targets
    corrupted: Callable[[], Iterable[tuple[str, np.ndarray]]] = tuple  # more images of the test set, by set


def take(source: Source, numbers: np.ndarray) -> dict[str, np.ndarray]:
    """These examples as one batch."""
    return stack([source[int(number)] for number in numbers])
