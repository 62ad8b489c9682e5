"""Images of one's own with classes and masks: in `images` and in `masks`, a folder for each class."""

import dataclasses
from pathlib import Path
from typing import ClassVar

import tensorflow_datasets as tfds

from gap_jax.data.depth.folder import IMAGES
from gap_jax.data.folder_dataset import FolderConfig
from gap_jax.data.inventory import Found, some
from gap_jax.data.masked.dataset import MaskedDataset
from gap_jax.data.masked.read import MaskedPaths, check_classes, present, tally


@dataclasses.dataclass(frozen=True)
class MaskedFolderLayout:
    """A folder with `images/{class}/{name}.png`, or .jpg, .jpeg, .webp, and `masks/{class}/{name}.png`.

    Masks are as large as their images, 0 where the image may change.
    """

    classes: tuple[str, ...] = ()  # in the order of labels; without them, the folders' names, sorted
    most_kept: float = 0.5  # masks that in the middle keep a larger share of their image look inverted
    about: ClassVar = ()
    scaled: ClassVar = False

    def find(self, root: Path) -> Found:
        """The examples, all in `train`, with ids `{class}/{name}`, groups being classes; as `Layout.find`."""
        for folder in (root / "images", root / "masks"):
            if not folder.is_dir():
                raise FileNotFoundError(
                    f"{folder} is missing: {root} should hold images/{{class}} and masks/{{class}}"
                )
        folders = sorted(path.name for path in (root / "images").iterdir() if path.is_dir())
        classes = self.classes or tuple(folders)
        others = [name for name in folders if name not in classes]
        if others or not classes:
            raise ValueError(
                f"{root / 'images'} must have a folder for each of the classes {', '.join(classes)}, found "
                f"also {some(others)}"
                if others
                else f"{root / 'images'} holds no folder: it should have one for each class"
            )
        candidates = [
            MaskedPaths(f"{name}/{image.stem}", str(image), str(_mask(root, image)), label, label, {})
            for label, name in enumerate(classes)
            for image in sorted((root / "images" / name).glob("*"))
            if image.suffix.lower() in IMAGES
        ]
        examples, faults = present(candidates)
        check_classes(root / "images", examples, classes)
        notes = [tally("train", (classes[files.label] for files in examples))]
        return Found({"train": examples}, faults, notes, classes)


def _mask(root: Path, image: Path) -> Path:
    return root / "masks" / image.parent.name / f"{image.stem}.png"


class MaskedFolder(MaskedDataset):
    """Images of one's own, of 384 pixels; the only split is `train`."""

    VERSION = tfds.core.Version("1.0.0")
    MANUAL_DOWNLOAD_INSTRUCTIONS = """\
    images/{class}/{name}.png and masks/{class}/{name}.png: see docs/data.md, and check them by
    `python -m gap_jax.data check masked-folder`.
    """
    BUILDER_CONFIGS: ClassVar = [FolderConfig(name="384", layout=MaskedFolderLayout(), size=384)]
