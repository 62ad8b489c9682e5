"""The inventory of a data set's folder: its examples by split, and the files that cannot be used."""

from collections import defaultdict
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple, Protocol

import numpy as np

from gap_jax.data.files import Fault

_MAX_NAMES = 5  # shown in a message
_MAX_LENGTH = 460  # letters of an error that lists reasons


class Inventory(NamedTuple):
    """The contents of a data set's folder.

    - `splits`: the examples' paths by split: `DepthPaths`, or `MaskedPaths` with labels from 0.
    - `faults`: the files that cannot be used.
    - `notes`: sentences for the user, such as what is left out on purpose.
    - `classes`: the names of the labels 0, 1, …; empty for depth.
    - `problems`: sentences that say why the folder as a whole cannot be used yet.
    """

    splits: dict[str, list[Any]]
    faults: list[Fault]
    notes: list[str]
    classes: tuple[str, ...] = ()
    problems: tuple[str, ...] = ()

    @property
    def num_examples(self) -> int:
        """The number of examples in all splits."""
        return sum(map(len, self.splits.values()))

    def summary(self) -> str:
        """Return lines that tell how many examples each split has and what is left out."""
        splits = ", ".join(f"{len(examples)} {split}" for split, examples in self.splits.items())
        return "\n".join([f"found {splits or 'nothing'}", *self.notes, *describe_faults(self.faults)])

    def noting(self, *notes: str) -> "Inventory":
        """Return the inventory with further notes; empty ones are passed over."""
        return self._replace(notes=[*self.notes, *filter(None, notes)])

    def check_faults(self, tolerance: float) -> None:
        """Raise ValueError with the problems, or if more than the share `tolerance` of all is unusable.

        The message lists the faults, too, since these may be the cause of a problem.
        """
        if self.problems:
            raise ValueError("\n".join([*self.problems, *describe_faults(self.faults)]))
        check_fault_share(self.faults, self.num_examples + len(self.faults), tolerance)


class Layout(Protocol):
    """The arrangement of a data set's files in its folder."""

    def find(self, root: Path) -> Inventory:
        """List the examples in `root`, looking at file names and tables only.

        Raises FileNotFoundError or ValueError, saying which files belong where, for a folder with another
        layout.
        """
        ...


def describe_faults(faults: Sequence[Fault], names: int = _MAX_NAMES) -> list[str]:
    """Return a line for each reason, with the number of files and the first `names` of their paths."""
    paths_by_reason = defaultdict(list)
    for fault in faults:
        paths_by_reason[fault.reason].append(fault.path)
    return [
        f"left out {len(paths)}, each {reason}: {abbreviate(paths, names)}"
        for reason, paths in paths_by_reason.items()
    ]


def check_fault_share(faults: Sequence[Fault], total: int, tolerance: float) -> None:
    """Raise ValueError with the faults' reasons if they are more than the share `tolerance` of `total`."""
    if len(faults) <= tolerance * total:
        return
    lines = [
        f"{len(faults)} of {total} examples cannot be used, but the tolerance is {tolerance:.3g} of all: "
        "repair the files or raise the tolerance"
    ]
    reasons = describe_faults(faults, names=1)
    for reason in reasons:
        if len(lines) > 1 and sum(map(len, [*lines, reason])) > _MAX_LENGTH:
            lines.append(f"further reasons: {len(reasons) - len(lines) + 1}")
            break
        lines.append(reason)
    raise ValueError("\n".join(lines))


def abbreviate(names: Sequence[str], most: int = _MAX_NAMES) -> str:
    """Join the first `most` names by commas and say how many more there are."""
    more = len(names) - most
    return ", ".join(names[:most]) + (f" and {more} more" if more > 0 else "")


def sample_evenly(items: Sequence[Any], count: int) -> list[Any]:
    """Choose `count` items at even distances, from the first to the last, or all if there are fewer."""
    indices = np.linspace(0, len(items) - 1, min(count, len(items))).round().astype(int)
    return [items[index] for index in indices]
