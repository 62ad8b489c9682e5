"""The random numbers of the small worlds: a generator of its own for every picture and purpose."""

from enum import IntEnum

import numpy as np

SPLITS = {"train": 0, "validation": 1, "test": 2}  # each split's seed


class Purpose(IntEnum):
    """The uses of random numbers within one picture; what one use draws does not change the others."""

    SHAPE = 0  # a room's geometry, an animal
    WORDS = 1
    BACKGROUND = 2
    LIGHT = 3  # the time and the camera's noise


def generator(seed: int, index: int, purpose: Purpose) -> np.random.Generator:
    """Return the random generator of one purpose in picture number `index` of the world `seed`."""
    return np.random.Generator(np.random.Philox(key=[seed, 4 * index + purpose]))
