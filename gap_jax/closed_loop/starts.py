"""The embeddings that prompts start from: a word's, earlier prompts', or drawn from a distribution."""

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import NamedTuple

import jax
import numpy as np

from gap_jax import prompts
from gap_jax.closed_loop.arms import Arm
from gap_jax.closed_loop.settings import Optimizing
from gap_jax.diffusion.pipeline import Params, Pipeline

RANDOM_WORDS = "*"  # the setting `start` that stands for random words
_FILES = ("learned_embeds*.safetensors", "learned_embeds*.bin")  # ours and diffusers', and the authors'


class PopulationSize(NamedTuple):
    """The number of prompts in a population, and of placeholder tokens in each of them."""

    prompts: int
    placeholders: int


def population_size(arm: Arm, config: Optimizing) -> PopulationSize:
    """Return the size of each population of prompts that an arm draws or optimises."""
    if arm.prompts == "random":
        return PopulationSize(
            config.random_prompts or config.prompts, config.random_placeholders or config.placeholders
        )
    if arm.guided:
        return PopulationSize(config.prompts_per_target or config.prompts, config.placeholders)
    return PopulationSize(config.prompts, config.placeholders)


def starts(
    pipe: Pipeline, params: Params, config: Optimizing, size: PopulationSize, key: jax.Array, *, random: bool
) -> np.ndarray:
    """Return the embeddings that the prompts of a population start from, float32 `[prompts,n,D]`.

    `random` is True for prompts that are not optimised: these are always drawn, from the distribution that
    the settings name. Raises FileNotFoundError and ValueError for earlier prompts that are missing or of
    another size.
    """
    earlier = [prompts.load(path) for path in _find(config.earlier)]
    _check_widths(config.earlier, earlier, prompts.vocabulary(params).shape[1])
    if earlier and config.earlier_use == "start" and not random:
        _check_lengths(config.earlier, earlier, size.placeholders)
        return np.stack([earlier[i % len(earlier)] for i in range(size.prompts)])

    def draw(key: jax.Array) -> jax.Array:
        if earlier and config.earlier_use != "start":
            mean = None if config.earlier_use == "mean-covariance" else _centre(pipe, params, config.start)
            return prompts.from_distribution(np.concatenate(earlier), size.placeholders, key, mean)
        if random or config.start is None:
            return prompts.from_vocabulary(params, size.placeholders, key)
        if config.start == RANDOM_WORDS:
            return prompts.from_random_words(pipe, params, size.placeholders, key)
        return prompts.from_word(pipe, params, config.start, size.placeholders)

    return np.stack([draw(each) for each in jax.random.split(key, size.prompts)])


def _centre(pipe: Pipeline, params: Params, word: str | None) -> jax.Array:
    """Return the embedding `[D]` of a word or, without one, the mean of the vocabulary's."""
    if word is None or word == RANDOM_WORDS:
        return prompts.vocabulary(params).mean(0)
    return prompts.from_word(pipe, params, word, 1)[0]


def _find(paths: Sequence[Path]) -> Iterator[Path]:
    """Yield files of prompts: the paths that are files, and all files of prompts below those that are not."""
    for path in paths:
        if not path.is_dir():
            yield path  # prompts.load says so if it is missing
            continue
        found = sorted(file for pattern in _FILES for file in path.rglob(pattern))
        if not found:
            raise FileNotFoundError(f"{path} has no prompts: it must hold files named {' or '.join(_FILES)}")
        yield from found


def _check_widths(paths: Sequence[Path], earlier: Sequence[np.ndarray], width: int) -> None:
    if others := {prompt.shape[1] for prompt in earlier} - {width}:
        raise ValueError(
            f"the earlier prompts in {', '.join(map(str, paths))} must have {width} numbers for each "
            f"placeholder, like the text encoder; found {min(others)}: they are of another Stable Diffusion"
        )


def _check_lengths(paths: Sequence[Path], earlier: Sequence[np.ndarray], placeholders: int) -> None:
    if others := {len(prompt) for prompt in earlier} - {placeholders}:
        raise ValueError(
            f"the earlier prompts in {', '.join(map(str, paths))} must have {placeholders} placeholders to "
            f"start from them, found {min(others)}: set optimizing.placeholders, or another "
            "optimizing.earlier_use"
        )
