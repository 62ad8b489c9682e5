"""The prompts of an arm: fixed texts, or populations of embeddings that are drawn or optimised."""

from collections.abc import Sequence
from typing import NamedTuple

import jax
import numpy as np

from gap_jax import prompts
from gap_jax.closed_loop.arms import Arm
from gap_jax.closed_loop.settings import Optimizing
from gap_jax.closed_loop.world import TargetDomain, World
from gap_jax.diffusion.pipeline import Pipeline


class PromptSet(NamedTuple):
    """Prompts of an arm that share a target domain and a subset of the data.

    - `texts`: each prompt's text or, for embeddings, its name.
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

    def name(self, index: int) -> str:
        """Return a prompt's name within its arm, for data sets."""
        text = self.texts[index]
        return text if self.target is None and self.subset is None else f"{self.label}: {text}"


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
        sets.append(PromptSet(tuple(line.format(subset=subset) for line in specific), subset=subset))
    return sets


def targets_of(arm: Arm, world: World) -> dict[str, TargetDomain]:
    """Return the target domains that have the form which an arm's guidance needs, by name."""
    return {
        name: target
        for name, target in world.targets.items()
        if (target.images is not None or not arm.guidance)
        and (target.text is not None or not arm.text_guidance)
        and (target.pictures is not None or not arm.inversion)
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


def initial_prompts(arm: Arm, world: World, config: Optimizing, seed: int) -> list[PromptSet]:
    """Return an arm's populations before optimisation; an arm that is not optimised keeps them.

    All arms of a seed begin at the same embeddings, drawn from the seed alone.
    """
    keys = jax.random.split(jax.random.fold_in(jax.random.key(seed), 1), config.prompts)
    word = None if arm.prompts == "random" else config.start
    starts = np.stack([_start(world, config, word, key) for key in keys])
    names = tuple(f"<gap-{i}>" for i in range(config.prompts))
    return [PromptSet(names, starts, target, subset) for target, subset in populations(arm, world)]


def _start(world: World, config: Optimizing, word: str | None, key: jax.Array) -> jax.Array:
    """Return the embeddings `[n,D]` that one prompt begins as: a word's, or drawn from the vocabulary."""
    generator = world.generator
    if word is None:
        return prompts.from_vocabulary(generator.params, config.placeholders, key)
    return prompts.from_word(generator.pipe, generator.params, word, config.placeholders)


def source_rows(world: World, subset: str | None) -> np.ndarray:
    """Return the numbers of the original examples that prompts of a subset generate from.

    Without a subset, they are those of all subsets or, where the data has none, all numbers.
    """
    subsets = world.data.subsets
    if subset is not None:
        return subsets[subset]
    return np.concatenate(list(subsets.values())) if subsets else np.arange(len(world.data.original))


def contexts(pipe: Pipeline, params: dict, prompt_set: PromptSet, suffix: str) -> np.ndarray:
    """Return the text states of prompts, float32 `[prompts,L,D]`; `suffix` follows embeddings only."""
    if prompt_set.embeddings is None:
        return np.asarray(pipe.encode_text(params, pipe.tokenize(list(prompt_set.texts))))
    count = prompt_set.embeddings.shape[1]
    text = ",".join(f"<{i}>" for i in range(count)) + suffix
    ids = pipe.tokenize([text], count)
    return np.concatenate([pipe.encode_text(params, ids, embedding) for embedding in prompt_set.embeddings])
