"""Images whose corruption is known in closed form, and the cases of the published tables."""

import itertools
from functools import lru_cache

import numpy as np

from gap_jax.small_worlds import rooms

TINY, SMALL, LARGE = SIZES = (
    32,
    64,
    96,
)  # sides with CIFAR-10-C's, ImageNet-64x64-C's and ImageNet-C's parameters
SEVERITIES = (1, 2, 3, 4, 5)


@lru_cache
def textured(count, size):
    looks = itertools.product(("red", "blue", "beige", "grey"), ("bright", "dark"))
    styles = list(itertools.islice(itertools.cycle(rooms.Style(*look) for look in looks), count))
    images = rooms.render(0, range(count), styles, max(size, 64)).image / np.float32(255)
    return images[:, :size, :size]


def constant(level, count=1, size=SMALL):
    """Return grey images of `level` / 255."""
    return np.full((count, size, size, 3), level / 255, np.float32)


def levels(images):
    """Return the 8-bit levels of float images, which must be whole."""
    rounded = np.round(images * 255.0)
    np.testing.assert_allclose(images * 255.0, rounded, atol=1e-4)
    return rounded.astype(int)


def point(size=SMALL, at=None):
    image = constant(0, size=size)
    image[0, at or size // 2, at or size // 2] = 1
    return image


def published(*tables):
    """Return (size, severity, parameter) for the three published tables."""
    return [
        (size, severity, parameter)
        for size, table in zip(SIZES, tables, strict=True)
        for severity, parameter in zip(SEVERITIES, table, strict=True)
    ]
