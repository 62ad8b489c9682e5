"""A procedural world of animals on backgrounds, with exact masks, in words: for the classification tasks.

The animal (kind, size, place, pose, tone) comes from (seed, index) and its word alone, so that one animal can
stand on any background; the background from two words, and in details from (seed, index), or from the number
of a camera that always sees the same scene. `WATERBIRDS` and `IWILDCAM` are two choices of words and cameras.
"""

from collections.abc import Mapping, Sequence
from typing import NamedTuple

import cv2
import numpy as np

from gap_jax.small_worlds.wildlife.animals import ANIMALS, Colour, draw
from gap_jax.small_worlds.words import one_of_each, words_in

SPLITS = {"train": 0, "validation": 1, "test": 2}
BIRDS = ("landbird", "waterbird")  # the classes of Waterbirds, by label
MAMMALS = ("nothing", "cattle", "elephant", "impala", "zebra", "giraffe", "dik-dik")  # of iWildCam, by label
LABELS = {animal: label for animals in (BIRDS, MAMMALS) for label, animal in enumerate(animals)}
LAND, WATER = ("grass", "forest"), ("lake", "sea")
STRIP = 6 / 64  # of the image's height, at its lower edge: where cameras write the time

AXES: dict[str, tuple[str, ...]] = {
    "animal": ("nothing", *ANIMALS),
    "place": (*LAND, *WATER, "dirt", "savanna"),
    "light": ("day", "dusk", "night"),
}
EVERY = AXES

_MUTE = ("a", "an", "photo", "of")  # words of captions that are of no axis
_HOURS = {"day": (9, 18), "dusk": (18, 20), "night": (20, 30)}  # from, to
_CAMERAS_WORLD = 2**32  # the seed of cameras' scenes, which no split has
_SUNSET, _AFTERGLOW = np.array(((0.80, 0.54, 0.48), (0.18, 0.05, 0.00)), np.float32)
_INFRARED = np.array((0.92, 1.00, 0.97), np.float32)
_LUMA = np.array((0.299, 0.587, 0.114), np.float32)
_GLYPHS = {  # five rows of three pixels, an octal digit each
    **dict(zip("01234", ("75557", "26227", "71747", "71717", "55711"), strict=True)),
    **dict(zip("56789", ("74717", "74757", "71111", "75757", "75717"), strict=True)),
    **{"-": "00700", ":": "02020", " ": "00000"},
}


class Words(NamedTuple):
    """One word for each of `AXES`."""

    animal: str = "nothing"
    place: str = "grass"
    light: str = "day"


class Camera(NamedTuple):
    """A camera trap: the split it is for, its place, the lights of its pictures, each as often as named."""

    split: str
    place: str
    lights: tuple[str, ...]


_SUNNY = ("day", "day", "day", "dusk", "night")
_GLOOMY = ("day", "dusk", "night", "night")
CAMERAS = {
    **{11 + i: Camera("train", place, _SUNNY) for i, place in enumerate(("savanna", "dirt", "grass") * 3)},
    **{31 + i: Camera("validation", place, _SUNNY) for i, place in enumerate(("savanna", "dirt", "grass"))},
    34: Camera("validation", "forest", _GLOOMY),
    35: Camera("validation", "lake", _GLOOMY),
    287: Camera("test", "forest", _GLOOMY),
    288: Camera("test", "lake", _GLOOMY),
}


class Kind(NamedTuple):
    """One kind of pictures: the words allowed on each axis, and the camera that takes them, if one does."""

    allowed: Mapping[str, Sequence[str]]
    camera: int | None = None


def _birds(group: int) -> Kind:
    place, label = divmod(group, 2)
    return Kind({"animal": (BIRDS[label],), "place": (LAND, WATER)[place], "light": ("day",)})


WATERBIRDS = {  # of each split, the kinds, all as often: the groups of WILDS, biased ones alone to train on
    "train": tuple(map(_birds, (0, 3))),
    "validation": tuple(map(_birds, range(4))),
    "test": tuple(map(_birds, range(4))),
}
IWILDCAM = {  # likewise, the cameras
    split: tuple(
        Kind({"animal": MAMMALS, "place": (camera.place,), "light": camera.lights}, number)
        for number, camera in CAMERAS.items()
        if camera.split == split
    )
    for split in SPLITS
}


class RenderedAnimals(NamedTuple):
    """Rendered pictures.

    `image` uint8 `[B,S,S,3]`; `keep` bool `[B,S,S,1]`, True on the animal; `label` int32 `[B]`, the animal's
    of `LABELS`; `words`, one for each.
    """

    image: np.ndarray
    keep: np.ndarray
    label: np.ndarray
    words: tuple[Words, ...]

    def as_batch(self) -> dict[str, np.ndarray]:
        """`image` as float32 in [0,1], and `keep`."""
        return {"image": self.image.astype(np.float32) / 255, "keep": self.keep}


def caption(words: Words, known: Sequence[bool] = (True,) * 3) -> str:
    """`a photo of a waterbird, forest, night`; words whose `known` is False are left unsaid."""
    animal, place, light = (word if said else "" for word, said in zip(words, known, strict=True))
    article = "" if animal in ("nothing", "cattle") else "an" if animal[:1] in ("e", "i") else "a"
    subject = " ".join(filter(None, ("of", article, animal))) if animal else ""
    return ", ".join(filter(None, (" ".join(filter(None, ("a photo", subject))), place, light)))


def parse(text: str) -> dict[str, str]:
    """The words of a text such as `zebra night` by their axes; raises ValueError for one that is on none."""
    return words_in(text, AXES, _MUTE, "wildlife")


def draw_words(seed: int, index: int, allowed: Mapping[str, Sequence[str]] = EVERY) -> Words:
    """The words of a picture, each drawn from those `allowed` on its axis (all, for an axis not given)."""
    return Words(*one_of_each(_random(seed, index, 1), AXES, allowed, "wildlife"))


def group(words: Words, camera: int | None = None) -> int:
    """Of a camera's picture its number, of another of a bird 2 · on water + label as in WILDS, else -1."""
    if camera is not None:
        return camera
    return 2 * (words.place in WATER) + LABELS[words.animal] if words.animal in BIRDS else -1


def hour(seed: int, index: int, light: str) -> int:
    """When picture number `index` was taken, 0 to 23 h, as `iwildcam.time_of` tells day from night."""
    return int(_random(seed, index, 3).integers(*_HOURS[light])) % 24


def render(
    seed: int, indices: Sequence[int], words: Sequence[Words], size: int = 64, camera: int | None = None
) -> RenderedAnimals:
    """Pictures number `indices` of the world `seed`, in `words`; equal arguments give equal bits.

    `camera`: a number of `CAMERAS`, whose scene is the background and which writes date and time below it.
    Raises ValueError for a size below 64, as many words as there are not indices, and an unknown camera or
    one that is in another place.
    """
    if size < 64:
        raise ValueError(f"size must be 64 pixels or more, found {size}")
    if len(words) != len(indices):
        raise ValueError(f"{len(indices)} pictures need as many words, found {len(words)}")
    for each in words:
        parse(" ".join(each))
        if camera is not None:
            _check_camera(camera, each.place)
    pictures = [
        _picture(seed, int(index), each, size, camera) for index, each in zip(indices, words, strict=True)
    ]
    images, keeps = (np.stack(parts) for parts in zip(*pictures, strict=True))
    labels = np.array([LABELS[each.animal] for each in words], np.int32)
    return RenderedAnimals(images, keeps, labels, tuple(words))


def _check_camera(camera: int, place: str) -> None:
    if camera not in CAMERAS:
        raise ValueError(f"camera must be one of {', '.join(map(str, CAMERAS))}, found {camera}")
    if CAMERAS[camera].place != place:
        raise ValueError(f"camera {camera} is in the place {CAMERAS[camera].place}, found words of {place}")


def _random(seed: int, index: int, purpose: int) -> np.random.Generator:
    return np.random.Generator(np.random.Philox(key=[seed, 4 * index + purpose]))


def _picture(
    seed: int, index: int, words: Words, size: int, camera: int | None
) -> tuple[np.ndarray, np.ndarray]:
    scene = _random(seed, index, 2) if camera is None else _random(_CAMERAS_WORLD, camera, 0)
    image = background(scene, words.place, size)
    cover = np.zeros((size, size, 1), np.float32)
    if words.animal != "nothing":
        drawn = draw(words.animal, _random(seed, index, 0), size)
        image, cover = image * (1 - drawn.cover) + drawn.colour, drawn.cover
    image = _lit(image, words.light, _random(seed, index, 3))
    keep = cover >= 0.5
    if camera is not None:
        strip = _strip(_random(seed, index, 3), words.light, size)
        image[-len(strip) :], keep[-len(strip) :] = strip, False
    return np.round(np.clip(image, 0, 1) * 255).astype(np.uint8), keep


def background(random: np.random.Generator, place: str, size: int) -> np.ndarray:
    """A place by day without an animal, float32 `[S,S,3]`: its look is its word's, its details are drawn."""
    v, u = np.meshgrid(*((np.arange(size, dtype=np.float32) + 0.5) / size,) * 2, indexing="ij")
    scene = _SCENES[place](random, u[..., None], v[..., None])
    return scene * random.uniform(0.97, 1.03, 3).astype(np.float32)


def _grass(random: np.random.Generator, u: np.ndarray, v: np.ndarray) -> np.ndarray:
    """A bright meadow in tufts under a pale blue sky."""
    size, horizon = len(u), random.uniform(0.30, 0.36)
    sky = _fade((0.58, 0.78, 0.96), (0.84, 0.92, 0.97), v, 0, horizon)
    meadow = _fade((0.62, 0.80, 0.36), (0.34, 0.62, 0.18), v, horizon, 1)
    meadow = meadow + 0.09 * _noise(random, 14, 10, size)
    return _over(sky, meadow, _below(v, horizon + 0.01 * _noise(random, 6, 1, size), size))


def _forest(random: np.random.Generator, u: np.ndarray, v: np.ndarray) -> np.ndarray:
    """Dark leaves, brown trunks on a floor of moss."""
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
    """Still teal water that mirrors the hills of the far shore."""
    size, shore = len(u), random.uniform(0.36, 0.42)
    hills = 0.11 + 0.035 * _noise(random, 4, 1, size)
    sky = _fade((0.76, 0.87, 0.94), (0.90, 0.94, 0.94), v, 0, shore)
    water = _fade((0.52, 0.74, 0.74), (0.22, 0.52, 0.56), v, shore, 1) + 0.03 * _noise(random, 3, 24, size)
    image = _over(sky, water, _below(v, shore, size))
    image = _over(image, (0.26, 0.42, 0.32), _below(v, shore - hills, size) * (1 - _below(v, shore, size)))
    mirrored = _inside(shore + 0.8 * hills - v, size) * _below(v, shore, size)
    return _over(image, (0.30, 0.50, 0.46), 0.8 * mirrored)


def _sea(random: np.random.Generator, u: np.ndarray, v: np.ndarray) -> np.ndarray:
    """Deep blue to a straight horizon, with white crests."""
    size, horizon = len(u), random.uniform(0.28, 0.34)
    sky = _fade((0.50, 0.72, 0.96), (0.78, 0.88, 0.98), v, 0, horizon)
    water = _fade((0.06, 0.22, 0.52), (0.10, 0.40, 0.70), v, horizon, 1)
    depth = np.sqrt(np.maximum(v - horizon, 0))  # waves widen towards us
    wave = np.sin(2 * np.pi * (5.5 * depth + 0.15 * _noise(random, 5, 3, size) + random.random()))
    crests = np.clip(3 * (wave - 0.75), 0, 1) * np.clip(0.6 + _noise(random, 7, 9, size), 0, 1)
    water = _over(water + 0.03 * wave, (0.90, 0.95, 0.98), 0.8 * crests)
    return _over(sky, water, _below(v, horizon, size))


def _dirt(random: np.random.Generator, u: np.ndarray, v: np.ndarray) -> np.ndarray:
    """Bare red-brown ground with stones, a track, a rim of scrub, a hazy sky."""
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
    """Tall golden grass and a flat-topped acacia before a white-hot sky."""
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
    """A colour that goes from `top` at v = `start` to `bottom` at `stop`."""
    return _over(np.asarray(top, np.float32), bottom, np.clip((v - start) / (stop - start), 0, 1))


def _over(image: np.ndarray, colour: np.ndarray | Colour, share: np.ndarray) -> np.ndarray:
    return image + share * (np.asarray(colour, np.float32) - image)


def _inside(distance: np.ndarray, size: int) -> np.ndarray:
    """The share of a pixel inside an edge, from the distance to it."""
    return np.clip(distance * size + 0.5, 0, 1)


def _below(v: np.ndarray, height: float | np.ndarray, size: int) -> np.ndarray:
    return _inside(v - height, size)


def _noise(random: np.random.Generator, across: int, down: int, size: int) -> np.ndarray:
    """Smooth noise of `across` by `down` waves, about uniform in [-1,1], float32 `[S,S,1]`."""
    lattice = random.uniform(-1, 1, (down, across)).astype(np.float32)
    return cv2.resize(lattice, (size, size), interpolation=cv2.INTER_CUBIC)[..., None]


def _lit(image: np.ndarray, light: str, random: np.random.Generator) -> np.ndarray:
    """By day as it is; at dusk red and low; at night infrared: grey, bright in the middle, with noise."""
    if light == "day":
        return image
    v, u = np.meshgrid(*((np.arange(len(image), dtype=np.float32) + 0.5) / len(image),) * 2, indexing="ij")
    if light == "dusk":
        return image * _SUNSET + (1 - v[..., None]) * _AFTERGLOW
    lamp = np.clip(0.66 * (1 - np.square((v - 0.55) / 0.72) - np.square((u - 0.5) / 0.72)), 0.07, None)
    return ((image @ _LUMA) * lamp + random.normal(0, 0.012, lamp.shape))[..., None] * _INFRARED


def _strip(random: np.random.Generator, light: str, size: int) -> np.ndarray:
    """Date and time in white on black, `[h,S,3]`."""
    late = int(random.integers(*_HOURS[light])) % 24
    day, month, minute = (int(random.integers(low, high)) for low, high in ((1, 29), (1, 13), (0, 60)))
    text = f"{day:02}-{month:02} {late:02}:{minute:02}"
    cells = [[[int(row) >> bit & 1 for bit in (2, 1, 0, 3)] for row in _GLYPHS[letter]] for letter in text]
    drawn = np.zeros((6, 64), np.float32)
    drawn[:5, 1 : 1 + 4 * len(text)] = np.concatenate(np.array(cells), 1)
    high = round(STRIP * size)
    rows, columns = np.arange(high) * 6 // high, np.arange(size) * 64 // size
    return np.repeat(0.04 + 0.86 * drawn[rows][:, columns, None], 3, 2)


def render_kinds(split: str, kinds: Sequence[Kind], numbers: Sequence[int]) -> dict[str, np.ndarray]:
    """Pictures of these numbers, of the kinds in turn: `image`, `keep`, `label`, `group`, `hour`."""
    seed, rows = SPLITS[split], []
    for number in numbers:
        kind = kinds[number % len(kinds)]
        words = draw_words(seed, number, kind.allowed)
        made = render(seed, [number], [words], camera=kind.camera)
        rows.append(
            {
                **{name: array[0] for name, array in made.as_batch().items()},
                "label": made.label[0],
                "group": np.int32(group(words, kind.camera)),
                "hour": np.int32(hour(seed, number, words.light)),
            }
        )
    return {name: np.stack([row[name] for row in rows]) for name in rows[0]}
