"""Metrics as values: how a metric is measured, and how a report shows it."""

import dataclasses
import re
from collections.abc import Callable
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np

if TYPE_CHECKING:  # so that `--help` is fast: settings import this file
    import jax

    from gap_jax.data.batch import Batch


@dataclasses.dataclass(frozen=True)
class MetricStyle:
    """The way a metric is shown: its name, its values multiplied by `scale`, and their unit."""

    name: str
    unit: str
    scale: float
    higher_is_better: bool = False

    @property
    def name_in_text(self) -> str:
        """The name inside a sentence: `Accuracy` becomes `accuracy`; `L1` and `mIoU` stay."""
        is_plain = re.match(r"[A-Z][a-z]+(?=[ -]|$)", self.name)
        return self.name[0].lower() + self.name[1:] if is_plain else self.name

    @property
    def better(self) -> str:
        """The direction that is better, in words."""
        return f"{'higher' if self.higher_is_better else 'lower'} is better"

    @property
    def caption(self) -> str:
        """The name and the unit, followed by which direction is better."""
        return f"{self.name} {self.unit}, {self.better}"


ImageLoss = Callable[[Any, "Batch"], "jax.Array"]  # (prediction, batch) -> [B]


class Metric(NamedTuple):
    """A metric of a whole test set.

    - `per_image(prediction, batch)`: float32 `[B]` or `[B,n]`, computed on devices, one batch at a time.
    - `over_set(values)`: the metric, from the `per_image` values of all images of the set, on the host. The
      default is their mean.
    """

    style: MetricStyle
    per_image: Callable[[Any, "Batch"], "jax.Array"]
    over_set: Callable[[np.ndarray], float] = np.mean
