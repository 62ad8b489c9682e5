"""A difficulty band: of all generated images, keep those whose loss is neither low nor high."""

import math
from pathlib import Path
from typing import NamedTuple

import jax
import numpy as np

from gap_jax import parallel
from gap_jax.data import generated


class Band(NamedTuple):
    """A rule that keeps images whose `value` lies between two quantiles of it, until `images` are kept.

    - `value`: the name of a measured value, such as the loss of the model under improvement.
    - `low`, `high`: the quantiles, 0 ≤ low < high ≤ 1. They are taken over all candidates, which are the
      images that no filter dropped. There are no more candidates than it takes to keep enough of them.
    - `images`: the number of images to keep.
    """

    value: str
    low: float
    high: float
    images: int

    @property
    def expected_candidates(self) -> int:
        """The number of images to generate if no filter drops any."""
        return math.ceil(self.images / (self.high - self.low))

    @property
    def most_candidates(self) -> int:
        """The number of images after which generation gives up, because filters drop too many."""
        return 4 * self.expected_candidates

    def inside(self, values: np.ndarray) -> np.ndarray:
        """Return which `values` `[n]` are kept, bool `[n]`; NaN stands for an image that a filter dropped."""
        candidates = values[~np.isnan(values)]
        if not len(candidates):
            return np.zeros(len(values), bool)
        low, high = np.quantile(candidates, (self.low, self.high))
        return (values >= low) & (values <= high)


class Selection:
    """The choice of a band among the images that are generated so far, which it reads from their chunks."""

    def __init__(self, band: Band, chunks: Path):
        self._band, self._chunks = band, chunks
        self._values = np.empty(0, np.float32)
        self._used: int | None = None  # number of first images among which enough are inside the band

    def is_complete(self, first: int) -> bool:
        """Return True if enough images are kept, those of the step that begins with number `first` included.

        Every process must call it, once for each step and in their order.
        """
        parallel.barrier(f"band {first}")
        if jax.process_index() == 0:
            columns = generated.read_columns(self._chunks, f"{first:08d}-*", ("dropped", self._band.value))
            new = np.where(columns["dropped"] == "", columns[self._band.value], np.nan)
            checked, self._values = len(self._values), np.append(self._values, new)
            for count in range(max(checked + 1, self._band.images), len(self._values) + 1):
                if self._band.inside(self._values[:count]).sum() >= self._band.images:
                    self._used = count
                    break
        return parallel.all_agree(jax.process_index() != 0 or self._used is not None)

    def reasons(self) -> dict[int, str]:
        """Return why further images are not used, by their numbers; on process 0, once it is complete."""
        values, band = self._values[: self._used], self._band
        inside = band.inside(values)
        middle = np.median(values[inside])
        reasons = dict.fromkeys(range(len(values), len(self._values)), "surplus")
        reasons |= dict.fromkeys(np.flatnonzero(inside)[band.images :].tolist(), "surplus")
        for number in np.flatnonzero(~inside & ~np.isnan(values)).tolist():
            side = "below" if values[number] < middle else "above"
            reasons[number] = f"{band.value} {side} the band"
        return {number: reason for number, reason in reasons.items() if not np.isnan(self._values[number])}
