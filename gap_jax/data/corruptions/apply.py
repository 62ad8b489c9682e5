"""The application of any corruption to a batch: checked arguments, a generator per image, 8-bit images."""

import zlib
from collections.abc import Callable, Sequence

import numpy as np

SEVERITIES = (1, 2, 3, 4, 5)
MIN_SIDE = 16  # pixels


def corrupt_each(
    effect: Callable[[np.ndarray, np.random.Generator, int], np.ndarray],
    images: np.ndarray,
    name: str,
    severity: int,
    ids: Sequence[int] | np.ndarray,
    seed: int,
) -> np.ndarray:
    """Apply `effect(image, random, i)` to every image, between rounding and truncation to 8 bits.

    `image` is float64 `[H,W,3]` in [0,1]; the returned image may leave that range. `random` is a generator
    for image `i` alone.
    """
    result = np.empty_like(images)
    for i, image in enumerate(images):
        random = _generator(seed, int(ids[i]), name, severity)
        result[i] = to_8_bits(effect(np.round(image.astype(np.float64) * 255) / 255, random, i)) / np.float32(
            255
        )
    return result


def to_8_bits(image: np.ndarray) -> np.ndarray:
    """Truncate floats in [0,1] to uint8; values up to 0.001 levels below a level count as that level."""
    return np.floor(np.clip(image, 0, 1) * 255.0 + 1e-3).astype(np.uint8)


def check_request(
    images: np.ndarray,
    name: str,
    severity: int,
    ids: Sequence[int] | np.ndarray,
    seed: int,
    known: Sequence[str],
) -> None:
    """Raise ValueError unless the arguments are valid for `corrupt`; `known` are the existing names."""
    if name not in known:
        raise ValueError(f"{name!r} is not a corruption; choose one of {', '.join(known)}")
    if not isinstance(severity, int | np.integer) or severity not in SEVERITIES:
        raise ValueError(f"severity must be 1, 2, 3, 4 or 5, found {severity!r}")
    images = np.asarray(images)
    if images.ndim != 4 or images.shape[-1] != 3 or images.dtype != np.float32:
        raise ValueError(f"images must be float32 [B, H, W, 3], found {images.dtype} {list(images.shape)}")
    if min(images.shape[1:3]) < MIN_SIDE:
        raise ValueError(
            f"images must have sides of {MIN_SIDE} pixels or more, found {list(images.shape[1:3])}"
        )
    if images.size and not (images.min() >= 0 and images.max() <= 1):
        raise ValueError(f"images must be in [0, 1], found {images.min():g} to {images.max():g}")
    numbers = np.asarray(ids)
    if numbers.shape != (len(images),):
        raise ValueError(
            f"ids must have shape [{len(images)}], one id for each image, found {list(numbers.shape)}"
        )
    if len(numbers) and (numbers.dtype.kind not in "iu" or numbers.min() < 0):
        raise ValueError(f"ids must be integers, 0 or more, found {numbers.dtype}, {ids!r}")
    if not isinstance(seed, int | np.integer) or seed < 0:
        raise ValueError(f"seed must be an integer, 0 or more, found {seed!r}")


def _generator(seed: int, image_id: int, name: str, severity: int) -> np.random.Generator:
    counter = [0, 0, severity, zlib.crc32(name.encode())]
    return np.random.Generator(np.random.Philox(key=[seed, image_id], counter=counter))
