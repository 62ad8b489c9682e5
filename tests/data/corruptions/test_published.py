"""Common Corruptions damage photographs as much as the published code does.

Frost needs the published photographs: `python -m benchmarks.corruptions` compares it, too.
"""

import numpy as np
import pytest

from benchmarks.corruptions import DRAWS, ours, photographs, theirs
from gap_jax.data.corruptions.common import CORRUPTIONS
from tests.data.corruptions import published


def test_all_but_frost_are_compared():
    assert set(CORRUPTIONS) - set(published.EFFECTS) == {"frost"}


@pytest.mark.parametrize("side", [64, *(pytest.param(side, marks=pytest.mark.slow) for side in (224, 384))])
@pytest.mark.parametrize("name", published.EFFECTS)
def test_the_psnr_is_that_of_the_published_code(name, side):
    images, draws = photographs(side), DRAWS.get(name, 2)

    def effect(image, severity, random):
        return published.corrupt(name, image, severity, random)

    difference = ours(images, name, draws) - theirs(images, effect, draws)
    assert abs(difference.mean()) < 0.3 and np.abs(difference).max() < 0.6, difference  # in dB
