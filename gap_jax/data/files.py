"""Reading of image files: decoding, masks, the central square, and the fault that a file may have."""

from pathlib import Path

import numpy as np
from PIL import Image, UnidentifiedImageError

IMAGE_SUFFIXES = (".png", ".jpg", ".jpeg", ".webp")


class Fault(ValueError):
    """A file that cannot be used, and why."""

    def __init__(self, path: str | Path, why: str):
        super().__init__(str(path), why)
        self.path, self.why = str(path), why

    def __str__(self) -> str:
        return f"{self.path} {self.why}"


def open_image(path: str | Path) -> Image.Image:
    """An image, decoded; raises `Fault` for one that is missing, damaged or truncated."""
    try:
        image = Image.open(path)
        image.load()
        return image
    except (OSError, SyntaxError, UnidentifiedImageError) as error:
        raise Fault(path, f"cannot be read as an image: {error}") from error


def read_mask(path: str | Path, size: tuple[int, int] | None) -> np.ndarray:
    """Where an image of one channel is not zero, bool `[H,W]`; raises `Fault` if not of `size` (W, H)."""
    image = open_image(path)
    if size and image.size != size:
        raise Fault(path, f"must be of {times(size)} pixels, found {times(image.size)}")
    pixels = np.asarray(image)
    if pixels.ndim != 2:
        raise Fault(path, f"must have one channel, 0 where a pixel does not count, found mode {image.mode}")
    return pixels != 0


def square(pixels: np.ndarray, size: int, frame: tuple[int, int] | None = None) -> np.ndarray:
    """The central square of `[H,W]`, by nearest neighbour `[size,size]`; `frame` as in `read`."""
    left, top, right, bottom = _window(pixels.shape[1::-1], frame)
    steps = (np.arange(size) + 0.5) / size
    rows, columns = (top + steps * (bottom - top)).astype(int), (left + steps * (right - left)).astype(int)
    return pixels[rows[:, None], columns]


def square_image(
    image: Image.Image,
    size: int,
    frame: tuple[int, int] | None = None,
    kernel: Image.Resampling = Image.Resampling.BILINEAR,
) -> np.ndarray:
    """The central square of an RGB image, uint8 `[size,size,3]`, without aliasing; `frame` as in `read`."""
    return np.asarray(image.resize((size, size), kernel, _window(image.size, frame)))


def _window(size, frame):
    """Left, top, right and bottom of the central square, in pixels, left and top whole."""
    width, height = frame or size
    shares = min(width, height) / width, min(width, height) / height
    across, down = (length * share for length, share in zip(size, shares, strict=True))
    left, top = (size[0] - across) // 2, (size[1] - down) // 2
    return left, top, left + across, top + down


def times(size: tuple[int, int]) -> str:
    """Width and height in words."""
    return "x".join(map(str, size))
