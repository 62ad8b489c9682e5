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
_STORED = {"image": (np.uint8, 255), "depth": (np.uint16, DEPTH_SCALE)}
_INT32 = np.iinfo(np.int32)
Kind = Literal["value", "image", "depth", "mask", "classes", "map", "list"]


def as_arrays(example: Mapping[str, Any]) -> dict[str, np.ndarray]:
    """Convert a stored example to the arrays that losses and alignments take.

    `image` (uint8) and `depth` (uint16) become float32 in [0,1]; every other uint8 array `[H,W,C]` is a mask
    and becomes bool; single integers become int32 if that holds them. Other arrays and numbers stay as they
    are; strings are dropped.

    Raises ValueError for an image or depth of another dtype, and for a mask of other values than 0 and 255.
    """
    arrays: dict[str, Any] = {}
    for name, value in example.items():
        array = np.asarray(value)
        if name in _STORED:
            dtype, scale = _STORED[name]
            if array.dtype != dtype:
                raise ValueError(
                    f"stored {name} must be {np.dtype(dtype)}, 0 to {scale}, found {array.dtype}: store it "
                    "so, or give it another name"
                )
            arrays[name] = array.astype(np.float32) / scale
        elif array.ndim == 3 and array.dtype == np.uint8:
            arrays[name] = as_mask(name, array)
        elif array.ndim == 0 and array.dtype.kind in "iu":
            fits = _INT32.min <= array <= _INT32.max
            arrays[name] = array.astype(np.int32)[()] if fits else array[()]
        elif array.dtype.kind in "biuf":
            arrays[name] = array[()]
    return arrays


def as_mask(name: str, stored: np.ndarray) -> np.ndarray:
    """Return a stored mask, uint8, as bool; raise ValueError, naming it, for values besides 0 and 255."""
    is_mask = (stored == 0) | (stored == 255)
    if not is_mask.all():
        raise ValueError(
            f"{name} must have the values 0 and 255 of a mask, found {stored[~is_mask][0]}: store a class "
            "map, or a map of other numbers, as a tensor of int32"
        )
    return stored > 0


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
    is_number = array.dtype.kind in "biuf" and array.dtype.itemsize <= 8
    if not is_number and not (array.dtype.kind == "U" and array.ndim == 0):
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
        precise = pixels.astype(np.promote_types(pixels.dtype, np.float32))  # float16 ends at 65504
        pixels = np.round(precise[..., 0] * DEPTH_SCALE).astype(np.uint16)
    stream, text = BytesIO(), PngInfo()
    if software:
        text.add_text("Software", software)
    # compression of level 3 is 4 times as fast as level 6, and 8 % larger
    Image.fromarray(pixels).save(stream, "PNG", compress_level=3, pnginfo=text)
    return stream.getvalue()
