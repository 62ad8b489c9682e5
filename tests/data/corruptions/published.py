"""The published Common Corruptions, written in OpenCV, scipy, PIL and matplotlib after their authors' code.

The parameters and formulas are those of `make_imagenet_64_c.py` and `make_imagenet_c.py` (Hendrycks &
Dietterich, arXiv 1903.12261). Sides of other lengths follow the package `imagecorruptions`: the fog's map and
the frost's photographs grow with the image. An effect is `(image, parameters, random)`, from uint8 `[S,S,3]`
to floats from 0 to 255. The results are not compressed by JPEG at the end.
"""

from collections.abc import Callable
from io import BytesIO
from pathlib import Path
from typing import Any

import cv2
import numpy as np
from matplotlib.colors import hsv_to_rgb, rgb_to_hsv
from PIL import Image
from scipy import ndimage

FROST_FILES = ("frost1.png", "frost2.png", "frost3.png", "frost4.jpg", "frost5.jpg")  # those that are drawn
FROST = (  # weights of the image and of the photograph, for images of 64 pixels and for larger ones
    ((1, 0.3), (0.9, 0.4), (0.8, 0.45), (0.75, 0.5), (0.7, 0.55)),
    ((1, 0.4), (0.8, 0.6), (0.7, 0.7), (0.65, 0.7), (0.6, 0.75)),
)
FROST_SCALES = {64: 0.3, 224: 1.0}
ELASTIC_SIDES = {64: 64, 224: 244}  # the published lengths are shares of these


Corrupt = Callable[[np.ndarray, int, np.random.Generator], np.ndarray]  # (image, severity, random)


def corrupt(name: str, image: np.ndarray, severity: int, random: np.random.Generator) -> np.ndarray:
    """Return a uint8 image `[S,S,3]` under a corruption of `EFFECTS`, with S's published parameters."""
    effect, *tables = EFFECTS[name]
    corrupted = effect(image, tables[len(image) > 64][severity - 1], random)
    return np.uint8(np.clip(corrupted, 0, 255))


def frost(folder: Path) -> Corrupt:
    """Return the corruption `frost` with the published photographs in a folder."""
    photographs = [cv2.imread(str(folder / name))[..., ::-1] for name in FROST_FILES]

    def corrupted(image, severity, random):
        keep, share = FROST[len(image) > 64][severity - 1]
        side, photograph = len(image), photographs[random.integers(len(photographs))]
        scale = FROST_SCALES.get(side) or 1.1 * max(1, side / min(photograph.shape[:2]))
        photograph = cv2.resize(photograph, None, fx=scale, fy=scale)
        row, column = (random.integers(0, length - side) for length in photograph.shape[:2])
        crop = photograph[row : row + side, column : column + side]
        return np.uint8(np.minimum(keep * image + share * crop, 255))

    return corrupted


def gaussian_noise(image, scale, random):
    return 255 * (image / 255 + random.normal(0, scale, image.shape))


def shot_noise(image, photons, random):
    return 255 * np.minimum(random.poisson(image / 255 * photons) / photons, 1)


def impulse_noise(image, share, random):
    noisy = image.copy()
    flipped = np.flatnonzero(random.random(image.size) <= share)
    noisy.flat[flipped] = 255 * random.integers(0, 2, len(flipped))
    return noisy


def defocus_blur(image, parameters, random):
    radius, softness = parameters
    reach, taps = (8, 3) if radius <= 8 else (radius, 5)
    across, down = np.meshgrid(*2 * [np.arange(-reach, reach + 1)])
    disc = np.float32(across**2 + down**2 <= radius**2)
    kernel = cv2.GaussianBlur(disc / disc.sum(), (taps, taps), softness)
    return 255 * cv2.filter2D(image / 255, -1, kernel)


def smooth(image, sigma):
    return ndimage.gaussian_filter(image / 255, (sigma, sigma, 0), mode="nearest") * 255


def glass_blur(image, parameters, random):
    sigma, reach, rounds = parameters
    shuffled = np.uint8(smooth(image, sigma) + 1e-6)
    places = range(len(image) - reach, reach, -1)
    for _ in range(rounds):
        for row in places:
            for column in places:
                right, down = random.integers(-reach, reach, 2)
                # the authors mean to swap, but the second assignment reads what the first one wrote
                shuffled[row, column] = shuffled[row + down, column + right]
    return smooth(shuffled, sigma)


def motion_blur(image, parameters, random):
    return smear(image, *parameters, random.uniform(-45, 45))


def smear(image, radius, sigma, degrees):
    """Return an image or a map of 8-bit levels after ImageMagick's MotionBlurImage."""
    weights = np.exp(-(np.arange(2 * radius + 1.0) ** 2) / (2 * sigma**2))
    kernel = np.zeros((4 * radius + 1, 4 * radius + 1))
    for step, weight in enumerate(weights / weights.sum()):
        column, row = (np.ceil(step * f(np.radians(degrees)) - 0.5) for f in (np.cos, np.sin))
        kernel[2 * radius + int(row), 2 * radius + int(column)] += weight
    return np.round(cv2.filter2D(np.float64(image), -1, kernel, borderType=cv2.BORDER_REPLICATE))


def zoom_blur(image, parameters, random):
    factors = np.arange(1, *parameters)
    return (image + sum(enlarge(np.float32(image), factor) for factor in factors)) / (len(factors) + 1)


def enlarge(image, factor):
    """Return the centre of an image `[S,S,C]`, enlarged to its size."""
    side = len(image)
    kept = int(np.ceil(side / factor))
    begin = (side - kept) // 2
    centre = image[begin : begin + kept, begin : begin + kept]
    zoomed = ndimage.zoom(centre, (factor, factor, 1), order=1)
    spare = (len(zoomed) - side) // 2
    return zoomed[spare : spare + side, spare : spare + side]


def snow(image, parameters, random):
    mean, deviation, zoom, threshold, radius, sigma, keep = parameters
    flakes = enlarge(random.normal(mean, deviation, (*image.shape[:2], 1)), zoom)[..., 0]
    flakes = np.uint8(255 * np.clip(np.where(flakes < threshold, 0, flakes), 0, 1))
    flakes = smear(flakes, radius, sigma, random.uniform(-135, -45))[..., None]
    light = cv2.cvtColor(np.float32(image) / 255, cv2.COLOR_RGB2GRAY)[..., None] * 1.5 + 0.5
    whitened = keep * image + (1 - keep) * np.maximum(image, 255 * light)
    return whitened + flakes + np.rot90(flakes, 2)


def fog(image, parameters, random):
    thickness, decay = parameters
    side = len(image)
    cloud = plasma(2 ** int(np.ceil(np.log2(side))), decay, random)[:side, :side, None]
    brightest = image.max() / 255
    return 255 * (image / 255 + thickness * cloud) * brightest / (brightest + thickness)


def plasma(side, decay, random):
    """Return a map `[side,side]` from 0 to 1 of the diamond-square algorithm on a torus."""
    heights, step, wibble = np.zeros((side, side)), side, 100.0

    def displaced(total):  # the authors multiply the noise by its own amplitude
        return total / 4 + wibble * random.uniform(-wibble, wibble, total.shape)

    while step >= 2:
        half = step // 2
        corners = heights[::step, ::step]
        rows = corners + np.roll(corners, -1, 0)
        heights[half::step, half::step] = displaced(rows + np.roll(rows, -1, 1))
        middles = heights[half::step, half::step]
        of_columns = corners + np.roll(corners, -1, 1) + middles + np.roll(middles, 1, 0)
        of_rows = corners + np.roll(corners, -1, 0) + middles + np.roll(middles, 1, 1)
        heights[::step, half::step] = displaced(of_columns)
        heights[half::step, ::step] = displaced(of_rows)
        step, wibble = half, wibble / decay
    return (heights - heights.min()) / (heights.max() - heights.min())


def brightness(image, increase, random):
    hsv = rgb_to_hsv(image / 255)
    hsv[..., 2] = np.minimum(hsv[..., 2] + increase, 1)
    return 255 * hsv_to_rgb(hsv) + 1e-6


def contrast(image, factor, random):
    mean = image.mean((0, 1))
    return (image - mean) * factor + mean


def elastic_transform(image, parameters, random):
    side = len(image)
    strength, sigma, jitter = np.multiply(ELASTIC_SIDES.get(side, side * 244 / 224), parameters)
    middle, reach = side // 2, side // 3
    corners = np.float32([(reach, reach), (reach, -reach), (-reach, -reach)]) + middle
    moved = corners + np.float32(random.uniform(-jitter, jitter, (3, 2)))
    warp = cv2.getAffineTransform(corners, moved)
    warped = cv2.warpAffine(np.float32(image), warp, (side, side), borderMode=cv2.BORDER_REFLECT_101)
    return displace(warped, random.uniform(-1, 1, (2, side, side)), strength, sigma)


def displace(image, noise, strength, sigma):
    """Return an image whose pixels are moved by a smooth field, made of noise `[2,S,S]`."""
    field = [strength * ndimage.gaussian_filter(part, sigma, mode="reflect", truncate=3) for part in noise]
    places = np.indices(image.shape[:2]) + field
    channels = [ndimage.map_coordinates(image[..., i], places, order=1, mode="reflect") for i in range(3)]
    return np.stack(channels, -1)


def packages_elastic_transform(image, severity, random):
    """Return the elastic transform of the package `imagecorruptions`, which has no affine part."""
    side = len(image)
    noise = random.uniform(-0.005 * side, 0.005 * side, (2, side, side))
    strength = 250 * (0.05, 0.065, 0.085, 0.1, 0.12)[severity - 1]
    return np.uint8(displace(np.float32(image), noise, strength, 0.01 * side))


def pixelate(image, share, random):
    side = len(image)
    small = Image.fromarray(image).resize(2 * (int(side * share),), Image.Resampling.BOX)
    return np.asarray(small.resize((side, side), Image.Resampling.BOX))


def jpeg_compression(image, quality, random):
    file = BytesIO()
    Image.fromarray(image).save(file, "JPEG", quality=quality)
    return np.asarray(Image.open(file))


# Each effect with its parameters by severity, for images of 64 pixels and for larger ones
EFFECTS: dict[str, tuple[Callable[..., np.ndarray], tuple[Any, ...], tuple[Any, ...]]] = {
    "gaussian_noise": (gaussian_noise, (0.04, 0.08, 0.12, 0.15, 0.18), (0.08, 0.12, 0.18, 0.26, 0.38)),
    "shot_noise": (shot_noise, (250, 100, 50, 30, 15), (60, 25, 12, 5, 3)),
    "impulse_noise": (impulse_noise, (0.01, 0.02, 0.05, 0.08, 0.14), (0.03, 0.06, 0.09, 0.17, 0.27)),
    "defocus_blur": (
        defocus_blur,
        ((0.5, 0.6), (1, 0.1), (1.5, 0.1), (2.5, 0.01), (3, 0.1)),
        ((3, 0.1), (4, 0.5), (6, 0.5), (8, 0.5), (10, 0.5)),
    ),
    "glass_blur": (
        glass_blur,
        ((0.1, 1, 1), (0.5, 1, 1), (0.6, 1, 2), (0.7, 2, 1), (0.9, 2, 2)),
        ((0.7, 1, 2), (0.9, 2, 1), (1, 2, 3), (1.1, 3, 2), (1.5, 4, 2)),
    ),
    "motion_blur": (
        motion_blur,
        ((10, 1), (10, 1.5), (10, 2), (10, 2.5), (12, 3)),
        ((10, 3), (15, 5), (15, 8), (15, 12), (20, 15)),
    ),
    "zoom_blur": (
        zoom_blur,
        ((1.06, 0.01), (1.11, 0.01), (1.16, 0.01), (1.21, 0.01), (1.26, 0.01)),
        ((1.11, 0.01), (1.16, 0.01), (1.21, 0.02), (1.26, 0.02), (1.31, 0.03)),
    ),
    "snow": (
        snow,
        (
            (0.1, 0.2, 1, 0.6, 8, 3, 0.8),
            (0.1, 0.2, 1, 0.5, 10, 4, 0.8),
            (0.15, 0.3, 1.75, 0.55, 10, 4, 0.7),
            (0.25, 0.3, 2.25, 0.6, 12, 6, 0.65),
            (0.3, 0.3, 1.25, 0.65, 14, 12, 0.6),
        ),
        (
            (0.1, 0.3, 3, 0.5, 10, 4, 0.8),
            (0.2, 0.3, 2, 0.5, 12, 4, 0.7),
            (0.55, 0.3, 4, 0.9, 12, 8, 0.7),
            (0.55, 0.3, 4.5, 0.85, 12, 8, 0.65),
            (0.55, 0.3, 2.5, 0.85, 12, 12, 0.55),
        ),
    ),
    "fog": (
        fog,
        ((0.4, 3), (0.7, 3), (1, 2.5), (1.5, 2), (2, 1.75)),
        ((1.5, 2), (2, 2), (2.5, 1.7), (2.5, 1.5), (3, 1.4)),
    ),
    "brightness": (brightness, (0.1, 0.2, 0.3, 0.4, 0.5), (0.1, 0.2, 0.3, 0.4, 0.5)),
    "contrast": (contrast, (0.4, 0.3, 0.2, 0.1, 0.05), (0.4, 0.3, 0.2, 0.1, 0.05)),
    "elastic_transform": (
        elastic_transform,
        ((0, 0, 0.08), (0.05, 0.3, 0.06), (0.1, 0.08, 0.06), (0.1, 0.03, 0.03), (0.16, 0.03, 0.02)),
        ((2, 0.7, 0.1), (2, 0.08, 0.2), (0.05, 0.01, 0.02), (0.07, 0.01, 0.02), (0.12, 0.01, 0.02)),
    ),
    "pixelate": (pixelate, (0.9, 0.8, 0.7, 0.6, 0.5), (0.6, 0.5, 0.4, 0.3, 0.25)),
    "jpeg_compression": (jpeg_compression, (65, 58, 50, 40, 25), (25, 18, 15, 10, 7)),
}
