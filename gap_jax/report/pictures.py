"""Arrays as pictures for the report: depth, errors and classes in colours, probabilities, foregrounds."""

from collections.abc import Sequence
from io import BytesIO
from pathlib import Path

import numpy as np
from matplotlib import colormaps
from matplotlib.colors import Colormap
from PIL import Image

from gap_jax.files import write_whole

LARGEST_ERROR = 0.25  # as a share of depth's range; larger errors have the same colour
_DEPTH_COLOURS = colormaps["cividis"].reversed()  # near is bright
_ERROR_COLOURS = colormaps["magma"]
_UNLABELLED = 128  # grey
_NO_CLASS = 232  # light grey
CLASS_COLOURS = {  # matplotlib's `tab10`
    "blue": (31, 119, 180),
    "orange": (255, 127, 14),
    "green": (44, 160, 44),
    "red": (214, 39, 40),
    "purple": (148, 103, 189),
    "brown": (140, 86, 75),
    "pink": (227, 119, 194),
    "grey": (127, 127, 127),
    "olive": (188, 189, 34),
    "cyan": (23, 190, 207),
}
_LABEL, _OTHER, _EMPTY = (43, 108, 176), (221, 127, 60), (232, 232, 232)  # of bars: blue, orange, grey


def depth(values: np.ndarray, mask: np.ndarray | None = None) -> np.ndarray:
    """Return a depth map as a picture, uint8 `[H,W,3]`: near is yellow, far is blue.

    - `values`: `[H,W,1]` in [0,1]; values outside are clipped.
    - `mask`: bool `[H,W,1]`; pixels where it is False are grey.

    Raises ValueError for other shapes.
    """
    _check_shapes(values, mask)
    return _coloured(_DEPTH_COLOURS, values, mask)


def error(prediction: np.ndarray, values: np.ndarray, mask: np.ndarray | None = None) -> np.ndarray:
    """Return `|prediction - values|` as a picture, uint8 `[H,W,3]`.

    Black is no error, pale yellow an error of 0.25 or more. Both depth maps are `[H,W,1]`; `mask` is that of
    `depth`. Raises ValueError for other shapes.
    """
    if np.shape(prediction) != np.shape(values):
        raise ValueError(
            f"prediction must have the shape of the depth, {list(np.shape(values))}, "
            f"found {list(np.shape(prediction))}"
        )
    _check_shapes(values, mask)
    return _coloured(_ERROR_COLOURS, np.abs(prediction - values) / LARGEST_ERROR, mask)


def classes(values: np.ndarray, colours: Sequence[Sequence[int]] | np.ndarray) -> np.ndarray:
    """Return a class map as a picture, uint8 `[H,W,3]`.

    - `values`: int `[H,W,1]`, the class of each pixel. A number without a colour is light grey.
    - `colours`: red, green and blue of each class, from 0 to 255, such as those of `CLASS_COLOURS`.
    """
    table = np.asarray(colours, np.uint8)
    has_colour = (values >= 0) & (values < len(table))
    return np.where(has_colour, table[np.where(has_colour, values, 0)[..., 0]], np.uint8(_NO_CLASS))


def bars(probabilities: np.ndarray, label: int, size: int) -> np.ndarray:
    """Return probabilities `[K]` as horizontal bars, the first on top, uint8 `[size,size,3]`.

    The label's bar is blue, the others are orange.
    """
    ends = np.linspace(0, size, len(probabilities) + 1).round().astype(int)
    picture = np.full((size, size, 3), 255, np.uint8)
    for i, probability in enumerate(probabilities):
        rows = slice(ends[i] + (ends[i + 1] - ends[i] > 3), ends[i + 1])
        picture[rows] = _EMPTY
        picture[rows, : round(float(probability) * size)] = _LABEL if i == label else _OTHER
    return picture


def foreground(image: np.ndarray, keep: np.ndarray) -> np.ndarray:
    """Return images with a grey background: float `[…,H,W,3]` in [0,1], grey where `keep` is False."""
    return np.where(keep, image, np.float32(0.5))


def save(path: str | Path, picture: np.ndarray) -> None:
    """Write a picture `[H,W,3]`, uint8 or float in [0,1], as a PNG file; raise OSError if that fails."""
    if picture.dtype != np.uint8:
        picture = np.round(np.clip(picture, 0, 1) * 255).astype(np.uint8)
    stream = BytesIO()
    Image.fromarray(picture).save(stream, "PNG")
    write_whole(path, stream.getvalue())


def gradient(kind: str, stops: int = 6) -> list[str]:
    """Return the colours of `depth` or `error` pictures as `#rrggbb`, from the least to the largest value."""
    colours = {"depth": _DEPTH_COLOURS, "error": _ERROR_COLOURS}[kind](np.linspace(0, 1, stops), bytes=True)
    return ["#" + bytes(colour[:3]).hex() for colour in colours]


def _check_shapes(values: np.ndarray, mask: np.ndarray | None) -> None:
    if np.ndim(values) != 3 or np.shape(values)[-1] != 1:
        raise ValueError(f"depth must have shape [H, W, 1], found {list(np.shape(values))}")
    if mask is not None and mask.shape != np.shape(values):
        raise ValueError(
            f"mask must have the shape of the depth, {list(np.shape(values))}, found {list(mask.shape)}"
        )


def _coloured(colours: Colormap, values: np.ndarray, mask: np.ndarray | None) -> np.ndarray:
    picture = colours(np.clip(values[..., 0], 0, 1), bytes=True)[..., :3]
    return picture if mask is None else np.where(mask, picture, np.uint8(_UNLABELLED))
