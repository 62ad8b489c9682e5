"""The paper's target domains of depth: images in fog and under defocus blur, two Common Corruptions."""

from collections.abc import Iterable

import numpy as np

from gap_jax.data.corruptions.common import corrupt

TARGET_IMAGES = 8
TARGETS = {"fog": "fog", "blur": "defocus_blur"}  # the target domains' names, and those of their corruptions
PHOTO_TEXTS = {"fog": "a photo in fog", "blur": "a blurry photo"}  # the targets, in photographs of anything
SEVERITY = 3


def corrupted(images: np.ndarray, targets: Iterable[str] = TARGETS) -> dict[str, np.ndarray]:
    """Return images `[n,H,W,3]` in [0,1] as each of the target domains shows them."""
    positions = np.arange(len(images))
    return {target: corrupt(images, TARGETS[target], SEVERITY, ids=positions) for target in targets}
