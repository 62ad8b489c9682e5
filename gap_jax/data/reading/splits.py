"""Training, validation and test images of a folder: in folders below it, or drawn by chance."""

import csv
import dataclasses
import hashlib
import io
import os
from collections import Counter, defaultdict
from collections.abc import Callable, Hashable, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from gap_jax.data.files import Fault
from gap_jax.data.inventory import Inventory, abbreviate
from gap_jax.data.table import read_table
from gap_jax.files import write_whole
from gap_jax.ranges import Seed, Share, check_ranges

SPLITS = {"train": ("train",), "validation": ("validation", "val"), "test": ("test",)}
"""The splits, and the names of their folders."""


@dataclasses.dataclass(frozen=True, kw_only=True)
class SplitFolder:
    """A folder that has `train`, `validation` and `test` below it; splits that it lacks are drawn.

    They are drawn from `train` or, if there is no such folder, from all examples. The draw depends on nothing
    but the seed and the names of the files.
    """

    validation: Share = 0.1
    """share of examples that is drawn for validation, unless the folder has validation; 0: none"""
    test: Share = 0.1
    """share of examples that is drawn for the test, unless the folder has test; 0: none"""
    seed: Seed = 0
    """seed of the draw"""
    splits: Path | None = None
    """CSV file with the columns file and split that says how to divide the examples, in place of a draw"""

    def __post_init__(self) -> None:
        check_ranges(self)
        if self.validation + self.test > 1:
            raise ValueError(
                f"validation and test must be at most 1 together; found {self.validation:g} and {self.test:g}"
            )


def split_folders(root: Path) -> dict[str, Path]:
    """Return the folders of a data set's splits; a folder without any is the split `train` itself.

    Raises FileNotFoundError for a folder that has `validation` or `test`, but not `train`.
    """
    found = {
        split: root / name
        for split, names in SPLITS.items()
        for name in reversed(names)
        if (root / name).is_dir()
    }
    if found and "train" not in found:
        raise FileNotFoundError(
            f"{root / 'train'} is missing, but {', '.join(map(str, found.values()))} is there: "
            "add it, or put all images into one folder, and they are divided by chance"
        )
    return found or {"train": root}


class Groups(NamedTuple):
    """The groups of examples that a draw divides one by one: `of(example)`, named by `name(example)`."""

    of: Callable[[Any], Hashable] = lambda paths: None
    name: Callable[[Any], str] = lambda paths: "the folder"


NO_GROUPS = Groups()


def find_splits(
    settings: SplitFolder, root: Path, find: Callable[[Path, str], Inventory], groups: Groups = NO_GROUPS
) -> Inventory:
    """List the examples of all splits of a data set; if all of them are for the test, in the split `test`.

    `find(folder, split)` lists the examples of one folder, in the split of this name. An image that is in
    several splits is left in the last of them only. A group that is too small for the draw is a problem of
    the inventory. Raises ValueError for a file of splits that cannot be read.
    """
    folders = split_folders(root)
    if settings.test == 1:
        folders = {"test": folders.get("test", root)}
    found = {split: find(folder, split) for split, folder in folders.items()}
    splits = {split: inventory.splits[split] for split, inventory in found.items()}
    notes, faults, problems = (
        [item for inventory in found.values() for item in getattr(inventory, name)]
        for name in ("notes", "faults", "problems")
    )
    shares = {"validation": settings.validation, "test": settings.test}
    shares = {split: share for split, share in shares.items() if share and split not in folders}
    if shares and not problems:
        if settings.splits is None and (too_small := _too_small(splits["train"], shares, groups)):
            problems.append(f"{folders['train']}: {too_small}")
        else:
            drawn, unknown = _divide(settings, root, splits["train"], shares, groups)
            splits, faults = splits | drawn, faults + unknown
            counts = ", ".join(f"{len(drawn[split])} for {split}" for split in shares)
            notes.append(
                f"divided {f'as {settings.splits} says' if settings.splits else 'by chance'}: {counts}"
            )
    kept, repeated = hold_out({split: splits[split] for split in SPLITS if splits.get(split)})
    return Inventory(kept, faults + repeated, notes, next(iter(found.values())).classes, tuple(problems))


def _too_small(examples: Sequence[Any], shares: Mapping[str, float], groups: Groups) -> str:
    """Return a sentence that names the groups with too few examples for all splits, "" if there are none."""
    need, counts = len(shares) + (sum(shares.values()) < 1), Counter(map(groups.of, examples))
    named = {groups.of(paths): groups.name(paths) for paths in examples}
    small = [f"{named[group]} has {count}" for group, count in counts.items() if count < need]
    if not small:
        return ""
    return (
        f"too few examples to draw {' and '.join(shares)}: {abbreviate(small)}, but {need} or more are "
        f"needed; add images, or make the folders {', '.join(SPLITS)} yourself"
    )


def _divide(
    settings: SplitFolder, root: Path, examples: Sequence[Any], shares: Mapping[str, float], groups: Groups
) -> tuple[dict[str, list[Any]], list[Fault]]:
    """Return examples by split, as the file of splits or a draw says, and faults of those without a split."""
    names = [os.path.relpath(paths.image, root) for paths in examples]
    if settings.splits is None:
        chosen = draw_splits(names, list(map(groups.of, examples)), shares, settings.seed)
    else:
        chosen = read_splits(settings.splits)
    divided: dict[str, list[Any]] = {split: [] for split in ("train", *shares)}
    faults = []
    for name, paths in zip(names, examples, strict=True):
        if chosen.get(name) in divided:
            divided[chosen[name]].append(paths)
        else:
            reason = f"has no split of {', '.join(divided)} in {settings.splits}"
            faults.append(Fault(paths.image, f"{reason}: add a line, or delete that file to draw anew"))
    return divided, faults


def draw_splits(
    names: Sequence[str], groups: Sequence[Hashable], shares: Mapping[str, float], seed: int
) -> dict[str, str]:
    """Return the split of each example by its name: `train`, or one of those in `shares`.

    Each group is divided by itself: its examples are ordered by the hash of their name and the seed, and
    every split takes its share, one example at least.
    """
    by_group: dict[Hashable, list[str]] = defaultdict(list)
    for name, group in zip(names, groups, strict=True):
        by_group[group].append(name)
    chosen = dict.fromkeys(names, "train")
    for members in by_group.values():
        order = sorted(members, key=lambda name: hashlib.sha256(f"{seed} {name}".encode()).digest())
        for split, share in shares.items():
            count = max(1, round(share * len(members)))
            chosen |= dict.fromkeys(order[:count], split)
            del order[:count]
    return chosen


def read_splits(path: Path) -> dict[str, str]:
    """Return the split of each image by its name, as `write_splits` wrote them; errors are `read_table`'s."""
    return {row.cells["file"]: row.cells["split"] for row in read_table(path, ("file", "split"))}


def write_splits(path: Path, root: Path, splits: Mapping[str, Sequence[Any]]) -> None:
    """Write a CSV file with each image's path below `root` and its split."""
    stream = io.StringIO()
    lines = csv.writer(stream)
    lines.writerow(("file", "split"))
    for split, examples in splits.items():
        lines.writerows((os.path.relpath(paths.image, root), split) for paths in examples)
    path.parent.mkdir(parents=True, exist_ok=True)
    write_whole(path, stream.getvalue().encode())


def hold_out(splits: Mapping[str, list[Any]]) -> tuple[dict[str, list[Any]], list[Fault]]:
    """Leave every image in the last of its splits only, so that no model is tested on images it learnt.

    Examples are `DepthPaths` or `MaskedPaths`. Images are equal if their files are, whatever their names.
    Also returns the faults of those left out.
    """
    by_size: dict[int, list[tuple[str, Any]]] = defaultdict(list)
    for split, examples in splits.items():
        for paths in examples:
            by_size[Path(paths.image).stat().st_size].append((split, paths))
    last: dict[bytes, str] = {}
    faults, left_out = [], set()
    for same_size in by_size.values():
        if len({split for split, _ in same_size}) == 1:
            continue
        for split, paths in reversed(same_size):
            content = hashlib.sha256(Path(paths.image).read_bytes()).digest()
            held = last.setdefault(content, split)
            if held != split:
                left_out.add((split, paths.id))
                faults.append(paths.fault(paths.image, f"is in the split {held}, too"))
    kept = {
        split: [paths for paths in examples if (split, paths.id) not in left_out]
        for split, examples in splits.items()
    }
    return kept, faults[::-1]
