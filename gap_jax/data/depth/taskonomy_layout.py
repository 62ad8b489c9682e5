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
from gap_jax.data.inventory import Inventory, abbreviate
from gap_jax.data.table import read_table

COLUMNS = {"train": "train", "validation": "val", "test": "test"}  # of the split CSV, by split
INVALID = 65535


class Domain(NamedTuple):
    """One kind of a building's images: their folder and the name that their files end in."""

    folder: Path
    name: str


class Building(NamedTuple):
    """The three kinds of files of a building."""

    image: Domain
    depth: Domain
    mask: Domain


def read_splits(path: Path) -> dict[str, list[str]]:
    """Read the buildings of each split from a CSV file with the columns `id,train,val,test`.

    A building has a 1 in the column of its split and 0 in the others; one with three zeros is left out.
    Raises FileNotFoundError if the file is missing, ValueError naming the line that is different.
    """
    splits: dict[str, list[str]] = {split: [] for split in COLUMNS}
    for row in read_table(path, ("id", *COLUMNS.values())):
        values = [row.cells[column] for column in COLUMNS.values()]
        if not set(values) <= {"0", "1"} or values.count("1") > 1:
            raise ValueError(
                f"{row.place}: {row.cells['id']} must have a single 1, and 0 in the other columns of "
                f"{', '.join(COLUMNS.values())}; found {', '.join(values)}"
            )
        for split, value in zip(COLUMNS, values, strict=True):
            if value == "1":
                splits[split].append(row.cells["id"])
    return splits


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
    inventory to these images. Buildings without images or without any mask are left out and noted. Raises
    ValueError if there are no examples.
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
        images, depths, masks = (_list_files(building, domain) for domain in locate(building))
        if selected is not None:
            images, depths = (
                {name: path for name, path in paths.items() if name in selected[building]}
                for paths in (images, depths)
            )
        if not images and not depths:
            without_images.append(building)
        elif not masks:
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
    if not any(examples.values()):
        patterns = "\n".join(
            f"{domain.folder}/point_{{p}}_view_{{v}}_domain_{domain.name}.png"
            for domain in locate("{building}")
        )
        raise ValueError(
            f"none of {len(pairs)} buildings has images, depth and masks of equal names: "
            f"{len(without_images)} have no images and {len(without_masks)} no masks "
            f"({abbreviate(without_images + without_masks)}). Their files must be\n{patterns}"
        )
    notes = [
        f"left out {len(buildings)} of {len(pairs)} buildings, which have no {part}: {abbreviate(buildings)}"
        for part, buildings in (("images", without_images), ("masks", without_masks))
        if buildings
    ]
    return Inventory({split: paths for split, paths in examples.items() if paths}, faults, notes)


def _list_files(building: str, domain: Domain) -> dict[str, str]:
    """Return the paths of a building's files of one kind, by id."""
    if not domain.folder.is_dir():
        return {}
    pattern = re.compile(rf"point_(\d+)_view_(\d+)_domain_{domain.name}\.png")
    with os.scandir(domain.folder) as entries:
        matches = ((entry.path, pattern.fullmatch(entry.name)) for entry in entries)
        return {"/".join((building, *match.groups())): path for path, match in matches if match}
