"""The words that describe a small world's pictures, such as bright and dark on the axis light."""

from collections.abc import Collection, Mapping, Sequence

import numpy as np

Axes = Mapping[str, Sequence[str]]  # each axis's words


def parse_words(text: str, axes: Axes, ignored: Collection[str], world: str) -> dict[str, str]:
    """Return the axes that a text has words of, each with its word; words in `ignored` may appear too.

    Raises ValueError for any other word, naming the `world` and its words.
    """
    word_of_axis = {}
    for word in text.replace(",", " ").split():
        axis = next((axis for axis, words in axes.items() if word in words), None)
        if axis is not None:
            word_of_axis[axis] = word
        elif word not in ignored:
            known = "; ".join(f"{axis}: {', '.join(words)}" for axis, words in axes.items())
            raise ValueError(f"{word!r} in {text!r} is not a word of the {world}; its words are {known}")
    return word_of_axis


def draw_one_word_per_axis(random: np.random.Generator, axes: Axes, allowed: Axes, world: str) -> list[str]:
    """Draw a word of each axis, from its `allowed` words, or from all if `allowed` lacks the axis.

    Raises ValueError if `allowed` has an unknown axis, an unknown word, or an axis without words.
    """
    for axis, words in allowed.items():
        if axis not in axes:
            raise ValueError(f"{axis!r} is not an axis of the {world}; its axes are {', '.join(axes)}")
        if not words or set(words) - set(axes[axis]):
            raise ValueError(
                f"the words allowed on the axis {axis!r} must be some of {', '.join(axes[axis])}, found "
                f"{', '.join(words) or 'none'}"
            )
    return [str(random.choice(allowed.get(axis, words))) for axis, words in axes.items()]
