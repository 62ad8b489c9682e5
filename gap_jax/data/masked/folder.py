"""One's own images with classes: a folder for each class in `images` and, with masks, in `masks`."""

import dataclasses
from pathlib import Path
from typing import ClassVar

from gap_jax.data.files import IMAGE_SUFFIXES, Fault
from gap_jax.data.inventory import Inventory, abbreviate
from gap_jax.data.masked.read import MaskedPaths, format_counts, keep_existing, missing_classes
from gap_jax.data.reading.listing import list_files, list_folders
from gap_jax.data.reading.splits import Groups, SplitFolder, find_splits, split_folders
from gap_jax.ranges import Share


@dataclasses.dataclass(frozen=True)
class ClassFolders(SplitFolder):
    """Images in a folder for each class; subclasses say where these are and whether there are masks."""

    classes: tuple[str, ...] = ()
    """names of the classes in the order of the labels; by default, the folders' names, sorted"""
    attributes: ClassVar = ()
    scaled_masks: ClassVar = False
    size: ClassVar = 384  # pixels of a side at which images are prepared by default

    def find(self, root: Path) -> Inventory:
        """List the examples, with ids `{class}/{name}` and classes as groups.

        Unknown classes, and classes without examples to train on, are problems. Raises the errors of
        `find_splits` and of `Layout.find`.
        """
        classes = self.class_names(root)
        layout = dataclasses.replace(self, classes=classes)
        groups = Groups(lambda paths: paths.label, lambda paths: classes[paths.label])
        return find_splits(self, root, layout.find_folder, groups)

    def class_names(self, root: Path) -> tuple[str, ...]:
        """Return the names of the classes; raise ValueError for a data set without a folder of a class."""
        if self.classes:
            return self.classes
        images = self.image_folder(split_folders(root)["train"])
        if not (folders := list_folders(images)):
            raise ValueError(f"{images} must hold a folder for each class, found none")
        return tuple(folders)

    def image_folder(self, root: Path) -> Path:
        """Return the folder that holds those of the classes; raise FileNotFoundError if it is missing."""
        raise NotImplementedError

    def find_folder(self, root: Path, split: str = "train") -> Inventory:
        """List the examples of a folder without splits, all in the split of this name."""
        raise NotImplementedError


@dataclasses.dataclass(frozen=True)
class MaskedFolderLayout(ClassFolders):
    """Your own images with classes and masks: `images/{class}/{name}.png` and `masks/{class}/{name}.png`.

    Images may also be .jpg, .jpeg or .webp files, and lie in folders below that of their class. A mask is as
    large as its image, and 0 where the image may change.
    """

    most_kept: Share = 0.5
    """largest median share of an image that masks may keep; masks that keep more look inverted"""

    def image_folder(self, root: Path) -> Path:
        """Return the folder `images`; raise FileNotFoundError if it or `masks` is missing."""
        for folder in (root / "images", root / "masks"):
            if not folder.is_dir():
                raise FileNotFoundError(
                    f"{folder} is missing: {root} must hold images/{{class}} and masks/{{class}}"
                )
        return root / "images"

    def find_folder(self, root: Path, split: str = "train") -> Inventory:
        """List the examples of a folder without splits, all in the split of this name."""
        return _find(self.image_folder(root), root / "masks", self.classes, split)


@dataclasses.dataclass(frozen=True)
class WholeFolderLayout(ClassFolders):
    """Your own images with classes, without masks: `{class}/{name}.png` or `images/{class}/{name}.png`.

    Images may also be .jpg, .jpeg or .webp files, and lie in folders below that of their class.
    """

    most_kept: ClassVar = 1.0

    def image_folder(self, root: Path) -> Path:
        """Return the folder `images` or, without one, `root`; raise FileNotFoundError if it is missing."""
        if not root.is_dir():
            raise FileNotFoundError(f"{root} is missing: it must hold a folder of images for each class")
        return root / "images" if (root / "images").is_dir() else root

    def find_folder(self, root: Path, split: str = "train") -> Inventory:
        """List the examples of a folder without splits, all in the split of this name."""
        return _find(self.image_folder(root), None, self.classes, split)


def _find(root: Path, mask_root: Path | None, classes: tuple[str, ...], split: str) -> Inventory:
    """List the images below `root`, with their masks below `mask_root`; None: there are no masks."""
    images, problems = list_files(root, IMAGE_SUFFIXES), []
    if unknown := [name for name in list_folders(root) if name not in classes]:
        problems.append(
            f"{root} must hold only folders of the classes {', '.join(classes)}, but has "
            f"{abbreviate(unknown)}: remove them or name all classes"
        )
    masks = list_files(mask_root, (".png",)) if mask_root else None
    mask_of = {_stem(name): mask for name, mask in masks.files.items()} if masks else {}
    candidates, faults = [], []
    for name, image in images.files.items():
        label_name, _, below = name.partition("/")
        if not below:
            faults.append(Fault(image, "is in no class's folder"))
        elif label_name in classes:
            stem, label = _stem(name), classes.index(label_name)
            mask = str(mask_of.get(stem, mask_root / f"{stem}.png")) if mask_root else None
            candidates.append(MaskedPaths(stem, str(image), mask, label, label, {}))
    candidates.sort(key=lambda paths: paths.label)
    examples, missing = keep_existing(candidates)
    notes = [format_counts(root, (classes[paths.label] for paths in examples))]
    if unused := sorted(mask_of.keys() - {paths.id for paths in candidates}):
        notes.append(f"{len(unused)} masks belong to no image: {abbreviate(unused)}")
    if not examples and masks:
        problems.append(
            f"no image images/{{class}}/{{name}} has its mask masks/{{class}}/{{name}}.png in {root.parent}: "
            f"{images.describe()}, and {masks.describe()}"
        )
    elif not examples:
        problems.append(f"{root} has no image {{class}}/{{name}}: {images.describe()}")
    elif split == "train":
        problems += missing_classes(root, examples, classes)
    notes += [*images.notes(), *(masks.notes() if masks else ())]
    return Inventory({split: examples}, [*faults, *missing], notes, classes, tuple(problems))


def _stem(name: str) -> str:
    return Path(name).with_suffix("").as_posix()
