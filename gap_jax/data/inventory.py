"""What a folder of images with depth holds: examples, and what is left out, counted and listed."""

from collections import defaultdict
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import NamedTuple, Protocol

import numpy as np

from gap_jax.data.rgbd import Fault, Files

_SHOWN = 5


class Found(NamedTuple):
    """Examples by split; the files at fault; in words, what is left out on purpose."""

    splits: dict[str, list[Files]]
    faults: list[Fault]
    notes: list[str]


class Layout(Protocol):
    """How a data set lies in its folder.

    `frame` is as in `rgbd.read`; `find` looks at names alone, and raises ValueError or FileNotFoundError,
    saying what should be where, for a folder unlike it; `decode` is a `rgbd.Decode`.
    """

    @property
    def frame(self) -> tuple[int, int] | None: ...
    def find(self, root: Path) -> Found: ...
    def decode(self, raw: np.ndarray) -> tuple[np.ndarray, np.ndarray]: ...


def match(
    images: Mapping[str, str], depths: Mapping[str, str], masks: Mapping[str, str] | None
) -> tuple[list[Files], list[Fault]]:
    """Examples in the order of their ids, and files that lack a counterpart, from paths by id."""
    examples, faults = [], []
    for number in sorted(images.keys() | depths.keys()):
        if number not in images:
            faults.append(Fault(depths[number], "has no image"))
        elif number not in depths:
            faults.append(Fault(images[number], "has no depth"))
        elif masks is None:
            examples.append(Files(number, images[number], depths[number]))
        elif number not in masks:
            faults.append(Fault(images[number], "has no mask"))
        else:
            examples.append(Files(number, images[number], depths[number], masks[number]))
    return examples, faults


def count(found: Found) -> int:
    """How many examples there are in all splits."""
    return sum(map(len, found.splits.values()))


def summary(found: Found) -> str:
    """How many examples each split has, and what is left out."""
    splits = ", ".join(f"{len(examples)} {split}" for split, examples in found.splits.items())
    return "\n".join([f"found {splits}", *found.notes, *listed(found.faults)])


def listed(faults: Sequence[Fault]) -> list[str]:
    """A line for each reason, with how many files and the first of them."""
    reasons = defaultdict(list)
    for fault in faults:
        reasons[fault.why].append(fault.path)
    return [f"left out {len(paths)}, each {why}: {some(paths)}" for why, paths in reasons.items()]


def some(names: Sequence[str]) -> str:
    """The first names, and how many more there are."""
    more = len(names) - _SHOWN
    return ", ".join(names[:_SHOWN]) + (f" and {more} more" if more > 0 else "")


def check_share(faults: Sequence[Fault], total: int, tolerance: float) -> None:
    """Raise ValueError, listing them, if more than the share `tolerance` of `total` files are at fault."""
    if len(faults) > tolerance * total:
        raise ValueError(
            f"{len(faults)} of {total} examples cannot be used, more than {tolerance:.3g} of all: mend them, "
            "or raise the tolerance\n" + "\n".join(listed(faults))
        )
