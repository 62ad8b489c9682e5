"""An image, its depth and the mask of valid pixels: read from files, checked, brought to one size."""

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import NamedTuple, Protocol

import numpy as np

from gap_jax.data.files import Fault, open_image, read_mask, square, square_image, times
from gap_jax.data.inventory import Layout

Decode = Callable[[np.ndarray], tuple[np.ndarray, np.ndarray]]
"""From what a depth file holds, `[H,W]`, to depth in [0,1] and where it is valid, both `[H,W]`."""


class DepthPaths(NamedTuple):
    """Paths of one example; without a mask, depth alone says what is valid. `id` tells it from the others."""

    id: str
    image: str
    depth: str
    mask: str | None = None


class DepthExample(NamedTuple):
    """`image` uint8 `[S,S,3]`; `depth` float32 `[S,S,1]` in [0,1], 0 if not valid; `mask` bool `[S,S,1]`."""

    image: np.ndarray
    depth: np.ndarray
    mask: np.ndarray


def read(files: DepthPaths, decode: Decode, size: int, frame: tuple[int, int] | None = None) -> DepthExample:
    """The central square of an example, resized to `size` pixels: depth and mask by nearest neighbour.

    `frame`: width and height that image, depth and mask, of whatever sizes, are meant to be resized to first;
    without it their sizes must be equal. Raises `Fault` for files that are damaged, of another format or
    size, and for depth without a valid pixel.
    """
    image = open_image(files.image).convert("RGB")
    depth, mask = read_label(files, decode, size, None if frame else image.size, frame)
    if not mask.any():
        raise Fault(files.depth, "has no valid pixel")
    return DepthExample(square_image(image, size, frame), depth, mask)


def read_label(
    files: DepthPaths,
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


def match(
    images: Mapping[str, str], depths: Mapping[str, str], masks: Mapping[str, str] | None
) -> tuple[list[DepthPaths], list[Fault]]:
    """Examples in the order of their ids, and files that lack a counterpart, from paths by id."""
    examples, faults = [], []
    for number in sorted(images.keys() | depths.keys()):
        if number not in images:
            faults.append(Fault(depths[number], "has no image"))
        elif number not in depths:
            faults.append(Fault(images[number], "has no depth"))
        elif masks is None:
            examples.append(DepthPaths(number, images[number], depths[number]))
        elif number not in masks:
            faults.append(Fault(images[number], "has no mask"))
        else:
            examples.append(DepthPaths(number, images[number], depths[number], masks[number]))
    return examples, faults


class DepthLayout(Layout, Protocol):
    """How images with depth lie in their folder: `frame` as in `rgbd.read`, `decode` a `rgbd.Decode`."""

    @property
    def frame(self) -> tuple[int, int] | None: ...
    def decode(self, raw: np.ndarray) -> tuple[np.ndarray, np.ndarray]: ...
