"""An image, its depth and the mask of valid pixels: read from files, checked, brought to one size."""

from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

import numpy as np
from PIL import Image, UnidentifiedImageError

Decode = Callable[[np.ndarray], tuple[np.ndarray, np.ndarray]]
"""From what a depth file holds, `[H,W]`, to depth in [0,1] and where it is valid, both `[H,W]`."""


class Fault(ValueError):
    """A file that cannot be used, and why."""

    def __init__(self, path: str | Path, why: str):
        super().__init__(str(path), why)
        self.path, self.why = str(path), why

    def __str__(self) -> str:
        return f"{self.path} {self.why}"


class Files(NamedTuple):
    """Paths of one example; without a mask, depth alone says what is valid. `id` tells it from the others."""

    id: str
    image: str
    depth: str
    mask: str | None = None


class Rgbd(NamedTuple):
    """`image` uint8 `[S,S,3]`; `depth` float32 `[S,S,1]` in [0,1], 0 if not valid; `mask` bool `[S,S,1]`."""

    image: np.ndarray
    depth: np.ndarray
    mask: np.ndarray


def read(files: Files, decode: Decode, size: int, frame: tuple[int, int] | None = None) -> Rgbd:
    """The central square of an example, resized to `size` pixels: depth and mask by nearest neighbour.

    `frame`: width and height that image, depth and mask, of whatever sizes, are meant to be resized to first;
    without it their sizes must be equal. Raises `Fault` for files that are damaged, of another format or
    size, and for depth without a valid pixel.
    """
    image = open_image(files.image).convert("RGB")
    depth, mask = read_label(files, decode, size, None if frame else image.size, frame)
    if not mask.any():
        raise Fault(files.depth, "has no valid pixel")
    return Rgbd(square_image(image, size, frame), depth, mask)


def read_label(
    files: Files,
    decode: Decode,
    size: int,
    wanted: tuple[int, int] | None,
    frame: tuple[int, int] | None = None,
) -> tuple[np.ndarray, np.ndarray]:
    """`depth` and `mask` as in `read`, from files of `wanted` width and height, None for any."""
    raw = square(read_depth(files.depth, wanted), size, frame)
    try:
        depth, valid = decode(raw)
    except ValueError as error:
        raise Fault(files.depth, str(error)) from error
    if files.mask is not None:
        valid = valid & square(read_mask(files.mask, wanted), size, frame)
    return np.where(valid, depth, 0).astype(np.float32)[..., None], valid[..., None]


def decode_distance(raw: np.ndarray, far: float | None = None) -> tuple[np.ndarray, np.ndarray]:
    """A `Decode`: raw / far, clipped; not valid where 0, negative or not finite.

    Without `far`, it is 65535, for floats 1; raises ValueError if there is anything above.
    """
    valid = np.isfinite(raw) & (raw > 0)
    raw = np.where(valid, raw, 0)
    full = 1.0 if raw.dtype.kind == "f" else 65535
    if far is None and raw.max() > full:
        raise ValueError(f"holds depth above {full}: say by `far` what depth 1 is")
    return np.clip(raw / np.float32(far or full), 0, 1), valid


def open_image(path: str | Path) -> Image.Image:
    """An image, decoded; raises `Fault` for one that is missing, damaged or truncated."""
    try:
        image = Image.open(path)
        image.load()
        return image
    except (OSError, SyntaxError, UnidentifiedImageError) as error:
        raise Fault(path, f"cannot be read as an image: {error}") from error


def read_depth(path: str | Path, size: tuple[int, int] | None) -> np.ndarray:
    """What a 16-bit PNG or an NPY file of numbers holds, `[H,W]`; raises `Fault` if not of `size` (W, H)."""
    if Path(path).suffix == ".npy":
        wanted = "an NPY file of numbers"
        try:
            pixels = np.load(path, allow_pickle=False)
        except (OSError, ValueError, EOFError) as error:
            raise Fault(path, f"cannot be read as {wanted}: {error}") from error
        pixels = pixels[..., 0] if pixels.shape[2:] == (1,) else pixels
        kind, right = f"{pixels.dtype}", pixels.ndim == 2 and pixels.dtype.kind in "iuf"
    else:
        image = open_image(path)
        wanted, kind, right = "a 16-bit PNG", f"mode {image.mode}", image.mode.startswith("I")
        pixels = np.asarray(image)
    found = pixels.shape[1::-1]
    if not right or (size and found != size):
        of = f" of {times(size)} pixels" if size else ""
        raise Fault(path, f"must be {wanted}{of}, found {times(found)}, {kind}")
    return pixels


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
