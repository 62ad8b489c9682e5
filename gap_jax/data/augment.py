"""The usual augmentations to compare with: RandAugment, AugMix, CutMix, pasted foregrounds, balanced groups.

An image is float32 `[H,W,3]` in [0,1], and so is what is made of it; ValueError for any other. What is random
comes from the generator that is given, or from (seed, index). Functions of images go into a transform such as
`lambda example, random: {**example, "image": rand_augment(example["image"], random)}`.
"""

from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

import cv2
import numpy as np
from PIL import Image, ImageEnhance, ImageOps

from gap_jax.data.loader import Example, Source

Loss = Callable[[Any, Mapping[str, Any]], Any]
MAGNITUDES = 30  # the greatest of RandAugment's
SEVERITIES = 10  # the greatest of AugMix's

_LOOK = {"resample": Image.Resampling.BILINEAR, "fillcolor": (128,) * 3}
_RADIUS = 3.0  # pixels from which one is painted over


class Operation(NamedTuple):
    """A change of an 8-bit image by a value from `weakest` to `strongest`; `signed`: or minus that."""

    change: Callable[[Image.Image, float], Image.Image]
    weakest: float = 0.0
    strongest: float = 0.0
    signed: bool = False

    def __call__(self, picture: Image.Image, strength: float, random: np.random.Generator) -> Image.Image:
        """The picture changed by `strength` in [0,1], in a random direction if it has two."""
        value = self.weakest + strength * (self.strongest - self.weakest)
        return self.change(picture, -value if self.signed and random.random() < 0.5 else value)


def _affine(picture: Image.Image, *matrix: float) -> Image.Image:
    return picture.transform(picture.size, Image.Transform.AFFINE, matrix, **_LOOK)


def _enhanced(enhancer: Callable[[Image.Image], Any]) -> Operation:
    return Operation(lambda p, change: enhancer(p).enhance(1 + change), 0, 0.9, True)


RAND_AUGMENT = {  # by degrees, levels, bits that are lost, slopes, shares of a side
    "Identity": Operation(lambda p, _: p),
    "AutoContrast": Operation(lambda p, _: ImageOps.autocontrast(p)),
    "Equalize": Operation(lambda p, _: ImageOps.equalize(p)),
    "Rotate": Operation(lambda p, degrees: p.rotate(degrees, **_LOOK), 0, 30, True),
    "Solarize": Operation(lambda p, levels: ImageOps.solarize(p, 256 - int(levels)), 0, 256),
    "Posterize": Operation(lambda p, bits: ImageOps.posterize(p, 8 - int(bits)), 0.5, 4.5),  # 0 to 4, rounded
    "ShearX": Operation(lambda p, slope: _affine(p, 1, slope, 0, 0, 1, 0), 0, 0.3, True),
    "ShearY": Operation(lambda p, slope: _affine(p, 1, 0, 0, slope, 1, 0), 0, 0.3, True),
    "TranslateX": Operation(lambda p, x: _affine(p, 1, 0, int(x * p.width), 0, 1, 0), 0, 150 / 331, True),
    "TranslateY": Operation(lambda p, y: _affine(p, 1, 0, 0, 0, 1, int(y * p.height)), 0, 150 / 331, True),
    "Brightness": _enhanced(ImageEnhance.Brightness),
    "Color": _enhanced(ImageEnhance.Color),
    "Contrast": _enhanced(ImageEnhance.Contrast),
    "Sharpness": _enhanced(ImageEnhance.Sharpness),
}
AUG_MIX = {
    **{n: RAND_AUGMENT[n] for n in ("AutoContrast", "Equalize", "Rotate", "Solarize", "ShearX", "ShearY")},
    **{n: RAND_AUGMENT[n]._replace(strongest=1 / 3) for n in ("TranslateX", "TranslateY")},
    "Posterize": RAND_AUGMENT["Posterize"]._replace(weakest=4, strongest=8),
}


def rand_augment(
    image: np.ndarray, random: np.random.Generator, operations: int = 2, magnitude: float = 9
) -> np.ndarray:
    """RandAugment (Cubuk et al., arXiv 1909.13719): so many of `RAND_AUGMENT`, one after the other.

    `magnitude` in 0..30, with torchvision's ranges, but that solarising begins above white, so that 0 changes
    nothing. In 8 bits, to which images are rounded; bilinear; what comes into view is grey, 128/255. Raises
    ValueError for other images and magnitudes, and a negative number of operations.
    """
    if not (0 <= magnitude <= MAGNITUDES and operations >= 0):
        raise ValueError(
            f"magnitude must be in 0..{MAGNITUDES}, operations 0 or more, found {magnitude}, {operations}"
        )
    picture = _picture(image)
    for name in random.choice(list(RAND_AUGMENT), operations):
        picture = RAND_AUGMENT[name](picture, magnitude / MAGNITUDES, random)
    return _floats(picture)


def aug_mix(
    image: np.ndarray,
    random: np.random.Generator,
    severity: float = 3,
    width: int = 3,
    depth: int = -1,
    alpha: float = 1.0,
) -> np.ndarray:
    """AugMix (Hendrycks et al., arXiv 1912.02781, alg. 1): an image mixed with a mixture of changed ones.

    Each of `width` chains is `depth` (-1: 1 to 3) of `AUG_MIX`, which has nothing in common with Common
    Corruptions. Strengths are uniform from 0.1 to `severity` (1 to 10) of 10, the chains' weights Dirichlet,
    their share in the result Beta, of `alpha`. Operations are as in `rand_augment`, where the authors' fill
    with black and turn by whole degrees; their consistency loss is not here. Raises ValueError for images and
    settings unlike these.
    """
    if not (1 <= severity <= SEVERITIES and width >= 1 and (depth >= 1 or depth == -1) and alpha > 0):
        raise ValueError(
            f"severity must be in 1..{SEVERITIES}, width 1 or more, depth too or -1, alpha above 0, found "
            f"{severity}, {width}, {depth}, {alpha}"
        )
    picture, mixture = _picture(image), np.zeros_like(image)
    for weight in random.dirichlet([alpha] * width):
        chain = picture
        for name in random.choice(list(AUG_MIX), random.integers(1, 4) if depth == -1 else depth):
            chain = AUG_MIX[name](chain, random.uniform(0.1, severity) / SEVERITIES, random)
        mixture += np.float32(weight) * _floats(chain)
    share = np.float32(random.beta(alpha, alpha))
    return np.clip((1 - share) * image + share * mixture, 0, 1)


def cut_mix(source: Source, alpha: float = 1.0) -> Callable[[Example, np.random.Generator], dict[str, Any]]:
    """CutMix (Yun et al., arXiv 1905.04899, eq. 1 and 2) with random examples of `source`, as a transform.

    Of an example it makes `image`, in which a box is the other's; `label` and the other's `label_b`; `lam`
    float32, the share of pixels that are still its own. For losses that are `mixed`. The share is drawn from
    Beta(alpha, alpha), and grows where the box reaches over the edge. Raises ValueError for alpha not above
    0 and an empty source, `transform` for images that are unlike those of this module or each other.
    """
    if not (alpha > 0 and len(source)):
        raise ValueError(f"needs alpha above 0 and examples, found alpha {alpha}, {len(source)} examples")

    def transform(example: Example, random: np.random.Generator) -> dict[str, Any]:
        other = source[int(random.integers(len(source)))]
        _check_alike(example["image"], other["image"])
        image = example["image"].copy()
        side = np.sqrt(1 - random.beta(alpha, alpha))
        box = tuple(_stretch(int(random.integers(length)), int(side * length)) for length in image.shape[:2])
        image[box] = other["image"][box]
        lam = np.float32(1 - image[box].size / image.size)
        return {"image": image, "label": example["label"], "label_b": other["label"], "lam": lam}

    return transform


class Balanced:
    """All examples, repeated so that every value of the integer `field` is as often; a `Source`.

    Group-balanced sampling (RWG of Idrissi et al., arXiv 2110.14503), exact over an epoch: of each value as
    many as of the most frequent. Reads all of `source` once. Raises ValueError for an empty source, and
    examples in which the field is missing or no integer.
    """

    def __init__(self, source: Source, field: str = "group"):
        if not len(source):
            raise ValueError("the data set is empty")
        values = np.array([_integer(source[index], field, index) for index in range(len(source))])
        most = np.unique_counts(values).counts.max()
        places = [np.resize(np.flatnonzero(values == value), most) for value in np.unique(values)]
        self._source, self._places = source, np.stack(places, 1).ravel().tolist()

    def __len__(self) -> int:
        return len(self._places)

    def __getitem__(self, index: int) -> Example:
        return self._source[self._places[index]]


class CopyPaste:
    """Each example's foreground on the picture of another, drawn from (seed, index); a `Source`.

    Examples have `image`, `label`, and `keep` bool `[H,W,1]`, True on the foreground, and so have those made:
    label and keep are the foreground's. Groups are left out: they are unknown. The other picture is `cleaned`
    first; it is all there is where nothing is kept, as of a picture of nothing. After Ghiasi et al., arXiv
    2012.07177, but places and scales stay. Raises ValueError for less than two examples, reading for images
    and masks that are unlike those or each other.
    """

    def __init__(self, source: Source, seed: int = 0):
        if len(source) < 2:
            raise ValueError(f"copying from one to another needs two examples or more, found {len(source)}")
        self._source, self._seed = source, seed

    def __len__(self) -> int:
        return len(self._source)

    def __getitem__(self, index: int) -> Example:
        example = self._source[index]
        random = np.random.Generator(np.random.Philox(key=[self._seed, index]))
        other = self._source[int(index + random.integers(1, len(self))) % len(self)]
        _check_alike(example["image"], other["image"])
        _check_keep(example["keep"], example["image"])
        image = np.where(example["keep"], example["image"], cleaned(other["image"], other["keep"]))
        return {"image": image, "keep": example["keep"], "label": example["label"]}


def cleaned(image: np.ndarray, keep: np.ndarray) -> np.ndarray:
    """The image without what `keep`, bool `[H,W,1]`, is True on, and its edges; the rest is as it was.

    Edges are a 64th of the shorter side wide, 2 pixels at least. Painted over from around, by Telea's method
    (2004); grey where nothing else is left. Raises ValueError for other images and masks.
    """
    edge = max(2, round(min(image.shape[:2]) / 64))
    picture = np.array(_picture(image))
    _check_keep(keep, image)
    disc = cv2.getStructuringElement(cv2.MORPH_ELLIPSE, (2 * edge + 1,) * 2)
    hole = cv2.dilate(keep[..., 0].astype(np.uint8), disc) > 0
    if hole.all():
        return np.full_like(image, 0.5)
    picture[hole] = picture[~hole].mean(0)  # else traces are left where the hole reaches an edge
    painted = cv2.inpaint(picture, hole.astype(np.uint8), _RADIUS, cv2.INPAINT_TELEA)
    return np.where(hole[..., None], painted / np.float32(255), image)


def _stretch(middle: int, length: int) -> slice:
    start = middle - length // 2
    return slice(max(start, 0), start + length)


def _integer(example: Example, field: str, index: int) -> int:
    value = example.get(field)
    if np.ndim(value) or not isinstance(np.asarray(value)[()], np.integer):
        raise ValueError(f"example {index}: no integer {field!r}, found {value!r} among {list(example)}")
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
        raise ValueError(f"images must be of one size, found {list(image.shape)} and {list(other.shape)}")


def _check_keep(keep: np.ndarray, image: np.ndarray) -> None:
    expected = (*image.shape[:2], 1)
    if keep.dtype != bool or keep.shape != expected:
        raise ValueError(f"keep must be bool {list(expected)}, found {keep.dtype} {list(keep.shape)}")


def _picture(image: np.ndarray) -> Image.Image:
    _check(image)
    return Image.fromarray(np.round(image * 255).astype(np.uint8))


def _floats(picture: Image.Image) -> np.ndarray:
    return np.asarray(picture) / np.float32(255)
