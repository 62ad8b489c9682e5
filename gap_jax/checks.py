"""Checks of arrays at public boundaries.

All but `expect_finite` look at shapes and dtypes only: they work on NumPy arrays, JAX arrays and tracers, and
raise before anything is compiled. They are chex's assertions, raised as ValueError with a message that names
the argument, what was expected and what was found.
"""

from collections.abc import Sequence

import chex
import jax
import numpy as np

Array = jax.Array | np.ndarray


def expect_shape(name: str, array: Array, shape: Sequence[int | None], advice: str = "") -> None:
    """Raise ValueError unless `array` has `shape`, in which None stands for any size.

    `advice` tells the caller what to do and ends the message.
    """
    try:
        chex.assert_shape(array, tuple(shape))
    except AssertionError as error:
        expected = ", ".join("*" if size is None else str(size) for size in shape)
        advice = f": {advice}" if advice else ""
        message = f"{name} must have shape [{expected}], found {list(np.shape(array))}{advice}"
        raise ValueError(message) from error


def expect_divisible(name: str, images: Array, divisor: int) -> None:
    """Raise ValueError unless height and width of `images` `[B,H,W,C]` are multiples of `divisor`, not 0."""
    height, width = images.shape[1:3]
    if not height or not width or height % divisor or width % divisor:
        raise ValueError(
            f"{name} of {height}x{width} pixels: both sides must be divisible by {divisor}; resize or crop"
        )


def expect_float(name: str, array: Array) -> None:
    """Raise ValueError unless `array`, a quantity in [0,1] such as an image, has a floating-point dtype."""
    try:
        chex.assert_type(array, float)
    except AssertionError as error:
        message = f"{name} must be floats in [0,1], found {array.dtype}: divide 8-bit images by 255"
        raise ValueError(message) from error


def expect_finite(name: str, array: Array) -> None:
    """Raise ValueError if `array` holds NaN or infinity. Reads the values: not for use under `jit`."""
    finite = np.isfinite(np.asarray(array))
    if not finite.all():
        first = [int(i) for i in np.argwhere(~finite)[0]]
        raise ValueError(
            f"{name} must be finite, found NaN or infinity in {finite.size - finite.sum()} of {finite.size} "
            f"values, first at index {first}: correct the data or leave them out"
        )
