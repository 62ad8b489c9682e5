"""Common Corruptions: fifteen ways in which a photograph goes wrong, each in five severities.

Hendrycks & Dietterich, arXiv 1903.12261, with the parameters by which the published images were made:
ImageNet-C's for images whose shorter side is above 64 pixels, CIFAR-10-C's from 64 pixels down. Lengths are
pixels whatever the image's size, but for what follows its size, as in the package `imagecorruptions`: fog's
map is the power of two next above the longer side, frost, zoom and pixelation are shares of the image, and
elastic lengths are shares of its shorter side (published: of 244 for images of 224, of 32 for those of 32).
There, unlike in the package, the parameters and the affine part stay the published ones.

As published, input has 8 bits (others are rounded), output is cut down, not rounded, to 8 bits, glass blur
copies pixels onto their neighbours where swapping was meant, and motion is blurred as ImageMagick does, by
half a Gaussian. Departures: frost is blended with a texture of ours, drawn, in place of photographs; no image
goes through JPEG of quality 85 at the end; elastic's affine part interpolates in floats.

A higher severity is a larger squared error on average, but not always for glass blur and elastic transform,
nor for frost and large images' fog from 3 to 4.
"""

import zlib
from collections.abc import Callable, Sequence
from functools import lru_cache
from io import BytesIO
from typing import Any, NamedTuple

import numpy as np
from PIL import Image, ImageDraw
from scipy import ndimage, signal, sparse

SEVERITIES = (1, 2, 3, 4, 5)
SMALL = 64  # pixels, shorter side: up to here CIFAR-10-C's parameters
SMALLEST = 16  # pixels, either side

_GREY = np.array((0.299, 0.587, 0.114))
_ICE = np.array((0.88, 0.95, 1.0))
_STEMS = 12


def corrupt(
    images: np.ndarray, name: str, severity: int, *, ids: Sequence[int] | np.ndarray, seed: int = 0
) -> np.ndarray:
    """Images corrupted by `name` (one of `CORRUPTIONS`) to `severity` (1 to 5).

    `images` float32 `[B,H,W,3]` in [0,1], sides of 16 pixels or more, and so is the result, in whole 255ths.
    `ids` are B integers from 0: what is random comes from (seed, id, name, severity) alone, whatever the
    batch. Raises ValueError for a name or severity that does not exist, and arrays unlike these.
    """
    check_request(images, name, severity, ids, seed, CORRUPTIONS)
    effect, small, large = _CORRUPTIONS[name]
    parameters = (small if min(images.shape[1:3]) <= SMALL else large)[severity - 1]
    return corrupt_each(
        lambda image, random, _: effect(image, random, parameters), images, name, severity, ids, seed
    )


def corrupt_each(
    effect: Callable[[np.ndarray, np.random.Generator, int], np.ndarray],
    images: np.ndarray,
    name: str,
    severity: int,
    ids: Sequence[int] | np.ndarray,
    seed: int,
) -> np.ndarray:
    """`effect(image, random, i)` of every image, from 8 bits to 8 bits, with a generator of its own.

    `image` is float64 `[H,W,3]` in [0,1]; what `effect` returns may leave that range.
    """
    result = np.empty_like(images)
    for i, image in enumerate(images):
        random = _generator(seed, int(ids[i]), name, severity)
        result[i] = to_8_bits(effect(np.round(image * 255.0) / 255.0, random, i)) / np.float32(255)
    return result


def to_8_bits(image: np.ndarray) -> np.ndarray:
    """uint8, cut down as `numpy.uint8` does, with a thousandth of a step against rounding errors."""
    return np.floor(np.clip(image, 0, 1) * 255.0 + 1e-3).astype(np.uint8)


def check_request(
    images: np.ndarray,
    name: str,
    severity: int,
    ids: Sequence[int] | np.ndarray,
    seed: int,
    known: Sequence[str],
) -> None:
    """Raise ValueError for what `corrupt` says it raises for; `known` are the names that exist."""
    if name not in known:
        raise ValueError(f"{name!r} is no corruption. Known: {', '.join(known)}")
    if not isinstance(severity, int | np.integer) or severity not in SEVERITIES:
        raise ValueError(f"severity must be 1, 2, 3, 4 or 5, found {severity!r}")
    images = np.asarray(images)
    if images.ndim != 4 or images.shape[-1] != 3 or images.dtype != np.float32:
        raise ValueError(f"images must be float32 [B, H, W, 3], found {images.dtype} {list(images.shape)}")
    if min(images.shape[1:3]) < SMALLEST:
        raise ValueError(
            f"images must have sides of {SMALLEST} pixels or more, found {list(images.shape[1:3])}"
        )
    if images.size and not (images.min() >= 0 and images.max() <= 1):
        raise ValueError(f"images must be in [0, 1], found {images.min():g} to {images.max():g}")
    numbers = np.asarray(ids)
    if numbers.shape != (len(images),):
        raise ValueError(f"{len(images)} images need as many ids, found shape {list(numbers.shape)}")
    if len(numbers) and (numbers.dtype.kind not in "iu" or numbers.min() < 0):
        raise ValueError(f"ids must be integers from 0, found {numbers.dtype}, {ids!r}")
    if not isinstance(seed, int | np.integer) or seed < 0:
        raise ValueError(f"seed must be an integer from 0, found {seed!r}")


def _generator(seed: int, image_id: int, name: str, severity: int) -> np.random.Generator:
    counter = [0, 0, severity, zlib.crc32(name.encode())]
    return np.random.Generator(np.random.Philox(key=[seed, image_id], counter=counter))


def _gaussian_noise(image, random, scale):
    return image + random.normal(0, scale, image.shape)


def _shot_noise(image, random, photons):
    return random.poisson(image * photons) / photons


def _impulse_noise(image, random, share):
    hit, white = random.random(image.shape) < share, random.random(image.shape) < 0.5
    return np.where(hit, white, image)


def _defocus_blur(image, random, parameters):
    kernel = _disc(*parameters)
    margin = len(kernel) // 2
    padded = np.pad(image, ((margin, margin), (margin, margin), (0, 0)), "reflect")
    return signal.fftconvolve(padded, kernel[..., None], "valid", axes=(0, 1))


@lru_cache
def _disc(radius, softness):
    """A disc of `radius` pixels in a square, its rim softened by a Gaussian of 3 taps, or 5 if large.

    Reflected at the square's sides, as published, where radii 8 and 10 reach them: those discs sum to 1.01.
    """
    away = np.arange(-max(8, radius), max(8, radius) + 1)
    disc = (away[:, None] ** 2 + away**2 <= radius**2).astype(float)
    taps = 1 if radius <= 8 else 2
    return ndimage.gaussian_filter(disc / disc.sum(), softness, radius=taps, mode="mirror")


def _glass_blur(image, random, parameters):
    sigma, reach, rounds = parameters
    height, width, _ = image.shape
    blurred = to_8_bits(_blur(image, sigma)) / 255.0
    rows, columns = (np.arange(side - reach, reach, -1) for side in (height, width))
    targets = (rows[:, None] * width + columns).ravel()
    shown = list(range(height * width))
    for _ in range(rounds):
        down, across = random.integers(-reach, reach, (2, len(targets)))
        for target, source in zip(targets.tolist(), (targets + down * width + across).tolist(), strict=True):
            shown[target] = shown[source]
    return _blur(blurred.reshape(-1, 3)[shown].reshape(image.shape), sigma)


def _blur(image, sigma):
    return ndimage.gaussian_filter(image, (sigma, sigma, 0), mode="nearest")


def _motion_blur(image, random, parameters):
    return _smear(image, *parameters, random.uniform(-45, 45))


def _smear(image, radius, sigma, degrees):
    """Averages along a line from each pixel, weighted by half a Gaussian: ImageMagick's MotionBlurImage."""
    steps = np.arange(2 * radius + 1)
    weights = np.exp(-(steps**2) / (2 * sigma**2))
    angle = np.deg2rad(degrees)
    across, down = (
        2 * radius + np.ceil(steps * slope - 0.5).astype(int) for slope in (np.cos(angle), np.sin(angle))
    )
    padded = np.pad(image, ((2 * radius, 2 * radius), (2 * radius, 2 * radius), (0, 0)), "edge")
    height, width, _ = image.shape
    total = np.zeros_like(image)
    for x, y, weight in zip(across, down, weights / weights.sum(), strict=True):
        total += weight * padded[y : y + height, x : x + width]
    return np.round(total * 255.0) / 255.0


def _zoom_blur(image, random, parameters):
    stop, step = parameters
    views = [_zoom(image, factor) for factor in np.arange(1, stop, step)]
    return (image + sum(views)) / (1 + len(views))


def _zoom(image, factor):
    """The middle of `[H,W,C]` enlarged to its size, linearly."""
    for _ in ("rows", "columns"):
        matrix = _zoom_matrix(len(image), float(factor))
        image = (matrix @ image.reshape(len(image), -1)).reshape(image.shape).swapaxes(0, 1)
    return image


@lru_cache(256)
def _zoom_matrix(side, factor):
    kept = int(np.ceil(side / factor))
    start = (side - kept) // 2
    rows = ndimage.zoom(np.eye(side)[start : start + kept], (factor, 1), order=1)
    spare = (len(rows) - side) // 2
    return sparse.csr_array(rows[spare : spare + side])


def _snow(image, random, parameters):
    mean, deviation, zoom, threshold, radius, sigma, keep = parameters
    flakes = _zoom(random.normal(mean, deviation, (*image.shape[:2], 1)), zoom)
    flakes = to_8_bits(np.where(flakes < threshold, 0, flakes)) / 255.0
    falling = _smear(flakes, radius, sigma, random.uniform(-135, -45))
    paled = np.maximum(image, (image * _GREY).sum(-1, keepdims=True) * 1.5 + 0.5)
    return keep * image + (1 - keep) * paled + falling + falling[::-1, ::-1]


def _frost(image, random, parameters):
    keep, share = parameters
    return keep * image + share * _frost_texture(image.shape[0], image.shape[1], random)


def _frost_texture(height, width, random):
    """Ice flowers on a pane, `[H,W,3]` in [0,1]: stems, two orders of branches at 60°, over a thin film."""
    side, fine = min(height, width), 3  # drawn with this many lines of pixels to one
    start = random.uniform(0, 1, (_STEMS, 2)) * (width, height)
    angle, length = random.uniform(0, 2 * np.pi, _STEMS), random.uniform(0.4, 1.0, _STEMS) * side
    drawing = Image.new("L", (fine * width, fine * height))
    pen = ImageDraw.Draw(drawing)
    for order, twigs in enumerate((36, 10, 0)):
        end = start + length[:, None] * np.stack([np.cos(angle), np.sin(angle)], 1)
        thickness = max(1, round(fine * side * (0.008, 0.005, 0.003)[order]))
        for line in fine * np.concatenate([start, end], 1):
            pen.line(line.tolist(), fill=(255, 200, 150)[order], width=thickness)
        along = random.uniform(0, 1, (len(length), twigs))
        start = (start[:, None] + along[..., None] * (end - start)[:, None]).reshape(-1, 2)
        angle = (angle[:, None] + random.choice((-1, 1), along.shape) * np.pi / 3).ravel()
        length = (0.3 * length[:, None] * (1 - along)).ravel()
    crystals = np.asarray(drawing.reduce(fine)) / 255.0
    film = ndimage.gaussian_filter(random.normal(size=(height, width)), side / 10, mode="wrap")
    film = np.clip(0.3 + 0.12 * film / film.std(), 0, 1)
    return (film + (1 - film) * crystals)[..., None] * _ICE


def _fog(image, random, parameters):
    thickness, decay = parameters
    size = 1 << (max(image.shape[:2]) - 1).bit_length()
    fog = _plasma(size, decay, random)[: image.shape[0], : image.shape[1], None]
    brightest = image.max()
    return (image + thickness * fog) * brightest / (brightest + thickness)


def _plasma(size, decay, random):
    """Clouds, `[size,size]` from 0 to 1: diamond-square on a torus, noise `decay²` less at each halving."""
    heights, amplitude = np.zeros((1, 1)), 1.0
    while len(heights) < size:
        noise = random.uniform(-amplitude, amplitude, (3, *heights.shape))
        below, right = np.roll(heights, -1, 0), np.roll(heights, -1, 1)
        middle = (heights + below + right + np.roll(below, -1, 1)) / 4 + noise[0]
        on_row = (heights + right + middle + np.roll(middle, 1, 0)) / 4 + noise[1]
        on_column = (heights + below + middle + np.roll(middle, 1, 1)) / 4 + noise[2]
        rows = np.stack([heights, on_row], -1), np.stack([on_column, middle], -1)
        heights = np.stack(rows, 1).reshape(2 * len(heights), -1)
        amplitude /= decay**2
    return (heights - heights.min()) / np.ptp(heights)


def _brightness(image, random, more):
    """More of HSV's value, at the same hue and saturation: that is all channels times one factor."""
    value = image.max(-1, keepdims=True)
    return np.where(value > 0, image / np.maximum(value, 1e-9), 1) * np.minimum(value + more, 1)


def _contrast(image, random, factor):
    mean = image.mean((0, 1))
    return (image - mean) * factor + mean


def _elastic_transform(image, random, parameters):
    sides = np.array(image.shape[:2])
    strength, sigma, jitter = min(sides) * np.array(parameters)
    corners = sides // 2 + min(sides) // 3 * np.array([(1, 1), (1, -1), (-1, -1)])
    moved = corners + random.uniform(-jitter, jitter, corners.shape)
    back = np.linalg.solve(
        np.column_stack([moved, np.ones(3)]), corners
    ).T  # [2,3], to where a pixel comes from
    places = np.indices(image.shape[:2])
    image = _sample(image, np.tensordot(back[:, :2], places, 1) + back[:, 2, None, None], "mirror")
    noise = random.uniform(-1, 1, places.shape)
    field = ndimage.gaussian_filter(noise, (0, sigma, sigma), mode="reflect", truncate=3)
    return _sample(image, places + strength * field, "reflect")


def _sample(image, places, mode):
    channels = [
        ndimage.map_coordinates(channel, places, order=1, mode=mode) for channel in np.moveaxis(image, -1, 0)
    ]
    return np.stack(channels, -1)


def _pixelate(image, random, share):
    height, width, _ = image.shape
    small = Image.fromarray(to_8_bits(image)).resize(
        (int(width * share), int(height * share)), Image.Resampling.BOX
    )
    return np.asarray(small.resize((width, height), Image.Resampling.BOX)) / 255.0


def _jpeg_compression(image, random, quality):
    file = BytesIO()
    Image.fromarray(to_8_bits(image)).save(file, "JPEG", quality=quality)
    return np.asarray(Image.open(file)) / 255.0


class _Corruption(NamedTuple):
    """`effect(image, random, parameters)`, and the parameters of each severity for small and large images."""

    effect: Callable[[np.ndarray, np.random.Generator, Any], np.ndarray]
    small: tuple[Any, ...]
    large: tuple[Any, ...]


_SIC = 244 / 224  # elastic lengths for images of 224 pixels were published as shares of 244

_CORRUPTIONS = {
    "gaussian_noise": _Corruption(
        _gaussian_noise, (0.04, 0.06, 0.08, 0.09, 0.10), (0.08, 0.12, 0.18, 0.26, 0.38)
    ),  # standard deviation
    "shot_noise": _Corruption(_shot_noise, (500, 250, 100, 75, 50), (60, 25, 12, 5, 3)),  # photons of white
    "impulse_noise": _Corruption(
        _impulse_noise, (0.01, 0.02, 0.03, 0.05, 0.07), (0.03, 0.06, 0.09, 0.17, 0.27)
    ),  # share of values
    "defocus_blur": _Corruption(  # radius, sigma of its rim
        _defocus_blur,
        ((0.3, 0.4), (0.4, 0.5), (0.5, 0.6), (1, 0.2), (1.5, 0.1)),
        ((3, 0.1), (4, 0.5), (6, 0.5), (8, 0.5), (10, 0.5)),
    ),
    "glass_blur": _Corruption(  # sigma, reach, rounds
        _glass_blur,
        ((0.05, 1, 1), (0.25, 1, 1), (0.4, 1, 1), (0.25, 1, 2), (0.4, 1, 2)),
        ((0.7, 1, 2), (0.9, 2, 1), (1, 2, 3), (1.1, 3, 2), (1.5, 4, 2)),
    ),
    "motion_blur": _Corruption(  # radius, sigma
        _motion_blur,
        ((6, 1), (6, 1.5), (6, 2), (8, 2), (9, 2.5)),
        ((10, 3), (15, 5), (15, 8), (15, 12), (20, 15)),
    ),
    "zoom_blur": _Corruption(  # factors from 1 to here, in steps of
        _zoom_blur,
        ((1.06, 0.01), (1.11, 0.01), (1.16, 0.01), (1.21, 0.01), (1.26, 0.01)),
        ((1.11, 0.01), (1.16, 0.01), (1.21, 0.02), (1.26, 0.02), (1.31, 0.03)),
    ),
    "snow": _Corruption(  # mean, deviation of noise; zoom; threshold; radius, sigma of motion; share kept
        _snow,
        (
            (0.1, 0.2, 1, 0.6, 8, 3, 0.95),
            (0.1, 0.2, 1, 0.5, 10, 4, 0.9),
            (0.15, 0.3, 1.75, 0.55, 10, 4, 0.9),
            (0.25, 0.3, 2.25, 0.6, 12, 6, 0.85),
            (0.3, 0.3, 1.25, 0.65, 14, 12, 0.8),
        ),
        (
            (0.1, 0.3, 3, 0.5, 10, 4, 0.8),
            (0.2, 0.3, 2, 0.5, 12, 4, 0.7),
            (0.55, 0.3, 4, 0.9, 12, 8, 0.7),
            (0.55, 0.3, 4.5, 0.85, 12, 8, 0.65),
            (0.55, 0.3, 2.5, 0.85, 12, 12, 0.55),
        ),
    ),
    "frost": _Corruption(  # weight of image, of frost
        _frost,
        ((1, 0.2), (1, 0.3), (0.9, 0.4), (0.85, 0.4), (0.75, 0.45)),
        ((1, 0.4), (0.8, 0.6), (0.7, 0.7), (0.65, 0.7), (0.6, 0.75)),
    ),
    "fog": _Corruption(  # thickness, decay
        _fog,
        ((0.2, 3), (0.5, 3), (0.75, 2.5), (1, 2), (1.5, 1.75)),
        ((1.5, 2), (2, 2), (2.5, 1.7), (2.5, 1.5), (3, 1.4)),
    ),
    "brightness": _Corruption(_brightness, (0.05, 0.1, 0.15, 0.2, 0.3), (0.1, 0.2, 0.3, 0.4, 0.5)),  # added
    "contrast": _Corruption(_contrast, (0.75, 0.5, 0.4, 0.3, 0.15), (0.4, 0.3, 0.2, 0.1, 0.05)),  # factor
    "elastic_transform": _Corruption(  # displacement, sigma of its field, jitter of corners; shares of a side
        _elastic_transform,
        ((0, 0, 0.08), (0.05, 0.2, 0.07), (0.08, 0.06, 0.06), (0.1, 0.04, 0.05), (0.1, 0.03, 0.03)),
        tuple(
            tuple(_SIC * share for share in shares)
            for shares in (
                (2, 0.7, 0.1),
                (2, 0.08, 0.2),
                (0.05, 0.01, 0.02),
                (0.07, 0.01, 0.02),
                (0.12, 0.01, 0.02),
            )
        ),
    ),
    "pixelate": _Corruption(
        _pixelate, (0.95, 0.9, 0.85, 0.75, 0.65), (0.6, 0.5, 0.4, 0.3, 0.25)
    ),  # of each side
    "jpeg_compression": _Corruption(_jpeg_compression, (80, 65, 58, 50, 40), (25, 18, 15, 10, 7)),  # quality
}
CORRUPTIONS: tuple[str, ...] = tuple(_CORRUPTIONS)
