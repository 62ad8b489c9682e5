"""3D Common Corruptions read from files, for those that need more than an image and its depth.

Kar et al., CVPR 2022, arXiv 2203.01441. The files are `{root}/{corruption}/{severity}/{path}`, where `{path}`
is the clean image's path in its own data set (an example's `file`).
"""

from collections.abc import Iterator, Sequence
from pathlib import Path

import numpy as np

from gap_jax.data.corruptions.apply import SEVERITIES
from gap_jax.data.files import open_colour, square_image
from gap_jax.data.inventory import abbreviate


def list_corruptions(root: Path) -> list[tuple[str, int]]:
    """Return the corruptions and severities that have a folder; raise FileNotFoundError if there are none."""
    pairs = [
        (corruption.name, severity)
        for corruption in sorted(root.glob("*"))
        for severity in SEVERITIES
        if (corruption / str(severity)).is_dir()
    ]
    if not pairs:
        raise FileNotFoundError(
            f"{root} has no folders {{corruption}}/{{severity}} with a severity from 1 to 5"
        )
    return pairs


def read_corrupted(root: Path, corruption: str, severity: int, files: Sequence[str], size: int) -> np.ndarray:
    """Read the corrupted versions of `files`, float32 `[n,size,size,3]` in [0,1].

    Images are cropped to their central square, as in prepared data sets. Raises FileNotFoundError saying how
    many are missing, ValueError naming one that cannot be read.
    """
    folder = root / corruption / str(severity)
    check_complete(folder, files)
    images = [square_image(open_colour(folder / file), size) for file in files]
    return np.stack(images).astype(np.float32) / 255


def check_complete(folder: Path, files: Sequence[str]) -> None:
    """Raise FileNotFoundError if `files` are missing in the folder of a corruption and severity."""
    missing = [file for file in files if not (folder / file).is_file()]
    if missing:
        raise FileNotFoundError(
            f"{folder} lacks {len(missing)} of {len(files)} images: {abbreviate(missing)}"
        )


def precomputed_sets(root: Path, files: Sequence[str], size: int) -> Iterator[tuple[str, int, np.ndarray]]:
    """Yield corruption, severity and the images of `read_corrupted` for every folder that exists."""
    for corruption, severity in list_corruptions(root):
        yield corruption, severity, read_corrupted(root, corruption, severity, files, size)
