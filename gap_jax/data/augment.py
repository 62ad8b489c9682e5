"""Established augmentations as baselines: RandAugment, AugMix, CutMix, pasted foregrounds, balanced groups.

Images are float32 `[H,W,3]` in [0,1], before and after; others raise ValueError. Random numbers come from the
given generator, or from (seed, index) alone. A function of images is used in a transform such as
`lambda example, random: {**example, "image": rand_augment(example["image"], random)}`.
"""

from collections.abc import Callable
from typing import Any, NamedTuple

import cv2
import numpy as np
from PIL import Image, ImageEnhance, ImageOps

from gap_jax.data.batch import Example, Transform
from gap_jax.data.loader import Source

MAX_MAGNITUDE = 30  # of RandAugment
MAX_SEVERITY = 10  # of AugMix

_RESAMPLING: dict[str, Any] = {"resample": Image.Resampling.BILINEAR, "fillcolor": (128,) * 3}
_INPAINTING_RADIUS = 3.0  # pixels


class Operation(NamedTuple):
    """A change of an 8-bit image, `change(picture, value)`.

    The value is from `weakest` to `strongest`; if `signed`, it is negated with probability 1/2.
    """

    change: Callable[[Image.Image, float], Image.Image]
    weakest: float = 0.0
    strongest: float = 0.0
    signed: bool = False

    def __call__(self, picture: Image.Image, strength: float, random: np.random.Generator) -> Image.Image:
        """Change a picture; `strength` in [0,1] goes from the weakest value to the strongest."""
        value = self.weakest + strength * (self.strongest - self.weakest)
        return self.change(picture, -value if self.signed and random.random() < 0.5 else value)


def _affine(picture: Image.Image, *matrix: float) -> Image.Image:
    return picture.transform(picture.size, Image.Transform.AFFINE, matrix, **_RESAMPLING)


def _enhancement(enhancer: Callable[[Image.Image], Any]) -> Operation:
    return Operation(lambda p, change: enhancer(p).enhance(1 + change), 0, 0.9, True)


RAND_AUGMENT = {  # values in degrees, levels, lost bits, slopes and shares of a side
    "Identity": Operation(lambda p, _: p),
    "AutoContrast": Operation(lambda p, _: ImageOps.autocontrast(p)),
    "Equalize": Operation(lambda p, _: ImageOps.equalize(p)),
    "Rotate": Operation(lambda p, degrees: p.rotate(degrees, **_RESAMPLING), 0, 30, True),
    "Solarize": Operation(lambda p, levels: ImageOps.solarize(p, 256 - int(levels)), 0, 256),
    "Posterize": Operation(
        lambda p, bits: ImageOps.posterize(p, 8 - int(bits)), 0.5, 4.5
    ),  # truncated: 0 to 4
    "ShearX": Operation(lambda p, slope: _affine(p, 1, slope, 0, 0, 1, 0), 0, 0.3, True),
    "ShearY": Operation(lambda p, slope: _affine(p, 1, 0, 0, slope, 1, 0), 0, 0.3, True),
    "TranslateX": Operation(lambda p, x: _affine(p, 1, 0, int(x * p.width), 0, 1, 0), 0, 150 / 331, True),
    "TranslateY": Operation(lambda p, y: _affine(p, 1, 0, 0, 0, 1, int(y * p.height)), 0, 150 / 331, True),
    "Brightness": _enhancement(ImageEnhance.Brightness),
    "Color": _enhancement(ImageEnhance.Color),
    "Contrast": _enhancement(ImageEnhance.Contrast),
    "Sharpness": _enhancement(ImageEnhance.Sharpness),
}
AUG_MIX = {
    **{n: RAND_AUGMENT[n] for n in ("AutoContrast", "Equalize", "Rotate", "Solarize", "ShearX", "ShearY")},
    **{n: RAND_AUGMENT[n]._replace(strongest=1 / 3) for n in ("TranslateX", "TranslateY")},
    "Posterize": RAND_AUGMENT["Posterize"]._replace(weakest=4, strongest=8),
}


def rand_augment(
    image: np.ndarray, random: np.random.Generator, operations: int = 2, magnitude: float = 9
) -> np.ndarray:
    """Apply random operations of `RAND_AUGMENT` one after the other (RandAugment, arXiv 1909.13719).

    `magnitude` is in 0..30, with torchvision's ranges, except that solarising begins above white, so that 0
    changes nothing. Operations work on 8 bits, to which images are rounded, and interpolate bilinearly;
    pixels from outside the image are grey, 128/255. Raises ValueError for other images and magnitudes, and
    for a negative number of operations.
    """
    if not (0 <= magnitude <= MAX_MAGNITUDE and operations >= 0):
        raise ValueError(
            f"magnitude must be in 0..{MAX_MAGNITUDE} and operations 0 or more, found magnitude {magnitude}, "
            f"operations {operations}"
        )
    picture = _picture(image)
    for name in random.choice(list(RAND_AUGMENT), operations):
        picture = RAND_AUGMENT[name](picture, magnitude / MAX_MAGNITUDE, random)
    return _floats(picture)


def aug_mix(
    image: np.ndarray,
    random: np.random.Generator,
    severity: float = 3,
    width: int = 3,
    depth: int = -1,
    alpha: float = 1.0,
) -> np.ndarray:
    """Mix an image with a mixture of augmented versions of it (AugMix, arXiv 1912.02781, algorithm 1).

    Each of the `width` versions is made by a chain of `depth` operations (1 to 3 if it is -1) of `AUG_MIX`,
    which has none of the Common Corruptions. The strength of an operation is uniform from 0.1 to `severity`
    (1 to 10) tenths. The weights of the versions come from a Dirichlet distribution, their total share in the
    result from a Beta distribution, both with parameter `alpha`.

    Operations work as in `rand_augment`, while the authors' fill with black and rotate by whole degrees;
    their consistency loss is not included. Raises ValueError for other images and settings.
    """
    if not (1 <= severity <= MAX_SEVERITY and width >= 1 and (depth >= 1 or depth == -1) and alpha > 0):
        raise ValueError(
            f"severity must be in 1..{MAX_SEVERITY}, width 1 or more, depth -1 or 1 or more, and alpha above "
            f"0, found severity {severity}, width {width}, depth {depth}, alpha {alpha}"
        )
    picture, mixture = _picture(image), np.zeros_like(image)
    for weight in random.dirichlet([alpha] * width):
        chain = picture
        for name in random.choice(list(AUG_MIX), random.integers(1, 4) if depth == -1 else depth):
            chain = AUG_MIX[name](chain, random.uniform(0.1, severity) / MAX_SEVERITY, random)
        mixture += np.float32(weight) * _floats(chain)
    share = np.float32(random.beta(alpha, alpha))
    return np.clip((1 - share) * image + share * mixture, 0, 1)


def cut_mix(source: Source, alpha: float = 1.0) -> Transform:
    """Return a transform that mixes an example with a random one of `source` (CutMix, arXiv 1905.04899).

    By equations 1 and 2, the result has `image`, in which a random box comes from the other image; `label`
    and the other's `label_b`; and `lam`, float32, the share of pixels outside the box. Its loss is lam
    times the loss of `label` plus 1 - lam times that of `label_b`. `lam` is drawn from Beta(alpha, alpha),
    and is larger if the box reaches over an edge.

    Raises ValueError for `alpha` not above 0 and an empty source; the transform raises it for images of
    another form or of different sizes.
    """
    if not (alpha > 0 and len(source)):
        raise ValueError(
            f"CutMix needs alpha above 0 and at least one example, found alpha {alpha} and {len(source)} "
            "examples"
        )

    def transform(example: Example, random: np.random.Generator) -> dict[str, Any]:
        other = source[int(random.integers(len(source)))]
        _check_alike(example["image"], other["image"])
        image = example["image"].copy()
        side = np.sqrt(1 - random.beta(alpha, alpha))
        box = tuple(
            _clipped_interval(int(random.integers(length)), int(side * length)) for length in image.shape[:2]
        )
        image[box] = other["image"][box]
        lam = np.float32(1 - image[box].size / image.size)
        return {"image": image, "label": example["label"], "label_b": other["label"], "lam": lam}

    return transform


class Balanced:
    """Examples repeated so that all values of the integer `field` are equally frequent; a `Source`.

    This is group-balanced sampling (RWG of Idrissi et al., arXiv 2110.14503), exact in each epoch: every
    value has as many examples as the most frequent one. All of `source` is read once. Raises ValueError for
    an empty source, and for examples in which the field is missing or not an integer.
    """

    def __init__(self, source: Source, field: str = "group"):
        if not len(source):
            raise ValueError("the data set has no examples: check its folder and its split")
        values = np.array([_integer(source[index], field, index) for index in range(len(source))])
        largest = np.unique_counts(values).counts.max()
        indices = [np.resize(np.flatnonzero(values == value), largest) for value in np.unique(values)]
        self._source, self._indices = source, np.stack(indices, 1).ravel().tolist()

    def __len__(self) -> int:
        return len(self._indices)

    def __getitem__(self, index: int) -> Example:
        return self._source[self._indices[index]]


class CopyPaste:
    """Each example's foreground pasted on the background of another one; a `Source`.

    Examples have `image`, `label` and `keep`, bool `[H,W,1]`, True on the foreground. The results have the
    same fields; label and mask are the foreground's. Other fields, such as the group, are unknown and
    dropped. The other example is drawn from (seed, index), and its own foreground is removed by
    `remove_foreground`. An example without foreground becomes the other background alone. This follows
    Ghiasi et al., arXiv 2012.07177, but foregrounds keep their place and scale.

    Raises ValueError for fewer than two examples, and on reading for images and masks of another form or of
    different sizes.
    """

    def __init__(self, source: Source, seed: int = 0):
        if len(source) < 2:
            raise ValueError(f"copy and paste needs two examples or more, found {len(source)}")
        self._source, self._seed = source, seed

    def __len__(self) -> int:
        return len(self._source)

    def __getitem__(self, index: int) -> Example:
        example = self._source[index]
        random = np.random.Generator(np.random.Philox(key=[self._seed, index]))
        other = self._source[int(index + random.integers(1, len(self))) % len(self)]
        _check_alike(example["image"], other["image"])
        _check_keep(example["keep"], example["image"])
        background = remove_foreground(other["image"], other["keep"])
        image = np.where(example["keep"], example["image"], background)
        return {"image": image, "keep": example["keep"], "label": example["label"]}


def remove_foreground(image: np.ndarray, keep: np.ndarray) -> np.ndarray:
    """Inpaint the pixels where `keep`, bool `[H,W,1]`, is True, and a rim around them; no others change.

    The rim is 1/64 of the shorter side wide, and at least 2 pixels. Pixels are filled from their surroundings
    by Telea's method (2004), or with grey if none are left. Raises ValueError for other images and masks.
    """
    rim = max(2, round(min(image.shape[:2]) / 64))
    picture = np.array(_picture(image))
    _check_keep(keep, image)
    disc = cv2.getStructuringElement(cv2.MORPH_ELLIPSE, (2 * rim + 1,) * 2)
    hole = cv2.dilate(keep[..., 0].astype(np.uint8), disc) > 0
    if hole.all():
        return np.full_like(image, 0.5)
    picture[hole] = picture[~hole].mean(0)  # or traces remain where the hole reaches the image's edge
    painted = cv2.inpaint(picture, hole.astype(np.uint8), _INPAINTING_RADIUS, cv2.INPAINT_TELEA)
    return np.where(hole[..., None], painted / np.float32(255), image)


def _clipped_interval(middle: int, length: int) -> slice:
    start = middle - length // 2
    return slice(max(start, 0), start + length)


def _integer(example: Example, field: str, index: int) -> int:
    value: Any = example.get(field)
    if np.ndim(value) or not isinstance(np.asarray(value)[()], np.integer):
        raise ValueError(
            f"example {index} must have an integer {field!r}, found {value!r}; its fields are {list(example)}"
        )
    return int(value)


def _check(image: np.ndarray) -> None:
    if image.dtype != np.float32 or image.ndim != 3 or image.shape[-1] != 3 or not image.size:
        raise ValueError(f"images must be float32 [H, W, 3], found {image.dtype} {list(image.shape)}")
    if not (image.min() >= 0 and image.max() <= 1):
        raise ValueError(f"images must be in [0, 1], found {image.min():g} to {image.max():g}")


def _check_alike(image: np.ndarray, other: np.ndarray) -> None:
    _check(image)
    _check(other)
    if image.shape != other.shape:
        raise ValueError(f"images must have equal sizes, found {list(image.shape)} and {list(other.shape)}")


def _check_keep(keep: np.ndarray, image: np.ndarray) -> None:
    expected = (*image.shape[:2], 1)
    if keep.dtype != bool or keep.shape != expected:
        raise ValueError(f"keep must be bool {list(expected)}, found {keep.dtype} {list(keep.shape)}")


def _picture(image: np.ndarray) -> Image.Image:
    _check(image)
    return Image.fromarray(np.round(image * 255).astype(np.uint8))


def _floats(picture: Image.Image) -> np.ndarray:
    return np.asarray(picture) / np.float32(255)
