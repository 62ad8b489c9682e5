"""Common Corruptions: fifteen kinds of damage to photographs, each in five severities.

Hendrycks & Dietterich, arXiv 1903.12261, with the parameters of the published images. The shorter side
chooses between them: CIFAR-10-C's up to 32 pixels, ImageNet-64x64-C's up to 64, and ImageNet-C's above. Most
lengths are pixels, whatever the image's size. These lengths follow the image's size, as in the package
`imagecorruptions`:

- fog: its map has the power of two next above the longer side;
- frost, zoom and pixelation: shares of the image;
- elastic transform: shares of the shorter side (published: of 244 for images of 224, of 32 for those of 32,
  and of 64 for those of 64).

Unlike in that package, the parameters and the affine part of the elastic transform stay the published ones.

As published, images are rounded to 8 bits first, results are truncated to 8 bits, glass blur copies pixels to
their neighbours where swapping was meant, and motion blur is ImageMagick's, along half a Gaussian.

Three things differ from the published images: frost is a texture drawn here, as bright as the published
photographs, instead of one of these; images are not compressed by JPEG of quality 85 at the end; the affine
part of the elastic transform interpolates in floats.

A higher severity has a larger squared error on average, but not always for glass blur and elastic transform,
nor from 3 to 4 for frost and for the fog of large images.
"""

from bisect import bisect_left
from collections.abc import Callable, Sequence
from functools import lru_cache
from io import BytesIO
from typing import Any, NamedTuple

import numpy as np
from PIL import Image, ImageDraw
from scipy import ndimage, signal, sparse

from gap_jax.data.corruptions.apply import check_request, corrupt_each, to_8_bits

# Shorter sides, in pixels, up to which the parameters of CIFAR-10-C and of ImageNet-64x64-C are used
LARGEST_SIDES = (32, 64)

_LUMA = np.array((0.299, 0.587, 0.114))
_ICE_COLOUR = np.array((0.88, 0.95, 1.0))
_FROST_STEMS = 12
_FILM = (0.44, 0.76)  # mean opacity of the thinnest and the thickest film of ice


def corrupt(
    images: np.ndarray, name: str, severity: int, *, ids: Sequence[int] | np.ndarray, seed: int = 0
) -> np.ndarray:
    """Corrupt images by `name` (one of `CORRUPTIONS`) with `severity` (1 to 5).

    `images` are float32 `[B,H,W,3]` in [0,1] with sides of 16 pixels or more; the result has the same form,
    with whole multiples of 1/255. `ids` are B integers from 0: random numbers depend only on (seed, id, name,
    severity), not on the batch. Raises ValueError for an unknown name or severity and for other arrays.
    """
    check_request(images, name, severity, ids, seed, CORRUPTIONS)
    effect, *tables = _CORRUPTIONS[name]
    parameters = tables[bisect_left(LARGEST_SIDES, min(images.shape[1:3]))][severity - 1]
    return corrupt_each(
        lambda image, random, _: effect(image, random, parameters), images, name, severity, ids, seed
    )


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
    """Return a disc of `radius` pixels, softened by a Gaussian of 3 taps, or 5 above a radius of 8.

    As published, the Gaussian is reflected at the array's sides. Discs of radius 8 and 10, which touch them,
    therefore sum to 1.01.
    """
    offsets = np.arange(-max(8, radius), max(8, radius) + 1)
    disc = (offsets[:, None] ** 2 + offsets**2 <= radius**2).astype(float)
    taps = 1 if radius <= 8 else 2
    return ndimage.gaussian_filter(disc / disc.sum(), softness, radius=taps, mode="mirror")


def _glass_blur(image, random, parameters):
    sigma, reach, rounds = parameters
    height, width, _ = image.shape
    blurred = to_8_bits(_blur(image, sigma)) / 255.0
    rows, columns = (np.arange(side - reach, reach, -1) for side in (height, width))
    targets = (rows[:, None] * width + columns).ravel()
    pixels = list(range(height * width))
    for _ in range(rounds):
        down, across = random.integers(-reach, reach, (2, len(targets)))
        for target, source in zip(targets.tolist(), (targets + down * width + across).tolist(), strict=True):
            pixels[target] = pixels[source]
    return _blur(blurred.reshape(-1, 3)[pixels].reshape(image.shape), sigma)


def _blur(image, sigma):
    return ndimage.gaussian_filter(image, (sigma, sigma, 0), mode="nearest")


def _motion_blur(image, random, parameters):
    radius, sigma = parameters
    return _smear(image, radius, sigma, random.uniform(-45, 45))


def _smear(image, radius, sigma, degrees):
    """Average along a line from each pixel with the weights of half a Gaussian (MotionBlurImage)."""
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
    """Enlarge the centre of an image `[H,W,C]` to the image's size by linear interpolation."""
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
    snow = _smear(flakes, radius, sigma, random.uniform(-135, -45))
    whitened = np.maximum(image, (image * _LUMA).sum(-1, keepdims=True) * 1.5 + 0.5)
    return keep * image + (1 - keep) * whitened + snow + snow[::-1, ::-1]


def _frost(image, random, parameters):
    keep, share = parameters
    return keep * image + share * _frost_texture(image.shape[0], image.shape[1], random)


def _frost_texture(height, width, random):
    """Draw ice flowers `[H,W,3]` in [0,1]: stems with two orders of branches at 60°, over a thin film."""
    side, fine = min(height, width), 3  # drawn 3 times as large, then reduced
    start = random.uniform(0, 1, (_FROST_STEMS, 2)) * (width, height)
    angle, length = random.uniform(0, 2 * np.pi, _FROST_STEMS), random.uniform(0.4, 1.0, _FROST_STEMS) * side
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
    film = np.clip(random.uniform(*_FILM) + 0.12 * film / film.std(), 0, 1)
    return (film + (1 - film) * crystals)[..., None] * _ICE_COLOUR


def _fog(image, random, parameters):
    thickness, decay = parameters
    size = 1 << (max(image.shape[:2]) - 1).bit_length()
    fog = _plasma(size, decay, random)[: image.shape[0], : image.shape[1], None]
    brightest = image.max()
    return (image + thickness * fog) * brightest / (brightest + thickness)


def _plasma(size, decay, random):
    """Return clouds `[size,size]` in [0,1]: diamond-square on a torus, noise / decay² at each halving."""
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


def _brightness(image, random, increase):
    """Increase HSV's value at the same hue and saturation, which multiplies all channels by one factor."""
    value = image.max(-1, keepdims=True)
    return np.where(value > 0, image / np.maximum(value, 1e-9), 1) * np.minimum(value + increase, 1)


def _contrast(image, random, factor):
    mean = image.mean((0, 1))
    return (image - mean) * factor + mean


def _elastic_transform(image, random, parameters):
    sides = np.array(image.shape[:2])
    strength, sigma, jitter = min(sides) * np.array(parameters)
    corners = sides // 2 + min(sides) // 3 * np.array([(1, 1), (1, -1), (-1, -1)])
    moved = corners + random.uniform(-jitter, jitter, corners.shape)
    # the affine map [2,3] from a pixel to where it comes from
    inverse = np.linalg.solve(np.column_stack([moved, np.ones(3)]), corners).T
    grid = np.indices(image.shape[:2])
    image = _sample(image, np.tensordot(inverse[:, :2], grid, 1) + inverse[:, 2, None, None], "mirror")
    noise = random.uniform(-1, 1, grid.shape)
    field = ndimage.gaussian_filter(noise, (0, sigma, sigma), mode="reflect", truncate=3)
    return _sample(image, grid + strength * field, "reflect")


def _sample(image, coordinates, mode):
    channels = [
        ndimage.map_coordinates(channel, coordinates, order=1, mode=mode)
        for channel in np.moveaxis(image, -1, 0)
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
    """A corruption, `effect(image, random, parameters)`, with its published parameters by severity."""

    effect: Callable[[np.ndarray, np.random.Generator, Any], np.ndarray]
    cifar: tuple[Any, ...]
    imagenet_64: tuple[Any, ...]
    imagenet: tuple[Any, ...]


_SMALL_ZOOMS = tuple((end, 0.01) for end in (1.06, 1.11, 1.16, 1.21, 1.26))


def _small_flakes(*kept: float) -> tuple[tuple[float, ...], ...]:
    """Return the parameters of snow on small images, which differ in the share that is kept."""
    flakes = (
        (0.1, 0.2, 1, 0.6, 8, 3),
        (0.1, 0.2, 1, 0.5, 10, 4),
        (0.15, 0.3, 1.75, 0.55, 10, 4),
        (0.25, 0.3, 2.25, 0.6, 12, 6),
        (0.3, 0.3, 1.25, 0.65, 14, 12),
    )
    return tuple((*flake, share) for flake, share in zip(flakes, kept, strict=True))


_ELASTIC_SCALE = 244 / 224  # the published lengths for images of 224 pixels are shares of 244

_CORRUPTIONS = {
    "gaussian_noise": _Corruption(  # standard deviation
        _gaussian_noise,
        (0.04, 0.06, 0.08, 0.09, 0.10),
        (0.04, 0.08, 0.12, 0.15, 0.18),
        (0.08, 0.12, 0.18, 0.26, 0.38),
    ),
    "shot_noise": _Corruption(  # photons of a white pixel
        _shot_noise, (500, 250, 100, 75, 50), (250, 100, 50, 30, 15), (60, 25, 12, 5, 3)
    ),
    "impulse_noise": _Corruption(  # share of the values
        _impulse_noise,
        (0.01, 0.02, 0.03, 0.05, 0.07),
        (0.01, 0.02, 0.05, 0.08, 0.14),
        (0.03, 0.06, 0.09, 0.17, 0.27),
    ),
    "defocus_blur": _Corruption(  # radius; sigma of the Gaussian that softens it
        _defocus_blur,
        ((0.3, 0.4), (0.4, 0.5), (0.5, 0.6), (1, 0.2), (1.5, 0.1)),
        ((0.5, 0.6), (1, 0.1), (1.5, 0.1), (2.5, 0.01), (3, 0.1)),
        ((3, 0.1), (4, 0.5), (6, 0.5), (8, 0.5), (10, 0.5)),
    ),
    "glass_blur": _Corruption(  # sigma, reach, rounds
        _glass_blur,
        ((0.05, 1, 1), (0.25, 1, 1), (0.4, 1, 1), (0.25, 1, 2), (0.4, 1, 2)),
        ((0.1, 1, 1), (0.5, 1, 1), (0.6, 1, 2), (0.7, 2, 1), (0.9, 2, 2)),
        ((0.7, 1, 2), (0.9, 2, 1), (1, 2, 3), (1.1, 3, 2), (1.5, 4, 2)),
    ),
    "motion_blur": _Corruption(  # radius, sigma
        _motion_blur,
        ((6, 1), (6, 1.5), (6, 2), (8, 2), (9, 2.5)),
        ((10, 1), (10, 1.5), (10, 2), (10, 2.5), (12, 3)),
        ((10, 3), (15, 5), (15, 8), (15, 12), (20, 15)),
    ),
    "zoom_blur": _Corruption(  # end and step of the zoom factors, which begin at 1
        _zoom_blur,
        _SMALL_ZOOMS,
        _SMALL_ZOOMS,
        ((1.11, 0.01), (1.16, 0.01), (1.21, 0.02), (1.26, 0.02), (1.31, 0.03)),
    ),
    "snow": _Corruption(  # noise mean and deviation; zoom; threshold; motion radius and sigma; share kept
        _snow,
        _small_flakes(0.95, 0.9, 0.9, 0.85, 0.8),
        _small_flakes(0.8, 0.8, 0.7, 0.65, 0.6),
        (
            (0.1, 0.3, 3, 0.5, 10, 4, 0.8),
            (0.2, 0.3, 2, 0.5, 12, 4, 0.7),
            (0.55, 0.3, 4, 0.9, 12, 8, 0.7),
            (0.55, 0.3, 4.5, 0.85, 12, 8, 0.65),
            (0.55, 0.3, 2.5, 0.85, 12, 12, 0.55),
        ),
    ),
    "frost": _Corruption(  # weights of the image and of the frost
        _frost,
        ((1, 0.2), (1, 0.3), (0.9, 0.4), (0.85, 0.4), (0.75, 0.45)),
        ((1, 0.3), (0.9, 0.4), (0.8, 0.45), (0.75, 0.5), (0.7, 0.55)),
        ((1, 0.4), (0.8, 0.6), (0.7, 0.7), (0.65, 0.7), (0.6, 0.75)),
    ),
    "fog": _Corruption(  # thickness, decay
        _fog,
        ((0.2, 3), (0.5, 3), (0.75, 2.5), (1, 2), (1.5, 1.75)),
        ((0.4, 3), (0.7, 3), (1, 2.5), (1.5, 2), (2, 1.75)),
        ((1.5, 2), (2, 2), (2.5, 1.7), (2.5, 1.5), (3, 1.4)),
    ),
    "brightness": _Corruption(  # added to HSV's value
        _brightness, (0.05, 0.1, 0.15, 0.2, 0.3), (0.1, 0.2, 0.3, 0.4, 0.5), (0.1, 0.2, 0.3, 0.4, 0.5)
    ),
    "contrast": _Corruption(  # factor
        _contrast, (0.75, 0.5, 0.4, 0.3, 0.15), (0.4, 0.3, 0.2, 0.1, 0.05), (0.4, 0.3, 0.2, 0.1, 0.05)
    ),
    "elastic_transform": _Corruption(  # displacement, its smoothness, jitter of corners; as shares
        _elastic_transform,
        ((0, 0, 0.08), (0.05, 0.2, 0.07), (0.08, 0.06, 0.06), (0.1, 0.04, 0.05), (0.1, 0.03, 0.03)),
        ((0, 0, 0.08), (0.05, 0.3, 0.06), (0.1, 0.08, 0.06), (0.1, 0.03, 0.03), (0.16, 0.03, 0.02)),
        tuple(
            tuple(_ELASTIC_SCALE * share for share in shares)
            for shares in (
                (2, 0.7, 0.1),
                (2, 0.08, 0.2),
                (0.05, 0.01, 0.02),
                (0.07, 0.01, 0.02),
                (0.12, 0.01, 0.02),
            )
        ),
    ),
    "pixelate": _Corruption(  # share of each side
        _pixelate, (0.95, 0.9, 0.85, 0.75, 0.65), (0.9, 0.8, 0.7, 0.6, 0.5), (0.6, 0.5, 0.4, 0.3, 0.25)
    ),
    "jpeg_compression": _Corruption(  # quality
        _jpeg_compression, (80, 65, 58, 50, 40), (65, 58, 50, 40, 25), (25, 18, 15, 10, 7)
    ),
}
CORRUPTIONS: tuple[str, ...] = tuple(_CORRUPTIONS)
