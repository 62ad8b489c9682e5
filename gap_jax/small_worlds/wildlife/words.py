"""The words of animal pictures, and the labels and groups of the real data sets that they stand for."""

from collections.abc import Mapping, Sequence
from typing import NamedTuple

import numpy as np

from gap_jax.small_worlds.seeds import Purpose, generator
from gap_jax.small_worlds.wildlife.animals import ANIMALS
from gap_jax.small_worlds.words import draw_one_word_per_axis, parse_words

BIRDS = ("landbird", "waterbird")  # the classes of Waterbirds, by label
MAMMALS = ("nothing", "cattle", "elephant", "impala", "zebra", "giraffe", "dik-dik")  # iWildCam's, by label
LABELS = {animal: label for animals in (BIRDS, MAMMALS) for label, animal in enumerate(animals)}
LAND, WATER = ("grass", "forest"), ("lake", "sea")  # the places of Waterbirds

AXES: dict[str, tuple[str, ...]] = {
    "animal": ("nothing", *ANIMALS),
    "place": (*LAND, *WATER, "dirt", "savanna"),
    "light": ("day", "dusk", "night"),
}
EVERY = AXES  # the words of all pictures

_FUNCTION_WORDS = ("a", "an", "photo", "of")  # words of captions that are on no axis
_HOURS = {
    "day": (9, 18),
    "dusk": (18, 20),
    "night": (20, 30),
}  # from, to; hours from 24 on are the next day's


class Words(NamedTuple):
    """A picture's words: one of each of `AXES`."""

    animal: str = "nothing"
    place: str = "grass"
    light: str = "day"


def caption(words: Sequence[str], known: Sequence[bool] = (True,) * 3) -> str:
    """Return the caption of a picture, such as `a photo of a waterbird, forest, night`.

    `words` are an animal, a place and a light; those whose `known` is False are left out.
    """
    animal, place, light = (word if is_known else "" for word, is_known in zip(words, known, strict=True))
    article = "" if animal in ("nothing", "cattle") else "an" if animal[:1] in ("e", "i") else "a"
    subject = " ".join(filter(None, ("of", article, animal))) if animal else ""
    return ", ".join(filter(None, (" ".join(filter(None, ("a photo", subject))), place, light)))


def parse(text: str) -> dict[str, str]:
    """Return the words of a text such as `zebra night`, by axis.

    Raises ValueError for a word that is on no axis, unless it is `a`, `an`, `photo` or `of`.
    """
    return parse_words(text, AXES, _FUNCTION_WORDS, "wildlife")


def draw_words(seed: int, index: int, allowed: Mapping[str, Sequence[str]] = EVERY) -> Words:
    """Draw the words of picture number `index` of the world `seed`.

    Each word is one of those `allowed` on its axis; an axis missing from `allowed` may have any word. Raises
    ValueError for unknown axes or words, and for an axis without words.
    """
    random = generator(seed, index, Purpose.WORDS)
    return Words(*draw_one_word_per_axis(random, AXES, allowed, "wildlife"))


def group(words: Words, camera: int | None = None) -> int:
    """Return the group of a picture, as WILDS numbers it.

    The group of a camera's picture is the camera's number; that of another picture of a bird is
    2 · (on water) + label; all others are in group -1.
    """
    if camera is not None:
        return camera
    return 2 * (words.place in WATER) + LABELS[words.animal] if words.animal in BIRDS else -1


def hour(seed: int, index: int, light: str) -> int:
    """Return the hour, 0 to 23, at which picture number `index` was taken.

    Hours suit the light, as `gap_jax.data.masked.iwildcam.time_of_day` tells day from night.
    """
    return draw_hour(generator(seed, index, Purpose.LIGHT), light)


def draw_hour(random: np.random.Generator, light: str) -> int:
    """Draw an hour, 0 to 23, that suits the light."""
    return int(random.integers(*_HOURS[light])) % 24
