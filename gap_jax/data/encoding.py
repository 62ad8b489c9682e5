"""The stored form of examples, in which images, depth and masks are PNG files, and their arrays.

`docs/data.md` has a table of the kinds of fields and of how they are written.
"""

from collections.abc import Mapping
from io import BytesIO
from typing import Any, Literal

import numpy as np
from PIL import Image
from PIL.PngImagePlugin import PngInfo

from gap_jax.ranges import FILE_NAME, is_file_name

DEPTH_SCALE = 65535  # stored depth is depth in [0,1] times this, rounded to uint16
Kind = Literal["value", "image", "depth", "mask", "classes", "map", "list"]


def as_arrays(example: Mapping[str, Any]) -> dict[str, np.ndarray]:
    """Convert a stored example to the arrays that losses and alignments take.

    `image` (uint8) and `depth` (uint16) become float32 in [0,1]; every other uint8 array `[H,W,C]` is a mask
    and becomes bool; single integers become int32. Other arrays and numbers stay as they are; strings are
    dropped.
    """
    scales = {"image": 255, "depth": DEPTH_SCALE}
    arrays: dict[str, Any] = {}
    for name, value in example.items():
        if name in scales:
            arrays[name] = value.astype(np.float32) / scales[name]
        elif np.ndim(value) == 3 and value.dtype == np.uint8:
            arrays[name] = value > 0
        elif np.ndim(value) == 0 and isinstance(value, int | np.integer) and not isinstance(value, bool):
            arrays[name] = np.int32(value)
        elif np.asarray(value).dtype.kind in "biuf":
            arrays[name] = np.asarray(value)[()]
    return arrays


def kind_of(name: str, value: np.ndarray) -> Kind:
    """Return the kind of a field of an example, which decides how it is stored.

    - `value`: a number, bool or string.
    - `image`, the field of that name, uint8 `[H,W,3]`; `depth`, the field of that name, floats `[H,W,1]`.
    - `mask`: bool `[H,W,1]`; `classes`: integers `[H,W,1]`; `map`: any other numbers `[H,W,C]`.
    - `list`: numbers of another shape, such as boxes `[n,4]`.

    Raises ValueError for anything else, such as an array of strings, and for an array whose name no folder
    can have.
    """
    array = np.asarray(value)
    single = array.ndim == 3 and array.shape[-1] == 1
    if array.dtype.kind not in "biufU" or (array.dtype.kind == "U" and array.ndim):
        raise ValueError(
            f"the field {name} must have numbers, bools or one string per example, found {array.dtype} of "
            f"shape {list(array.shape)}: convert it, or leave it out"
        )
    if array.ndim == 0:
        return "value"
    if not is_file_name(name):
        raise ValueError(
            f"the field {name!r} must be renamed or left out, because its files have a folder of its name, "
            f"which must be {FILE_NAME.text}"
        )
    if name == "image":
        return "image"
    if name == "depth":
        if not single or array.dtype.kind != "f":
            raise ValueError(
                f"depth must be floats [H,W,1] in [0,1], found {array.dtype} of shape {list(array.shape)}: "
                "give a map of another kind another name"
            )
        return "depth"
    if array.ndim == 3:
        kinds: dict[str, Kind] = {"b": "mask", "f": "map", "i": "classes", "u": "classes"}
        return kinds[array.dtype.kind] if single else "map"
    return "list"


def png(pixels: np.ndarray, software: str = "") -> bytes:
    """Encode pixels as a PNG file, with the text `Software` if it is given.

    `pixels` is an image, uint8 `[H,W,3]`; a mask, bool `[H,W,1]`, stored as 0 and 255; or depth, floats in
    [0,1] `[H,W,1]`, stored in 16 bits.
    """
    if pixels.dtype == bool:
        pixels = pixels[..., 0].astype(np.uint8) * 255
    elif np.issubdtype(pixels.dtype, np.floating):
        pixels = np.round(pixels[..., 0] * DEPTH_SCALE).astype(np.uint16)
    stream, text = BytesIO(), PngInfo()
    if software:
        text.add_text("Software", software)
    # compression of level 3 is 4 times as fast as level 6, and 8 % larger
    Image.fromarray(pixels).save(stream, "PNG", compress_level=3, pnginfo=text)
    return stream.getvalue()
