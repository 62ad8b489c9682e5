"""One's own folder before an experiment: the order of its classes, its splits, and its prepared copy."""

import dataclasses
from pathlib import Path
from typing import Any, TypeVar

import jax

from gap_jax import parallel
from gap_jax.data.depth.folder import DepthFolderLayout
from gap_jax.data.folder_dataset import FolderDataset
from gap_jax.data.inventory import abbreviate
from gap_jax.data.masked.folder import ClassFolders
from gap_jax.data.reading.splits import write_splits
from gap_jax.data.segmented.folder import SegmentedFolderLayout
from gap_jax.experiments.own.settings import OwnFolder, OwnMasked
from gap_jax.weights.classifier import label_names

OwnLayout = TypeVar("OwnLayout", DepthFolderLayout, SegmentedFolderLayout, ClassFolders)


def class_names(config: OwnMasked, layout: ClassFolders) -> tuple[str, ...]:
    """Return the classes in the order of the model's labels, as far as that is known, and print them.

    Raises ValueError for a folder of one class.
    """
    if config.classes:
        return config.classes
    found, known = layout.class_names(config.data), label_names(config.model)
    if len(found) == 1:
        raise ValueError(
            f"{config.data} must have a folder for each of two classes or more, found {found[0]} alone: add "
            "images of another class"
        )
    agree = set(found) == set(known)
    if jax.process_index() == 0:
        order = "named as the model's labels" if agree else "in the order of their names"
        print(f"classes, {order}: {abbreviate(known if agree else found)}")
        if known and not agree:
            print(f"the model's labels have other names: {abbreviate(known)}; give their order by --classes")
    return known if agree else found


def divide(config: OwnFolder, layout: OwnLayout, work: Path) -> OwnLayout:
    """Return the layout with the splits of the data.

    They are written to `data/splits.csv` of the work folder, and taken from there when it exists. Before they
    are written, files are listed, not read. Raises FileNotFoundError and ValueError for what that shows to be
    missing or wrong.
    """
    layout = dataclasses.replace(
        layout, validation=config.validation_share, test=config.test_share, seed=config.split_seed
    )
    splits = work / "data" / "splits.csv"
    if jax.process_index() == 0 and not splits.exists():
        inventory = layout.find(config.data)
        for listed in (inventory, *map(_tested(layout).find, config.domains.values())):
            listed.check_faults(config.tolerance)
        write_splits(splits, config.data, inventory.splits)
    return dataclasses.replace(layout, splits=splits)


def prepare(
    config: OwnFolder, layout: OwnLayout, dataset: type[FolderDataset], work: Path
) -> tuple[Path, dict[str, Path]]:
    """Prepare the data and the domains in the work folder; return the folders of the prepared data sets.

    `layout` is that of `divide`. Raises the errors of `FolderDataset.prepared`.
    """

    def prepared(layout: Any, root: Path) -> Path:
        return Path(dataset.prepared(layout, root, work / "data", config.pixels, config.tolerance).data_dir)

    def all_prepared() -> tuple[Path, dict[str, Path]]:
        return prepared(layout, config.data), {
            name: prepared(_tested(layout), folder) for name, folder in config.domains.items()
        }

    if jax.process_index() == 0:
        all_prepared()
    parallel.barrier("prepared")
    return all_prepared()


def _tested(layout: OwnLayout) -> OwnLayout:
    """Return the layout of a domain, all of whose images are in its test set."""
    return dataclasses.replace(layout, validation=0.0, test=1.0, splits=None)
