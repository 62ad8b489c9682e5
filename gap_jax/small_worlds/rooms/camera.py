"""The cameras of rooms: what a lens, a sensor or a bad file does to a picture.

Lengths are shares of the image's side, given below in pixels of an image of 64.
"""

import numpy as np
from scipy import ndimage

_BLUR = 1.6  # standard deviation of the blur, in pixels
_CONTRAST = 0.25  # contrast of a faded picture
_GRAIN = 0.15  # standard deviation of the grain
_GRAIN_SIDE, _PIXEL_SIDE = 2, 3  # sides of a grain and of a large pixel, in pixels


def photograph(image: np.ndarray, camera: str, random: np.random.Generator) -> np.ndarray:
    """Return the picture that a camera, one of `CAMERAS`, takes of `image`; both `[S,S,3]` in [0,1]."""
    size = len(image)
    scale = size / 64
    if camera == "blurry":
        return ndimage.gaussian_filter(image, (_BLUR * scale, _BLUR * scale, 0), mode="nearest")
    if camera == "faded":
        mean = image.mean((0, 1))
        return mean + _CONTRAST * (image - mean)
    if camera == "grainy":
        block = _block_numbers(size, _GRAIN_SIDE * scale)
        grain = random.normal(0, _GRAIN, (block[-1] + 1, block[-1] + 1))
        return np.clip(image + grain[block[:, None], block, None], 0, 1)
    if camera == "pixelated":
        block = _block_numbers(size, _PIXEL_SIDE * scale)
        starts = np.flatnonzero(np.diff(block, prepend=-1))
        sums = np.add.reduceat(np.add.reduceat(image, starts, 0), starts, 1)
        counts = np.bincount(block)
        return (sums / (counts[:, None] * counts)[..., None])[block[:, None], block]
    return image


def _block_numbers(size: int, side: float) -> np.ndarray:
    """Return the number of the block, `side` pixels wide, that each of `size` pixels belongs to."""
    return (np.arange(size) / side).astype(int)
