"""Tests that checks pass what fits and name the argument that does not, traced or not."""

import re

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from gap_jax.checks import expect_divisible, expect_finite, expect_float, expect_shape

IMAGES = np.zeros((2, 8, 12, 3), np.float32)


@pytest.mark.parametrize("dtype", [np.float16, np.float32, np.float64, jnp.bfloat16])
def test_what_fits_passes(dtype):
    images = IMAGES.astype(dtype)
    expect_shape("images", images, (None, None, 12, 3))
    expect_shape("images", images, [2, 8, 12, 3])
    expect_float("images", images)
    expect_divisible("images", images, 4)
    expect_finite("images", images)


@pytest.mark.parametrize(
    "check, message",
    [
        (
            lambda x: expect_shape("x", x, (None, 8, 12, 1)),
            "x must have shape [*, 8, 12, 1], found [2, 8, 12, 3]",
        ),
        (
            lambda x: expect_shape("x", x, (3,), "add one"),
            "x must have shape [3], found [2, 8, 12, 3]: add one",
        ),
        (
            lambda x: expect_float("x", x.astype("uint8")),
            "x must be floats in [0,1], found uint8: divide 8-bit",
        ),
        (
            lambda x: expect_divisible("x", x, 8),
            "x of 8x12 pixels: both sides must be divisible by 8; resize",
        ),
        (lambda x: expect_divisible("x", x[:, :0], 4), "x of 0x12 pixels: both sides must be divisible by 4"),
    ],
)
def test_what_does_not_fit_is_named_traced_or_not(check, message):
    for call in (check, jax.jit(check)):
        with pytest.raises(ValueError, match=re.escape(message)):
            call(IMAGES)


def test_the_first_value_that_is_not_finite_is_named():
    values = np.array([[0, 1], [np.nan, np.inf]])
    message = "x must be finite, found NaN or infinity in 2 of 4 values, first at index [1, 0]"
    with pytest.raises(ValueError, match=re.escape(message)):
        expect_finite("x", values)
