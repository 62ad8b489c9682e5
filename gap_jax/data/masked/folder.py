"""One's own images with classes and masks: a folder for each class in `images` and in `masks`."""

import dataclasses
from pathlib import Path
from typing import ClassVar

from gap_jax.data.files import IMAGE_SUFFIXES, Fault
from gap_jax.data.inventory import Inventory, abbreviate
from gap_jax.data.masked.read import MaskedPaths, format_counts, keep_existing, missing_classes
from gap_jax.data.reading.listing import list_files, list_folders


@dataclasses.dataclass(frozen=True)
class MaskedFolderLayout:
    """Your own images with classes and masks: `images/{class}/{name}.png` and `masks/{class}/{name}.png`.

    Images may also be .jpg, .jpeg or .webp files, and lie in folders below that of their class. A mask is as
    large as its image, and 0 where the image may change.
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

        Classes without examples, and unknown ones, are problems. Raises the errors of `Layout.find`.
        """
        for folder in (root / "images", root / "masks"):
            if not folder.is_dir():
                raise FileNotFoundError(
                    f"{folder} is missing: {root} must hold images/{{class}} and masks/{{class}}"
                )
        images, masks = list_files(root / "images", IMAGE_SUFFIXES), list_files(root / "masks", (".png",))
        folders = list_folders(root / "images")
        classes = self.classes or tuple(folders)
        if not classes:
            raise ValueError(f"{root / 'images'} must hold a folder for each class, found none")
        problems = []
        if unknown := [name for name in folders if name not in classes]:
            problems.append(
                f"{root / 'images'} must hold only folders of the classes {', '.join(classes)}, but has "
                f"{abbreviate(unknown)}: remove them or name all classes"
            )
        mask_of = {_stem(name): mask for name, mask in masks.files.items()}
        candidates, faults = [], []
        for name, image in images.files.items():
            label_name, _, below = name.partition("/")
            if not below:
                faults.append(Fault(image, "is in no class's folder"))
            elif label_name in classes:
                stem, label = _stem(name), classes.index(label_name)
                mask = mask_of.get(stem, root / "masks" / f"{stem}.png")
                candidates.append(MaskedPaths(stem, str(image), str(mask), label, label, {}))
        candidates.sort(key=lambda paths: paths.label)
        examples, missing = keep_existing(candidates)
        notes = [format_counts("train", (classes[paths.label] for paths in examples))]
        if unused := sorted(mask_of.keys() - {paths.id for paths in candidates}):
            notes.append(f"{len(unused)} masks belong to no image: {abbreviate(unused)}")
        if examples:
            problems += missing_classes(root / "images", examples, classes)
        else:
            problems.append(
                f"no image images/{{class}}/{{name}} has its mask masks/{{class}}/{{name}}.png in {root}: "
                f"{images.describe()}, and {masks.describe()}"
            )
        notes += [*images.notes(), *masks.notes()]
        return Inventory({"train": examples}, [*faults, *missing], notes, classes, tuple(problems))


def _stem(name: str) -> str:
    return Path(name).with_suffix("").as_posix()
