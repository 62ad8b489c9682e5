"""Worlds described by words: axes, such as light, each with its words, such as bright and dark."""

from collections.abc import Collection, Mapping, Sequence

import numpy as np

Axes = Mapping[str, Sequence[str]]


def words_in(text: str, axes: Axes, silent: Collection[str], world: str) -> dict[str, str]:
    """The words of a text by their axes, but for `silent` ones; raises ValueError for one that is on none."""
    found = {}
    for word in text.replace(",", " ").split():
        axis = next((axis for axis, words in axes.items() if word in words), None)
        if axis is not None:
            found[axis] = word
        elif word not in silent:
            known = "; ".join(f"{axis}: {', '.join(words)}" for axis, words in axes.items())
            raise ValueError(f"{word!r} in {text!r} is no word of the {world}. {known}")
    return found


def one_of_each(random: np.random.Generator, axes: Axes, allowed: Axes, world: str) -> list[str]:
    """A word of each axis, drawn from those `allowed` on it (all, for an axis not given).

    Raises ValueError for axes and words that there are not, and for none.
    """
    for axis, words in allowed.items():
        if axis not in axes or not words or set(words) - set(axes[axis]):
            raise ValueError(f"{axis}: {tuple(words)} are not words of the {world}'s axes {axes}")
    return [str(random.choice(allowed.get(axis, words))) for axis, words in axes.items()]
