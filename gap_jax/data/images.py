"""A folder of images without labels, such as those that show a target domain."""

from pathlib import Path

import numpy as np

from gap_jax.data.files import Fault, open_image, square_image
from gap_jax.data.inventory import check_share, listed

SUFFIXES = (".png", ".jpg", ".jpeg", ".webp")


def read_images(folder: Path, size: int) -> np.ndarray:
    """A folder's images, `[n,size,size,3]` in [0,1]; those that cannot be read are named and left out.

    Raises FileNotFoundError for a folder without images, ValueError if half of them or more are at fault.
    """
    paths = sorted(path for path in folder.glob("*") if path.suffix.lower() in SUFFIXES)
    if not paths:
        raise FileNotFoundError(f"{folder} has no images ({', '.join(SUFFIXES)}) to be a target")
    good, faults = [], []
    for path in paths:
        try:
            good.append(square_image(open_image(path).convert("RGB"), size))
        except Fault as fault:
            faults.append(fault)
    check_share(faults, len(paths), 0.5)
    for line in listed(faults):
        print(line)
    return np.stack(good).astype(np.float32) / 255
