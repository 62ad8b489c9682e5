"""The prompts of an arm, fixed texts or populations of embeddings, and the images that they are made from."""

import re
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import NamedTuple

import jax
import numpy as np

from gap_jax import prompts
from gap_jax.closed_loop.arms import ARMS, Arm
from gap_jax.closed_loop.settings import Optimizing
from gap_jax.closed_loop.world import Generator, TargetDomain, World
from gap_jax.diffusion.pipeline import Params, Pipeline
from gap_jax.models.tokenizer import name_placeholders

RANDOM_WORDS = "*"  # the setting `start` that stands for random words
_FILES = ("learned_embeds*.safetensors", "learned_embeds*.bin")  # ours and diffusers', and the authors'


class PromptSet(NamedTuple):
    """Prompts of an arm that share a target domain and a subset of the data.

    - `texts`: each prompt's text or, for embeddings, its token.
    - `embeddings`: float32 `[prompts,n,D]`, or None for texts.
    - `target`, `subset`: names of the target domain and of the subset; None: none, and all data.
    """

    texts: tuple[str, ...]
    embeddings: np.ndarray | None = None
    target: str | None = None
    subset: str | None = None

    @property
    def label(self) -> str:
        """The target and the subset, separated by a comma; "all" if there is neither."""
        return ", ".join(filter(None, (self.target, self.subset))) or "all"

    def prompt(self, index: int, suffix: str) -> str:
        """Return the prompt of an image as diffusers takes it: a text or, before `suffix`, a token."""
        return self.texts[index] + (suffix if self.embeddings is not None else "")


def prompts_owner(arm: str, iteration: int) -> str:
    """Return the arm whose prompts an arm uses; in the first iteration, arms may share them."""
    return arm if iteration else ARMS[arm].prompts_of or arm


def token_owner(seed: int, arm: str, iteration: int = 0) -> str:
    """Return the words that tell the tokens of an arm's prompts from all others of an experiment.

    Seed 0, which most runs are alone with, is not named.
    """
    parts = [prompts_owner(arm, iteration)]
    if seed:
        parts.insert(0, f"seed-{seed}")
    if iteration:
        parts.append(f"iteration-{iteration + 1}")
    return "-".join(parts)


def tokens(owner: str, target: str | None, subset: str | None, count: int) -> tuple[str, ...]:
    """Return the tokens of a population's prompts, such as `<guided-fog-0>`.

    `owner` tells them from those of other populations with the same target and subset. The words are in lower
    case, because diffusers ignores it, and other characters than letters and digits become hyphens.
    """
    words = re.sub(r"[\W_]+", "-", " ".join(filter(None, (owner, target, subset))).lower()).strip("-")
    return tuple(f"<{words}-{i}>" for i in range(count))


def text_prompts(lines: Sequence[str], subsets: Sequence[str]) -> list[PromptSet]:
    """Return prompts of these texts; a text with `{subset}` becomes one prompt for each subset.

    Raises ValueError for such a text if there are no subsets.
    """
    general = tuple(line for line in lines if "{subset}" not in line)
    specific = [line for line in lines if "{subset}" in line]
    if specific and not subsets:
        raise ValueError(
            f"the prompt {specific[0]!r} has {{subset}}, but the data has no subsets: remove it from the "
            "prompt, or name subsets in DataSets"
        )
    sets = [PromptSet(general)] if general else []
    for subset in subsets if specific else ():
        sets.append(PromptSet(tuple(line.replace("{subset}", subset) for line in specific), subset=subset))
    return sets


def targets_of(arm: Arm, world: World) -> dict[str, TargetDomain]:
    """Return the target domains that have the form which an arm's guidance needs, by name."""
    return {
        name: target
        for name, target in world.targets.items()
        if (target.images is not None or not arm.guidance)
        and (target.text is not None or not arm.text_guidance)
        and (target.pictures is not None or not (arm.inversion or arm.set_guidance))
    }


def populations(arm: Arm, world: World) -> list[tuple[str | None, str | None]]:
    """Return the target and the subset of each population of prompts that an arm draws or optimises."""
    data = world.data
    subsets = tuple(data.subsets) if data.prompts_per_subset else (None,)
    if not arm.guided:
        return [(None, subset) for subset in subsets]
    return [
        (name, subset)
        for name, target in targets_of(arm, world).items()
        for subset in ((target.subset,) if target.subset else subsets)
    ]


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


def in_words(generator: Generator, prompt_set: PromptSet) -> PromptSet:
    """Return prompts whose embeddings are those of real words, with these words as their texts."""
    texts = []
    for prompt in prompt_set.embeddings if prompt_set.embeddings is not None else ():
        nearest = prompts.nearest_words(generator.pipe, generator.params, prompt, k=1)
        texts.append(",".join(word for [(word, _)] in nearest))
    return prompt_set._replace(texts=tuple(texts))


def earlier_prompts(config: Optimizing, width: int) -> list[np.ndarray]:
    """Load the embeddings of earlier prompts, float32 `[n,D]` each, that the settings name.

    `width` is D, the text encoder's. Raises FileNotFoundError for a file or folder without prompts,
    ValueError for prompts of another size and for a single embedding, of which no covariance can be taken,
    and the errors of `prompts.load`.
    """
    earlier = [prompts.load(path) for path in _find(config.earlier)]
    _check_widths(config.earlier, earlier, width)
    if config.earlier_use == "start":
        _check_lengths(config.earlier, earlier, config.placeholders)
    elif sum(map(len, earlier)) == 1:
        raise ValueError(
            f"the earlier prompts in {', '.join(map(str, config.earlier))} must have two embeddings or more, "
            "as one alone has no covariance; found 1: give further prompts, or set optimizing.earlier_use to "
            "start"
        )
    return earlier


def starts(
    pipe: Pipeline,
    params: Params,
    config: Optimizing,
    earlier: Sequence[np.ndarray],
    size: PopulationSize,
    key: jax.Array,
    *,
    random: bool,
) -> np.ndarray:
    """Return the embeddings that the prompts of a population start from, float32 `[prompts,n,D]`.

    `earlier` are the prompts of `earlier_prompts`. `random` is True for prompts that are not optimised: these
    are always drawn, from the distribution that the settings name.
    """
    if earlier and config.earlier_use == "start" and not random:
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


def source_groups(world: World, subset: str | None, target: str | None) -> list[np.ndarray]:
    """Return the numbers of the original examples that prompts may use, a group for each subset of the data.

    They are examples of `subset` (None: of all subsets or, where the data has none, of all data) that suit
    the `target` (None: any). Raises ValueError if there are none.
    """
    data = world.data
    names = tuple(data.subsets) if subset is None else (subset,)
    groups = [data.subsets[name] for name in names] or [np.arange(len(data.original))]
    sources = None if target is None else world.targets[target].sources
    if sources is not None:
        groups = [rows[np.isin(rows, sources)] for rows in groups]
    groups = [rows for rows in groups if len(rows)]
    if not groups:
        raise ValueError(
            f"no original image of {subset or 'any subset'} is among the sources of the target domain "
            f"{target!r}: leave this target out, or give it other sources"
        )
    return groups


def optimizing_rows(world: World, prompt_set: PromptSet, images: int | None, seed: int) -> np.ndarray:
    """Return the numbers of the original examples that prompts are optimised on.

    They are all that the prompts may use, or about `images` of them: a random choice of equally many from
    each subset, or as many as it has.
    """
    groups = source_groups(world, prompt_set.subset, prompt_set.target)
    if images is not None:
        random, each = np.random.default_rng([seed, 4]), max(images // len(groups), 1)
        groups = [random.permutation(rows)[:each] for rows in groups]
    return np.concatenate(groups)


def generating_rows(world: World, prompt_set: PromptSet, balanced: bool) -> np.ndarray:
    """Return the numbers of the original examples that prompts generate images from.

    With `balanced`, those of smaller subsets are repeated, so that all subsets are equally frequent.
    """
    groups = source_groups(world, prompt_set.subset, prompt_set.target)
    if balanced:
        largest = max(map(len, groups))
        groups = [np.resize(rows, largest) for rows in groups]
    return np.concatenate(groups)


def contexts(
    pipe: Pipeline, params: dict, prompt_set: PromptSet, suffix: str, joiner: str = ","
) -> np.ndarray:
    """Return the text states of prompts, float32 `[prompts,L,D]`.

    `joiner` comes between the placeholders of embeddings, and `suffix` follows them; texts stay as they are.
    """
    if prompt_set.embeddings is None:
        return np.asarray(pipe.encode_text(params, pipe.tokenize(list(prompt_set.texts))))
    count = prompt_set.embeddings.shape[1]
    ids = pipe.tokenize([name_placeholders(count, joiner) + suffix], count)
    return np.concatenate([pipe.encode_text(params, ids, embedding) for embedding in prompt_set.embeddings])
