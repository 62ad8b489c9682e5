"""The styles of rooms: four words each, with what the renderer makes of them.

Two words say what the room is like, its colour and its light; one says whether there is fog in it, and one
what the camera did to the picture.
"""

from collections.abc import Mapping, Sequence
from typing import NamedTuple

from gap_jax.small_worlds.seeds import Purpose, generator
from gap_jax.small_worlds.words import draw_one_word_per_axis, parse_words

COLOURS = {  # RGB in [0,1]
    "grey": (0.66, 0.66, 0.66),
    "beige": (0.86, 0.74, 0.54),
    "red": (0.86, 0.25, 0.20),
    "green": (0.28, 0.68, 0.30),
    "blue": (0.24, 0.42, 0.88),
}
LIGHT = {"bright": (1.0, 0.0), "dark": (0.4, 0.0), "overexposed": (0.6, 0.4)}  # factor, and what is added
EXTINCTION = {"clear": 0.0, "foggy": 0.35}  # per metre
CAMERAS = ("sharp", "blurry", "faded", "grainy", "pixelated")

AXES: dict[str, tuple[str, ...]] = {
    "colour": tuple(COLOURS),
    "light": tuple(LIGHT),
    "air": tuple(EXTINCTION),
    "camera": CAMERAS,
}
EVERY = AXES  # the words of all styles
NARROW = {"colour": ("grey", "beige"), "light": ("bright",), "air": ("clear",), "camera": ("sharp",)}


class Style(NamedTuple):
    """A room's style: one word of each of `AXES`."""

    colour: str = "grey"
    light: str = "bright"
    air: str = "clear"
    camera: str = "sharp"


def caption(style: Sequence[str], known: Sequence[bool] = (True,) * 4) -> str:
    """Return the caption of a style, such as `a red room, dark, foggy, blurry`.

    `style` has one word of each of `AXES`; words whose `known` is False are left out.
    """
    colour, *others = (word if is_known else "" for word, is_known in zip(style, known, strict=True))
    return ", ".join(filter(None, (" ".join(filter(None, ("a", colour, "room"))), *others)))


def parse(text: str) -> dict[str, str]:
    """Return the style words of a text such as `red foggy`, by axis.

    Raises ValueError for a word that belongs to no style, unless it is `a` or `room`.
    """
    return parse_words(text, AXES, ("a", "room"), "rooms")


def draw_style(seed: int, index: int, allowed: Mapping[str, Sequence[str]] = EVERY) -> Style:
    """Draw the style of room number `index` of the world `seed`.

    Each word is one of those `allowed` on its axis; an axis missing from `allowed` may have any word. Raises
    ValueError for unknown axes or words, and for an axis without words.
    """
    return Style(*draw_one_word_per_axis(generator(seed, index, Purpose.WORDS), AXES, allowed, "rooms"))
