"""A renderer of procedural animals on backgrounds, with exact masks, from words.

The animal (its size, place, pose and tone) comes from (seed, index) and its word alone, so that the same
animal can stand on any background. The background comes from two words; its details come from (seed, index),
or from the number of a camera, which always sees the same scene.
"""

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np

from gap_jax.small_worlds.seeds import SPLITS, Purpose, generator
from gap_jax.small_worlds.wildlife.animals import draw
from gap_jax.small_worlds.wildlife.backgrounds import background
from gap_jax.small_worlds.wildlife.cameras import Kind, check_camera
from gap_jax.small_worlds.wildlife.words import LABELS, Words, draw_hour, draw_words, group, hour, parse

STRIP = 6 / 64  # height of the strip where cameras write the time, as a share of the image's height

_CAMERAS_SEED = 2**32  # the seed of cameras' scenes, different from those of all splits
_SUNSET, _AFTERGLOW = np.array(((0.80, 0.54, 0.48), (0.18, 0.05, 0.00)), np.float32)
_INFRARED = np.array((0.92, 1.00, 0.97), np.float32)
_LUMA = np.array((0.299, 0.587, 0.114), np.float32)
_GLYPHS = {  # five rows of three pixels; a row is an octal digit
    **dict(zip("01234", ("75557", "26227", "71747", "71717", "55711"), strict=True)),
    **dict(zip("56789", ("74717", "74757", "71111", "75757", "75717"), strict=True)),
    **{"-": "00700", ":": "02020", " ": "00000"},
}


class RenderedAnimals(NamedTuple):
    """A batch of rendered pictures.

    - `image`: uint8 `[B,S,S,3]`.
    - `keep`: bool `[B,S,S,1]`, True on the animal.
    - `label`: int32 `[B]`, the animal's number in `LABELS`.
    - `words`: one `Words` for each picture.
    """

    image: np.ndarray
    keep: np.ndarray
    label: np.ndarray
    words: tuple[Words, ...]

    def as_batch(self) -> dict[str, np.ndarray]:
        """Return `image` as float32 in [0,1], and `keep`."""
        return {"image": self.image.astype(np.float32) / 255, "keep": self.keep}


def render(
    seed: int,
    indices: Sequence[int] | np.ndarray,
    words: Sequence[Words],
    size: int = 64,
    camera: int | None = None,
) -> RenderedAnimals:
    """Render the pictures number `indices` of the world `seed`, each in its words.

    Equal arguments give equal bits. `camera` is a number of `CAMERAS`: the background is the camera's scene,
    and date and time are written below it. Raises ValueError for a size below 64 pixels, for an unknown word,
    for an unknown camera or one in another place, and unless there are as many `words` as indices.
    """
    if size < 64:
        raise ValueError(f"size must be at least 64 pixels, found {size}")
    if len(words) != len(indices):
        raise ValueError(f"every picture needs words, found {len(indices)} pictures and {len(words)} words")
    for picture_words in words:
        parse(" ".join(picture_words))
        if camera is not None:
            check_camera(camera, picture_words.place)
    pictures = [
        _picture(seed, int(index), picture_words, size, camera)
        for index, picture_words in zip(indices, words, strict=True)
    ]
    images, keeps = (np.stack(arrays) for arrays in zip(*pictures, strict=True))
    labels = np.array([LABELS[picture_words.animal] for picture_words in words], np.int32)
    return RenderedAnimals(images, keeps, labels, tuple(words))


def render_kinds(
    split: str, kinds: Sequence[Kind], numbers: Sequence[int] | np.ndarray
) -> dict[str, np.ndarray]:
    """Render the pictures with these numbers of a split, as a batch; kinds take turns by number.

    Returns `image`, float32 `[B,64,64,3]` in [0,1]; `keep`, bool `[B,64,64,1]`, True on the animal; and
    `label`, `group` and `hour`, int32 `[B]`.
    """
    seed, rows = SPLITS[split], []
    for number in numbers:
        kind = kinds[number % len(kinds)]
        words = draw_words(seed, number, kind.allowed)
        rendered = render(seed, [number], [words], camera=kind.camera)
        rows.append(
            {
                **{name: array[0] for name, array in rendered.as_batch().items()},
                "label": rendered.label[0],
                "group": np.int32(group(words, kind.camera)),
                "hour": np.int32(hour(seed, number, words.light)),
            }
        )
    return {name: np.stack([row[name] for row in rows]) for name in rows[0]}


def _picture(
    seed: int, index: int, words: Words, size: int, camera: int | None
) -> tuple[np.ndarray, np.ndarray]:
    """Return the image, uint8 `[S,S,3]`, and the animal's mask, bool `[S,S,1]`."""
    if camera is None:
        scene = generator(seed, index, Purpose.BACKGROUND)
    else:
        scene = generator(_CAMERAS_SEED, camera, Purpose.SHAPE)
    image = background(scene, words.place, size)
    cover = np.zeros((size, size, 1), np.float32)
    if words.animal != "nothing":
        drawn = draw(words.animal, generator(seed, index, Purpose.SHAPE), size)
        image, cover = image * (1 - drawn.cover) + drawn.colour, drawn.cover
    image = _lit(image, words.light, generator(seed, index, Purpose.LIGHT))
    keep = cover >= 0.5
    if camera is not None:
        strip = _strip(generator(seed, index, Purpose.LIGHT), words.light, size)
        image[-len(strip) :], keep[-len(strip) :] = strip, False
    return np.round(np.clip(image, 0, 1) * 255).astype(np.uint8), keep


def _lit(image: np.ndarray, light: str, random: np.random.Generator) -> np.ndarray:
    """Return an image by day in another light.

    Dusk is reddish and dim. Night is infrared: grey, bright in the middle, and noisy.
    """
    if light == "day":
        return image
    v, u = np.meshgrid(*((np.arange(len(image), dtype=np.float32) + 0.5) / len(image),) * 2, indexing="ij")
    if light == "dusk":
        return image * _SUNSET + (1 - v[..., None]) * _AFTERGLOW
    lamp = np.clip(0.66 * (1 - np.square((v - 0.55) / 0.72) - np.square((u - 0.5) / 0.72)), 0.07, None)
    return ((image @ _LUMA) * lamp + random.normal(0, 0.012, lamp.shape))[..., None] * _INFRARED


def _strip(random: np.random.Generator, light: str, size: int) -> np.ndarray:
    """Draw the strip in which cameras write date and time, white on black, `[h,S,3]`."""
    hour = draw_hour(random, light)
    day, month, minute = (int(random.integers(low, high)) for low, high in ((1, 29), (1, 13), (0, 60)))
    text = f"{day:02}-{month:02} {hour:02}:{minute:02}"
    cells = [[[int(row) >> bit & 1 for bit in (2, 1, 0, 3)] for row in _GLYPHS[letter]] for letter in text]
    drawn = np.zeros((6, 64), np.float32)
    drawn[:5, 1 : 1 + 4 * len(text)] = np.concatenate(np.array(cells), 1)
    high = round(STRIP * size)
    rows, columns = np.arange(high) * 6 // high, np.arange(size) * 64 // size
    return np.repeat(0.04 + 0.86 * drawn[rows][:, columns, None], 3, 2)
