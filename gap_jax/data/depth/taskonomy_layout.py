"""The layout that Taskonomy and Omnidata share: files `point_{p}_view_{v}_domain_{name}.png` by building."""

import os
import re
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np
from tqdm import tqdm

from gap_jax.data.depth.read import match_files
from gap_jax.data.files import Fault
from gap_jax.data.inventory import Inventory, abbreviate, describe_faults
from gap_jax.data.table import read_table

COLUMNS = {"train": "train", "validation": "val", "test": "test"}  # of the split CSV, by split
INVALID = 65535


class Domain(NamedTuple):
    """One kind of a building's images: their folder and the name that their files end in."""

    folder: Path
    name: str


class Building(NamedTuple):
    """The three kinds of files of a building; without masks, depth alone tells what is valid."""

    image: Domain
    depth: Domain
    mask: Domain | None


def read_splits(path: Path) -> dict[str, list[str]]:
    """Read the buildings of each split from a CSV file with the columns `id,train,val,test`.

    A building has a 1 in the column of its split and 0 in the others; one with three zeros is left out.
    Raises FileNotFoundError if the file is missing, ValueError naming the line that is different, or that
    puts a building in a second split.
    """
    splits: dict[str, list[str]] = {split: [] for split in COLUMNS}
    lines: dict[str, tuple[str, list[str]]] = {}
    for row in read_table(path, ("id", *COLUMNS.values())):
        values, building = [row.cells[column] for column in COLUMNS.values()], row.cells["id"]
        if not set(values) <= {"0", "1"} or values.count("1") > 1:
            raise ValueError(
                f"{row.place}: {building} must have a single 1, and 0 in the other columns of "
                f"{', '.join(COLUMNS.values())}; found {', '.join(values)}"
            )
        place, first = lines.setdefault(building, (row.place, values))
        if first != values:
            raise ValueError(
                f"{row.place}: {building} has another split than in {place}: remove one of the lines"
            )
        for split, value in zip(COLUMNS, values, strict=True):
            if value == "1" and place == row.place:
                splits[split].append(building)
    return splits


def leave_out(
    splits: Mapping[str, Sequence[str]], buildings: Sequence[str]
) -> tuple[dict[str, list[str]], str]:
    """Return the splits without these buildings, and a note that names those that were in them, or ""."""
    excluded = [name for names in splits.values() for name in names if name in buildings]
    kept = {split: [name for name in names if name not in buildings] for split, names in splits.items()}
    note = f"left out the buildings that the data set's authors exclude: {', '.join(excluded)}"
    return kept, note if excluded else ""


def note_missing_masks(folder: Path) -> str:
    """Return a note for a data set whose folder of masks is missing, "" for any other."""
    return "" if folder.is_dir() else f"without masks ({folder}): depth is valid where it is not {INVALID}"


def decode_zbuffer(raw: np.ndarray, far: float) -> tuple[np.ndarray, np.ndarray]:
    """Decode depth in units of 1/512 m: depth is raw / `far`, at most 1; it is valid except at 65535."""
    return np.clip(raw / np.float32(far), 0, 1), raw != INVALID


def find_buildings(
    splits: Mapping[str, Sequence[str]],
    locate: Callable[[str], Building],
    selected: Mapping[str, Mapping[str, str]] | None = None,
) -> Inventory:
    """List the examples of the buildings of each split, with ids `{building}/{point}/{view}`.

    `locate` returns where a building's files are. `selected`, depth paths by building and id, restricts the
    inventory to these images. Buildings without images or without any mask are left out and noted. That there
    are no examples at all is a problem.
    """
    examples: dict[str, list] = {split: [] for split in splits}
    faults, without_images, without_masks = [], [], []
    pairs = [
        (split, building)
        for split, buildings in splits.items()
        for building in buildings
        if selected is None or building in selected
    ]
    for split, building in tqdm(pairs, desc="look for images", unit="building"):
        image, depth, mask = locate(building)
        images, depths = _list_files(building, image), _list_files(building, depth)
        masks = None if mask is None else _list_files(building, mask)
        if selected is not None:
            images, depths = (
                {name: path for name, path in paths.items() if name in selected[building]}
                for paths in (images, depths)
            )
        if not images and not depths:
            without_images.append(building)
        elif masks == {}:
            without_masks.append(building)
        else:
            matched, unmatched = match_files(images, depths, masks)
            examples[split] += matched
            faults += unmatched
            if selected is not None:
                missing = selected[building].keys() - images.keys() - depths.keys()
                faults += [
                    Fault(selected[building][name], "is selected but missing") for name in sorted(missing)
                ]
    notes = [
        f"left out {len(buildings)} of {len(pairs)} buildings, which have no {part}: {abbreviate(buildings)}"
        for part, buildings in (("images", without_images), ("masks", without_masks))
        if buildings
    ]
    problems = (
        []
        if any(examples.values())
        else [_nothing_found(splits, pairs, locate, [*notes, *describe_faults(faults, names=1)])]
    )
    found = {split: paths for split, paths in examples.items() if paths}
    return Inventory(found, faults, notes, problems=tuple(problems))


def _nothing_found(
    splits: Mapping[str, Sequence[str]],
    pairs: Sequence[tuple[str, str]],
    locate: Callable[[str], Building],
    reasons: Sequence[str],
) -> str:
    """Return what was looked for, where, and what was found instead."""
    if not pairs:
        listed = sum(map(len, splits.values()))
        return (
            f"there is no building to look for: the splits name {listed}, and a selection names none of these"
        )
    domains = [domain for domain in locate(pairs[0][1]) if domain is not None]
    patterns = "\n".join(
        f"{domain.folder}/point_{{p}}_view_{{v}}_domain_{domain.name}.png" for domain in domains
    )
    found = "; ".join(reasons)
    return (
        f"none of {len(pairs)} buildings has an example: {found}. The files of one building are\n{patterns}"
    )


def _list_files(building: str, domain: Domain) -> dict[str, str]:
    """Return the paths of a building's files of one kind, by id."""
    if not domain.folder.is_dir():
        return {}
    pattern = re.compile(rf"point_(\d+)_view_(\d+)_domain_{domain.name}\.png")
    with os.scandir(domain.folder) as entries:
        matches = ((entry.path, pattern.fullmatch(entry.name)) for entry in entries)
        return {"/".join((building, *match.groups())): path for path, match in matches if match}
