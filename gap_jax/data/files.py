"""Reading of image files: decoding, masks and crops of the central square."""

from pathlib import Path

import numpy as np
from PIL import Image, UnidentifiedImageError

IMAGE_SUFFIXES = (".png", ".jpg", ".jpeg", ".webp")


class Fault(ValueError):
    """The error of one file that cannot be used: its path and the reason, which completes "{path} …"."""

    def __init__(self, path: str | Path, reason: str):
        super().__init__(str(path), reason)
        self.path, self.reason = str(path), reason

    def __str__(self) -> str:
        return f"{self.path} {self.reason}"


def open_image(path: str | Path) -> Image.Image:
    """Open and decode an image; raise `Fault` if it is missing, damaged or truncated."""
    try:
        image = Image.open(path)
        image.load()
        return image
    except (OSError, SyntaxError, UnidentifiedImageError) as error:
        raise Fault(path, f"cannot be read as an image: {error}") from error


def read_mask(path: str | Path, size: tuple[int, int] | None) -> np.ndarray:
    """Read a single-channel image as a mask, bool `[H,W]`, True where a pixel is not 0.

    Raises `Fault` for an image that has several channels or is not of `size` (width, height; None for any).
    """
    image = open_image(path)
    if size and image.size != size:
        raise Fault(path, f"must be {format_size(size)} pixels large, found {format_size(image.size)}")
    pixels = np.asarray(image)
    if pixels.ndim != 2:
        raise Fault(path, f"must be a mask of one channel, found mode {image.mode}: convert it")
    return pixels != 0


def square_array(pixels: np.ndarray, size: int, frame: tuple[int, int] | None = None) -> np.ndarray:
    """Crop an array `[H,W]` to its central square and resize it to `[size,size]` by nearest neighbour.

    `frame` is the width and height that the array stands for: a square is cut out as if the array had first
    been resized to them. The default is the array's own size. A square frame squeezes the whole array.
    """
    left, top, right, bottom = _central_square(pixels.shape[1::-1], frame)
    steps = (np.arange(size) + 0.5) / size
    rows, columns = (top + steps * (bottom - top)).astype(int), (left + steps * (right - left)).astype(int)
    return pixels[rows[:, None], columns]


def square_image(
    image: Image.Image,
    size: int,
    frame: tuple[int, int] | None = None,
    kernel: Image.Resampling = Image.Resampling.BILINEAR,
) -> np.ndarray:
    """Crop an RGB image to its central square and resize it without aliasing to uint8 `[size,size,3]`.

    `frame` is that of `square_array`.
    """
    return np.asarray(image.resize((size, size), kernel, _central_square(image.size, frame)))


def _central_square(size, frame):
    """Return left, top, right and bottom of the central square in pixels; left and top are whole numbers."""
    width, height = frame or size
    shares = min(width, height) / width, min(width, height) / height
    across, down = (length * share for length, share in zip(size, shares, strict=True))
    left, top = (size[0] - across) // 2, (size[1] - down) // 2
    return left, top, left + across, top + down


def format_size(size: tuple[int, int]) -> str:
    """Return width and height as text, such as "640x480"."""
    return "x".join(map(str, size))
