"""Reading of image files: decoding, masks and crops of the central square."""

from collections.abc import Sequence
from pathlib import Path

import numpy as np
from PIL import Image, ImageOps, UnidentifiedImageError

IMAGE_SUFFIXES = (".png", ".jpg", ".jpeg", ".webp")
_LFS_POINTER = b"version https://git-lfs"


class Fault(ValueError):
    """The error of one file that cannot be used: its path and the reason, which completes "{path} …"."""

    def __init__(self, path: str | Path, reason: str):
        super().__init__(str(path), reason)
        self.path, self.reason = str(path), reason

    def __str__(self) -> str:
        return f"{self.path} {self.reason}"


def open_image(path: str | Path) -> Image.Image:
    """Open and decode an image as viewers show it, turned as its EXIF data say.

    Raises `Fault` if it is missing, damaged, truncated, too large to be trusted, or an animation.
    """
    try:
        image = Image.open(path)
        image.load()
    except Exception as error:  # decoders of damaged files raise errors of many types
        raise Fault(path, _why_unreadable(path, error)) from error
    frames = getattr(image, "n_frames", 1)
    if frames > 1 and image.format in ("PNG", "WEBP", "GIF"):  # not MPO: JPEG with a preview
        raise Fault(path, f"is an animation of {frames} pictures: save one of them")
    try:
        return ImageOps.exif_transpose(image)
    except Exception:  # damaged EXIF data tell no orientation
        return image


def open_colour(path: str | Path) -> Image.Image:
    """Open an image as `open_image` does and convert it to RGB; 16-bit grey values are divided by 257.

    Raises `Fault` for an image with transparent pixels, too, because they have no colour of their own.
    """
    image = open_image(path)
    if image.mode.startswith("I"):
        grey = (np.asarray(image).astype(np.int64) + 128) // 257
        if grey.min() < 0 or grey.max() > 255:
            raise Fault(path, f"must have 8 or 16 bits a channel, found mode {image.mode}: convert it")
        return Image.fromarray(grey.astype(np.uint8)).convert("RGB")
    if image.has_transparency_data:
        image = image.convert("RGBA")
        if np.asarray(image.getchannel("A")).min() < 255:
            raise Fault(path, "has transparent pixels: draw it on a background and save it as RGB")
    return image.convert("RGB")


def _why_unreadable(path: str | Path, error: Exception) -> str:
    """Return the reason of a decoder's error in words that are equal for equal faults."""
    start = "cannot be read as an image: "
    if isinstance(error, Image.DecompressionBombError):
        return f"{start}it has more than {2 * (Image.MAX_IMAGE_PIXELS or 0):,} pixels: make it smaller"
    if "MAX_TEXT" in str(error):
        return f"{start}it holds text of more than a megabyte: save it without metadata"
    if isinstance(error, OSError) and error.strerror:
        return start + error.strerror
    if isinstance(error, MemoryError):
        return f"{start}it does not fit into memory"
    with Path(path).open("rb") as stream:
        head = stream.read(len(_LFS_POINTER))
    if not head:
        return f"{start}it is empty"
    if head == _LFS_POINTER:
        return f"{start}it is a pointer of git-lfs: fetch the file by `git lfs pull`"
    if isinstance(error, UnidentifiedImageError):
        return f"{start}it is of no known format"
    return f"{start}it is damaged or incomplete"


def read_mask(path: str | Path, size: tuple[int, int] | None) -> np.ndarray:
    """Read a single-channel image as a mask, bool `[H,W]`, True where a pixel is not 0, or not black.

    Raises `Fault` for an image that has several channels or is not of `size` (width, height; None for any).
    """
    image = open_image(path)
    if size and image.size != size:
        raise Fault(
            path,
            f"must be {format_size(size)} pixels large, found {format_size(image.size)}"
            + turned(image.size, size),
        )
    if image.mode == "P":  # the numbers of a palette mean nothing without its colours
        return np.asarray(image.convert("RGB")).max(-1) > 0
    pixels = np.asarray(image)
    if pixels.ndim != 2:
        raise Fault(path, f"must be a mask of one channel, found mode {image.mode}: convert it")
    return pixels != 0


def turned(actual: Sequence[int], size: tuple[int, int]) -> str:
    """Return an explanation for a size with width and height swapped, "" for any other."""
    swapped = actual[0] != actual[1] and tuple(actual) == size[::-1]
    return "; the EXIF data of its image may say to turn it: turn both alike" if swapped else ""


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
