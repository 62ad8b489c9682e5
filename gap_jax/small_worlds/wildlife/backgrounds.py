"""The places where animals stand: backgrounds drawn from gradients and smooth noise.

In all scenes, u runs from 0 at the left edge to 1 at the right, v from 0 at the top to 1 at the bottom.
"""

import cv2
import numpy as np

from gap_jax.small_worlds.wildlife.animals import Colour


def background(random: np.random.Generator, place: str, size: int) -> np.ndarray:
    """Draw a place by day without an animal, float32 `[S,S,3]`, colours about in [0,1].

    `place` decides what it looks like, `random` the details.
    """
    v, u = np.meshgrid(*((np.arange(size, dtype=np.float32) + 0.5) / size,) * 2, indexing="ij")
    scene = _SCENES[place](random, u[..., None], v[..., None])
    return scene * random.uniform(0.97, 1.03, 3).astype(np.float32)


def _grass(random: np.random.Generator, u: np.ndarray, v: np.ndarray) -> np.ndarray:
    """Draw a bright meadow with tufts of grass under a pale blue sky."""
    size, horizon = len(u), random.uniform(0.30, 0.36)
    sky = _fade((0.58, 0.78, 0.96), (0.84, 0.92, 0.97), v, 0, horizon)
    meadow = _fade((0.62, 0.80, 0.36), (0.34, 0.62, 0.18), v, horizon, 1)
    meadow = meadow + 0.09 * _noise(random, 14, 10, size)
    return _over(sky, meadow, _below(v, horizon + 0.01 * _noise(random, 6, 1, size), size))


def _forest(random: np.random.Generator, u: np.ndarray, v: np.ndarray) -> np.ndarray:
    """Draw dark leaves, and brown trunks on a mossy floor."""
    size = len(u)
    image = np.array((0.10, 0.26, 0.12), np.float32) + 0.07 * _noise(random, 9, 9, size)
    floor = _fade((0.15, 0.22, 0.09), (0.26, 0.27, 0.12), v, 0.5, 1) + 0.04 * _noise(random, 12, 8, size)
    image = _over(image, floor, _below(v, 0.55 + 0.03 * _noise(random, 5, 1, size), size))
    count = random.integers(4, 7)
    for i in range(count):
        at, wide, end = random.uniform((i / count + 0.04, 0.025, 0.54), ((i + 0.8) / count, 0.045, 0.68))
        shade = (0.36 - 0.10 * (u - at) / wide) * np.array((1.0, 0.76, 0.54), np.float32)
        bole = _inside(wide - np.abs(u - at), size) * (1 - _below(v, end, size))
        image = _over(image, shade, bole)
    return image


def _lake(random: np.random.Generator, u: np.ndarray, v: np.ndarray) -> np.ndarray:
    """Draw still teal water that mirrors the hills of the far shore."""
    size, shore = len(u), random.uniform(0.36, 0.42)
    hills = 0.11 + 0.035 * _noise(random, 4, 1, size)
    sky = _fade((0.76, 0.87, 0.94), (0.90, 0.94, 0.94), v, 0, shore)
    water = _fade((0.52, 0.74, 0.74), (0.22, 0.52, 0.56), v, shore, 1) + 0.03 * _noise(random, 3, 24, size)
    image = _over(sky, water, _below(v, shore, size))
    image = _over(image, (0.26, 0.42, 0.32), _below(v, shore - hills, size) * (1 - _below(v, shore, size)))
    mirrored = _inside(shore + 0.8 * hills - v, size) * _below(v, shore, size)
    return _over(image, (0.30, 0.50, 0.46), 0.8 * mirrored)


def _sea(random: np.random.Generator, u: np.ndarray, v: np.ndarray) -> np.ndarray:
    """Draw deep blue water with white crests, up to a straight horizon."""
    size, horizon = len(u), random.uniform(0.28, 0.34)
    sky = _fade((0.50, 0.72, 0.96), (0.78, 0.88, 0.98), v, 0, horizon)
    water = _fade((0.06, 0.22, 0.52), (0.10, 0.40, 0.70), v, horizon, 1)
    depth = np.sqrt(np.maximum(v - horizon, 0))  # waves widen towards the viewer
    wave = np.sin(2 * np.pi * (5.5 * depth + 0.15 * _noise(random, 5, 3, size) + random.random()))
    crests = np.clip(3 * (wave - 0.75), 0, 1) * np.clip(0.6 + _noise(random, 7, 9, size), 0, 1)
    water = _over(water + 0.03 * wave, (0.90, 0.95, 0.98), 0.8 * crests)
    return _over(sky, water, _below(v, horizon, size))


def _dirt(random: np.random.Generator, u: np.ndarray, v: np.ndarray) -> np.ndarray:
    """Draw bare red-brown ground with stones and a track, a rim of scrub and a hazy sky."""
    size, horizon = len(u), random.uniform(0.24, 0.30)
    sky = _fade((0.86, 0.86, 0.84), (0.94, 0.90, 0.82), v, 0, horizon)
    ground = _fade((0.68, 0.46, 0.32), (0.56, 0.34, 0.22), v, horizon, 1)
    ground = ground + 0.04 * _noise(random, 12, 12, size)
    middle = random.uniform(0.3, 0.7) + random.uniform(-0.3, 0.3) * (v - horizon)
    track = _inside(0.05 + 0.22 * (v - horizon) - np.abs(u - middle), size)
    ground = _over(ground, (0.78, 0.58, 0.42), 0.7 * track)
    for x, y, wide in random.uniform((0, 0.4, 0.018), (1, 0.95, 0.036), (9, 3)):
        stone = _inside(wide * (0.4 + y) - np.hypot(u - x, 1.7 * (v - y)), size)
        ground = _over(ground, (0.40, 0.27, 0.20), stone)
    image = _over(sky, ground, _below(v, horizon, size))
    scrub = _below(v, horizon - 0.05 - 0.03 * _noise(random, 10, 1, size), size)
    return _over(image, (0.44, 0.42, 0.28), scrub * (1 - _below(v, horizon + 0.02, size)))


def _savanna(random: np.random.Generator, u: np.ndarray, v: np.ndarray) -> np.ndarray:
    """Draw tall golden grass and flat-topped acacias before a white-hot sky."""
    size, horizon = len(u), random.uniform(0.38, 0.44)
    sky = _fade((0.74, 0.84, 0.92), (0.96, 0.93, 0.84), v, 0, horizon)
    grass = _fade((0.90, 0.78, 0.46), (0.74, 0.56, 0.22), v, horizon, 1)
    image = _over(sky, grass + 0.10 * _noise(random, 26, 5, size), _below(v, horizon, size))
    for side in (0.08, 0.62):
        at, high = random.uniform((side, 0.20), (side + 0.30, 0.28))
        bole = _inside(0.014 - np.abs(u - at), size) * _below(v, horizon - high, size)
        image = _over(image, (0.30, 0.24, 0.16), bole * (1 - _below(v, horizon + 0.02, size)))
        crown = _inside(0.05 - np.hypot(0.35 * (u - at), v - horizon + high), size)
        image = _over(image, (0.32, 0.38, 0.16), crown)
    return image


_SCENES = {
    "grass": _grass,
    "forest": _forest,
    "lake": _lake,
    "sea": _sea,
    "dirt": _dirt,
    "savanna": _savanna,
}


def _fade(top: Colour, bottom: Colour, v: np.ndarray, start: float, stop: float) -> np.ndarray:
    """Return a colour gradient, `top` down to v = `start` and `bottom` from v = `stop` on."""
    return _over(np.asarray(top, np.float32), bottom, np.clip((v - start) / (stop - start), 0, 1))


def _over(image: np.ndarray, colour: np.ndarray | Colour, share: np.ndarray) -> np.ndarray:
    """Return the image with a colour painted over it; `share` in [0,1] is how much of it shows."""
    return image + share * (np.asarray(colour, np.float32) - image)


def _inside(distance: np.ndarray, size: int) -> np.ndarray:
    """Return the share of a pixel that lies inside an edge, given the distance to the edge."""
    return np.clip(distance * size + 0.5, 0, 1)


def _below(v: np.ndarray, height: float | np.ndarray, size: int) -> np.ndarray:
    """Return the share of a pixel that lies below a height."""
    return _inside(v - height, size)


def _noise(random: np.random.Generator, across: int, down: int, size: int) -> np.ndarray:
    """Draw smooth noise of `across` by `down` waves, about uniform in [-1,1], float32 `[S,S,1]`."""
    lattice = random.uniform(-1, 1, (down, across)).astype(np.float32)
    return cv2.resize(lattice, (size, size), interpolation=cv2.INTER_CUBIC)[..., None]
