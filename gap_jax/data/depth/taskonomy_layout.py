"""The layout that Taskonomy and Omnidata share: buildings, in them `point_{p}_view_{v}_domain_{name}.png`."""

import csv
import os
import re
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np
from tqdm import tqdm

from gap_jax.data.depth.read import match
from gap_jax.data.files import Fault
from gap_jax.data.inventory import Found, some

COLUMNS = {"train": "train", "validation": "val", "test": "test"}  # of the split CSV
INVALID = 65535


class Domain(NamedTuple):
    """The folder that holds one kind of a building's images, and the name that their files end in."""

    folder: Path
    name: str


class Building(NamedTuple):
    """Where a building's images, depth and masks are."""

    image: Domain
    depth: Domain
    mask: Domain


def read_splits(path: Path) -> dict[str, list[str]]:
    """Buildings by split, from a CSV with the columns `id,train,val,test`, 1 for a building's split, else 0.

    Raises FileNotFoundError, and ValueError naming the line, for a file that is missing or unlike this.
    """
    if not path.is_file():
        raise FileNotFoundError(f"{path} is missing: a CSV of buildings with the columns id,train,val,test")
    table = csv.DictReader(path.read_text(encoding="utf-8-sig").splitlines())  # some end lines by \r alone
    lacking = [name for name in ("id", *COLUMNS.values()) if name not in (table.fieldnames or ())]
    if lacking:
        raise ValueError(f"{path} lacks the columns {', '.join(lacking)}, found {table.fieldnames}")
    splits: dict[str, list[str]] = {split: [] for split in COLUMNS}
    for line, row in enumerate(table, 2):
        values = [row[column] for column in COLUMNS.values()]
        if not set(values) <= {"0", "1"} or values.count("1") > 1:
            raise ValueError(f"{path}:{line} must have one 1 and else 0 for {row['id']}, found {values}")
        for split, value in zip(COLUMNS, values, strict=True):
            if value == "1":
                splits[split].append(row["id"])
    return splits


def decode(raw: np.ndarray, far: float) -> tuple[np.ndarray, np.ndarray]:
    """Depth from 1/512 m, `far` of them being 1, clipped, and where it is valid: not at 65535."""
    return np.clip(raw / np.float32(far), 0, 1), raw != INVALID


def find_buildings(
    splits: Mapping[str, Sequence[str]],
    where: Callable[[str], Building],
    selected: Mapping[str, Mapping[str, str]] | None = None,
) -> Found:
    """The examples of buildings, with ids `{building}/{point}/{view}`.

    `selected`: of each building, paths by id; only these. Buildings that are not there, or have no masks at
    all, are left out. Raises ValueError if no example is left.
    """
    found, faults, absent, unmasked = {split: [] for split in splits}, [], [], []
    pairs = [
        (split, building)
        for split, buildings in splits.items()
        for building in buildings
        if selected is None or building in selected
    ]
    for split, building in tqdm(pairs, desc="look for images", unit="building"):
        images, depths, masks = (_listing(building, domain) for domain in where(building))
        if selected is not None:
            images, depths = (
                {number: path for number, path in paths.items() if number in selected[building]}
                for paths in (images, depths)
            )
        if not images and not depths:
            absent.append(building)
        elif not masks:
            unmasked.append(building)
        else:
            examples, missing = match(images, depths, masks)
            found[split] += examples
            faults += missing
            if selected is not None:
                lacking = selected[building].keys() - images.keys() - depths.keys()
                faults += [
                    Fault(selected[building][number], "is not there, though selected")
                    for number in sorted(lacking)
                ]
    if not any(found.values()):
        places = "\n".join(
            f"{domain.folder}/point_{{p}}_view_{{v}}_domain_{domain.name}.png"
            for domain in where("{building}")
        )
        raise ValueError(
            f"none of {len(pairs)} buildings has images, depth and masks that go together; {len(absent)} "
            f"have no images, {len(unmasked)} no masks: {some(absent + unmasked)}. Looked for\n{places}"
        )
    notes = [
        f"left out {len(buildings)} of {len(pairs)} buildings, which have no {lack}: {some(buildings)}"
        for lack, buildings in (("images", absent), ("masks", unmasked))
        if buildings
    ]
    return Found({split: examples for split, examples in found.items() if examples}, faults, notes)


def _listing(building: str, domain: Domain) -> dict[str, str]:
    if not domain.folder.is_dir():
        return {}
    name = re.compile(rf"point_(\d+)_view_(\d+)_domain_{domain.name}\.png")
    with os.scandir(domain.folder) as entries:
        matches = ((entry.path, name.fullmatch(entry.name)) for entry in entries)
        return {"/".join((building, *found.groups())): path for path, found in matches if found}
