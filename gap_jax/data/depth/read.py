"""Images with depth: their files paired, then read, checked and brought to one size."""

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import NamedTuple, Protocol

import numpy as np

from gap_jax.data.files import (
    Fault,
    format_size,
    open_colour,
    open_image,
    read_mask,
    square_array,
    square_image,
    turned,
)
from gap_jax.data.inventory import Layout

Decode = Callable[[np.ndarray], tuple[np.ndarray, np.ndarray]]
"""A function from a depth file's numbers `[H,W]` to depth in [0,1] and its validity, bool, both `[H,W]`."""


class DepthPaths(NamedTuple):
    """The files of one example, which `id` identifies. Without a mask, depth alone tells what is valid."""

    id: str
    image: str
    depth: str
    mask: str | None = None

    def fault(self, path: str, reason: str) -> Fault:
        """Return a `Fault` that names a file of this example."""
        return Fault(path, reason)


class DepthExample(NamedTuple):
    """An image with depth.

    - `image`: uint8 `[S,S,3]`.
    - `depth`: float32 `[S,S,1]` in [0,1], 0 where it is not valid.
    - `mask`: bool `[S,S,1]`, True where depth is valid.
    """

    image: np.ndarray
    depth: np.ndarray
    mask: np.ndarray


class DepthLayout(Layout, Protocol):
    """The layout of a data set with depth; its inventory has `DepthPaths`.

    `frame` is that of `read_depth_example`; `decode` is a `Decode`.
    """

    @property
    def frame(self) -> tuple[int, int] | None: ...
    def decode(self, raw: np.ndarray) -> tuple[np.ndarray, np.ndarray]: ...


def match_files(
    images: Mapping[str, str], depths: Mapping[str, str], masks: Mapping[str, str] | None
) -> tuple[list[DepthPaths], list[Fault]]:
    """Combine paths of equal id to examples, sorted by id.

    The arguments are paths by id; `masks` is None for a data set without masks. Also returns the faults of
    the files that lack a counterpart.
    """
    examples, faults = [], []
    for name in sorted(images.keys() | depths.keys()):
        if name not in images:
            faults.append(Fault(depths[name], "has no image"))
        elif name not in depths:
            faults.append(Fault(images[name], "has no depth"))
        elif masks is None:
            examples.append(DepthPaths(name, images[name], depths[name]))
        elif name not in masks:
            faults.append(Fault(images[name], "has no mask"))
        else:
            examples.append(DepthPaths(name, images[name], depths[name], masks[name]))
    return examples, faults


def read_depth_example(
    paths: DepthPaths, decode: Decode, size: int, frame: tuple[int, int] | None = None
) -> DepthExample:
    """Read the central square of an example, resized to `size` pixels.

    Images are resized without aliasing, depth and masks by nearest neighbour. `frame` is the width and height
    that image, depth and mask stand for, whatever their sizes are; without it their sizes must be equal.
    Raises `Fault` for files that are damaged or of another format or size, and for depth without a valid
    pixel.
    """
    image = open_colour(paths.image)
    depth, mask = read_label(paths, decode, size, None if frame else image.size, frame)
    if not mask.any():
        raise Fault(paths.depth, "has no valid pixel")
    return DepthExample(square_image(image, size, frame), depth, mask)


def read_label(
    paths: DepthPaths,
    decode: Decode,
    size: int,
    file_size: tuple[int, int] | None,
    frame: tuple[int, int] | None = None,
) -> tuple[np.ndarray, np.ndarray]:
    """Read depth and mask as `read_depth_example` does.

    `file_size` is the width and height that both files must have, None for any.
    """
    raw = square_array(read_depth(paths.depth, file_size), size, frame)
    try:
        depth, valid = decode(raw)
    except ValueError as error:
        raise Fault(paths.depth, str(error)) from error
    if paths.mask is not None:
        valid = valid & square_array(read_mask(paths.mask, file_size), size, frame)
    return np.where(valid, depth, 0).astype(np.float32)[..., None], valid[..., None]


def decode_distance(raw: np.ndarray, far: float | None = None) -> tuple[np.ndarray, np.ndarray]:
    """Decode distances: depth is raw / `far`, at most 1; it is valid where raw is positive and finite.

    The default of `far` is 65535 for integers and 1 for floats; then a larger value raises ValueError. So
    does a map without any depth below `far`, as of millimetres for a `far` in metres.
    """
    valid = np.isfinite(raw) & (raw > 0)
    raw = np.where(valid, raw, 0)
    full = 1.0 if raw.dtype.kind == "f" else 65535
    if far is None and raw.max() > full:
        raise ValueError(f"holds depth above {full}: set `far` to the value at which depth is 1")
    far = far or full
    if valid.any() and (least := raw[valid].min()) >= far:
        raise ValueError(
            f"holds no depth below `far`, {far:g}; its least value is {least:g}: give `far` in the unit of "
            "the file, such as 10000 instead of 10 for millimetres"
        )
    return np.clip(raw / np.float32(far), 0, 1), valid


def read_depth(path: str | Path, size: tuple[int, int] | None) -> np.ndarray:
    """Read the numbers of a depth file, a 16-bit PNG or an NPY file of integers or floats, `[H,W]`.

    Raises `Fault` for another file, or one that is not of `size` (width, height; None for any).
    """
    if Path(path).suffix == ".npy":
        expected = "an NPY file of numbers"
        try:
            pixels = np.load(path, allow_pickle=False)
        except Exception as error:  # damaged files raise errors of many types
            raise Fault(
                path, f"cannot be read as {expected}: it is missing, damaged or holds objects"
            ) from error
        pixels = pixels[..., 0] if pixels.shape[2:] == (1,) else pixels
        kind, is_depth = f"{pixels.dtype}", pixels.ndim == 2 and pixels.dtype.kind in "iuf"
    else:
        image = open_image(path)
        expected, kind, is_depth = "a 16-bit PNG", f"mode {image.mode}", image.mode.startswith("I")
        pixels = np.asarray(image)
    actual = pixels.shape[1::-1]
    if not is_depth or (size and actual != size):
        of_size = f" of {format_size(size)} pixels" if size else ""
        hint = turned(actual, size) if size else ""
        raise Fault(path, f"must be {expected}{of_size}, found {format_size(actual)}, {kind}{hint}")
    return pixels
