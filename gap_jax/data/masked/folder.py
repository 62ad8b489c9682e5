"""One's own images with classes and masks: a folder for each class in `images` and in `masks`."""

import dataclasses
from pathlib import Path
from typing import ClassVar

from gap_jax.data.files import IMAGE_SUFFIXES
from gap_jax.data.inventory import Inventory, abbreviate
from gap_jax.data.masked.read import MaskedPaths, check_classes, format_counts, keep_existing


@dataclasses.dataclass(frozen=True)
class MaskedFolderLayout:
    """Your own images with classes and masks: `images/{class}/{name}.png` and `masks/{class}/{name}.png`.

    Images may also be .jpg, .jpeg or .webp files. A mask is as large as its image, and 0 where the image may
    change.
    """

    classes: tuple[str, ...] = ()
    """names of the classes in the order of the labels; by default, the folders' names, sorted"""
    most_kept: float = 0.5
    """largest median share of an image that masks may keep; masks that keep more look inverted"""
    attributes: ClassVar = ()
    scaled_masks: ClassVar = False
    size: ClassVar = 384  # pixels of a side at which images are prepared by default

    def find(self, root: Path) -> Inventory:
        """List the examples, all in the split `train`, with ids `{class}/{name}` and classes as groups.

        Raises the errors of `Layout.find`.
        """
        for folder in (root / "images", root / "masks"):
            if not folder.is_dir():
                raise FileNotFoundError(
                    f"{folder} is missing: {root} must hold images/{{class}} and masks/{{class}}"
                )
        folders = sorted(path.name for path in (root / "images").iterdir() if path.is_dir())
        classes = self.classes or tuple(folders)
        if not classes:
            raise ValueError(f"{root / 'images'} must hold a folder for each class, found none")
        if unknown := [name for name in folders if name not in classes]:
            raise ValueError(
                f"{root / 'images'} must hold only folders of the classes {', '.join(classes)}, but has "
                f"{abbreviate(unknown)}: remove them or name all classes"
            )
        candidates = [
            MaskedPaths(f"{name}/{image.stem}", str(image), str(_mask(root, image)), label, label, {})
            for label, name in enumerate(classes)
            for image in sorted((root / "images" / name).glob("*"))
            if image.suffix.lower() in IMAGE_SUFFIXES
        ]
        examples, faults = keep_existing(candidates)
        check_classes(root / "images", examples, classes)
        notes = [format_counts("train", (classes[paths.label] for paths in examples))]
        return Inventory({"train": examples}, faults, notes, classes)


def _mask(root: Path, image: Path) -> Path:
    return root / "masks" / image.parent.name / f"{image.stem}.png"
