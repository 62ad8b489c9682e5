"""Images whose corruption is known in closed form, and the cases of the published tables."""

import itertools
from functools import lru_cache

import numpy as np

from gap_jax.small_worlds import rooms

SMALL, LARGE = 64, 96  # sides with CIFAR-10-C's and ImageNet-C's parameters
SEVERITIES = (1, 2, 3, 4, 5)


@lru_cache
def textured(count, size):
    looks = itertools.product(("red", "blue", "beige", "grey"), ("striped", "checkered"))
    styles = list(itertools.islice(itertools.cycle(rooms.Style(*look) for look in looks), count))
    return rooms.render(0, range(count), styles, size).image / np.float32(255)


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


def both(small, large):
    """Return (size, severity, parameter) for both published tables."""
    cases = [(SMALL, severity, value) for severity, value in zip(SEVERITIES, small, strict=True)]
    return cases + [(LARGE, severity, value) for severity, value in zip(SEVERITIES, large, strict=True)]
