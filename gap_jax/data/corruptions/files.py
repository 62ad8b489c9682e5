"""3D Common Corruptions from files, for those that an image and its depth are not enough for.

Kar et al., CVPR 2022, arXiv 2203.01441: `{root}/{corruption}/{severity}/{path}`, where `{path}` is the clean
image's in its own data set (an example's `file`).
"""

from collections.abc import Iterator, Sequence
from pathlib import Path

import numpy as np

from gap_jax.data.corruptions.common import SEVERITIES
from gap_jax.data.files import open_image, square_image
from gap_jax.data.inventory import some


def available(root: Path) -> list[tuple[str, int]]:
    """Corruptions and severities that have a folder; raises FileNotFoundError if there is none."""
    pairs = [
        (corruption.name, severity)
        for corruption in sorted(root.glob("*"))
        for severity in SEVERITIES
        if (corruption / str(severity)).is_dir()
    ]
    if not pairs:
        raise FileNotFoundError(f"{root} has no folders {{corruption}}/{{severity}}, severities 1 to 5")
    return pairs


def read_corrupted(root: Path, corruption: str, severity: int, files: Sequence[str], size: int) -> np.ndarray:
    """The corrupted versions of these files, float32 `[n,size,size,3]` in [0,1], cropped as `rgbd.read` does.

    Raises FileNotFoundError that says how many are missing, ValueError for one that cannot be read.
    """
    folder = root / corruption / str(severity)
    check_complete(folder, files)
    images = [square_image(open_image(folder / file).convert("RGB"), size) for file in files]
    return np.stack(images).astype(np.float32) / 255


def check_complete(folder: Path, files: Sequence[str]) -> None:
    """Raise FileNotFoundError if some of `files` are not in a corruption's folder."""
    missing = [file for file in files if not (folder / file).is_file()]
    if missing:
        raise FileNotFoundError(f"{folder} lacks {len(missing)} of {len(files)} images: {some(missing)}")


def corrupted_sets(root: Path, files: Sequence[str], size: int) -> Iterator[tuple[str, np.ndarray]]:
    """`3dcc/{corruption}/{severity}` and its images, for all that is there: shifts, with the clean labels."""
    for corruption, severity in available(root):
        yield f"3dcc/{corruption}/{severity}", read_corrupted(root, corruption, severity, files, size)
