"""Arrays to the pictures that the report shows: depth maps and error maps in colours of a fixed scale."""

from pathlib import Path

import numpy as np
from matplotlib import colormaps
from PIL import Image

LARGEST_ERROR = 0.25  # of depth's range: what is beyond looks the same
_DEPTH = colormaps["cividis"].reversed()  # near is bright
_ERROR = colormaps["magma"]
_INVALID = 128
_LABEL, _OTHER, _EMPTY = (43, 108, 176), (221, 127, 60), (232, 232, 232)  # of bars: blue, orange, grey


def depth(values: np.ndarray, mask: np.ndarray | None = None) -> np.ndarray:
    """Depth `[H,W,1]` in [0,1] (what is outside is clipped) as uint8 `[H,W,3]`, near yellow, far blue.

    `mask` bool `[H,W,1]`: pixels where it is False are grey. Raises ValueError for another shape.
    """
    return _coloured(_DEPTH, values, values, mask)


def error(prediction: np.ndarray, values: np.ndarray, mask: np.ndarray | None = None) -> np.ndarray:
    """`|prediction - values|` as uint8 `[H,W,3]`: black is none, pale yellow `LARGEST_ERROR` or more.

    Both `[H,W,1]`; `mask` as for `depth`, and so are the errors raised.
    """
    if np.shape(prediction) != np.shape(values):
        raise ValueError(f"prediction has shape {np.shape(prediction)}, depth {np.shape(values)}")
    return _coloured(_ERROR, np.abs(prediction - values) / LARGEST_ERROR, values, mask)


def bars(probabilities: np.ndarray, label: int, size: int) -> np.ndarray:
    """A bar for each of `[K]` probabilities, from the top, as uint8 `[size,size,3]`; the label's is blue."""
    ends = np.linspace(0, size, len(probabilities) + 1).round().astype(int)
    picture = np.full((size, size, 3), 255, np.uint8)
    for i, probability in enumerate(probabilities):
        rows = slice(ends[i] + (ends[i + 1] - ends[i] > 3), ends[i + 1])
        picture[rows] = _EMPTY
        picture[rows, : round(float(probability) * size)] = _LABEL if i == label else _OTHER
    return picture


def foreground(image: np.ndarray, keep: np.ndarray) -> np.ndarray:
    """Return float images `[…,H,W,3]` in [0,1] with grey in place of the background, where `keep` is False."""
    return np.where(keep, image, np.float32(0.5))


def save(path: str | Path, picture: np.ndarray) -> None:
    """Write uint8 `[H,W,3]`, or float in [0,1], as PNG; makes its folder."""
    if picture.dtype != np.uint8:
        picture = np.round(np.clip(picture, 0, 1) * 255).astype(np.uint8)
    Path(path).parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(picture).save(path, "PNG")


def gradient(kind: str, stops: int = 6) -> list[str]:
    """Colours from the least to the largest value of `depth` or `error` pictures, as `#rrggbb`."""
    colours = {"depth": _DEPTH, "error": _ERROR}[kind](np.linspace(0, 1, stops), bytes=True)
    return ["#" + bytes(colour[:3]).hex() for colour in colours]


def _coloured(scale, shown: np.ndarray, values: np.ndarray, mask: np.ndarray | None) -> np.ndarray:
    if np.ndim(values) != 3 or np.shape(values)[-1] != 1:
        raise ValueError(f"depth must have shape [H, W, 1], found {list(np.shape(values))}")
    picture = scale(np.clip(shown[..., 0], 0, 1), bytes=True)[..., :3]
    if mask is None:
        return picture
    if mask.shape != np.shape(values):
        raise ValueError(f"mask has shape {list(mask.shape)}, depth {list(np.shape(values))}")
    return np.where(mask, picture, np.uint8(_INVALID))
