"""The prompts of an arm, fixed texts or populations of embeddings, and the images that they are made from."""

from collections.abc import Sequence
from typing import NamedTuple

import jax
import numpy as np

from gap_jax.closed_loop.arms import Arm
from gap_jax.closed_loop.settings import Optimizing
from gap_jax.closed_loop.starts import population_size, starts
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


def initial_prompts(arm: Arm, world: World, config: Optimizing, seed: int) -> list[PromptSet]:
    """Return an arm's populations before optimisation; an arm that is not optimised keeps them.

    All arms of a seed begin at the same embeddings, drawn from the seed alone. Raises the errors of `starts`.
    """
    size = population_size(arm, config)
    embeddings = starts(
        world.generator.pipe,
        world.generator.params,
        config,
        size,
        jax.random.fold_in(jax.random.key(seed), 1),
        random=arm.prompts == "random",
    )
    names = tuple(f"<gap-{i}>" for i in range(size.prompts))
    return [PromptSet(names, embeddings, target, subset) for target, subset in populations(arm, world)]


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
    text = joiner.join(f"<{i}>" for i in range(count)) + suffix
    ids = pipe.tokenize([text], count)
    return np.concatenate([pipe.encode_text(params, ids, embedding) for embedding in prompt_set.embeddings])
