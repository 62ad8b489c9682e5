"""Populations of prompts that run as one: which of them, and the step that all of their prompts share."""

import functools
from collections.abc import Callable, Hashable, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import Mesh

from gap_jax import parallel
from gap_jax.data.batch import HostBatch
from gap_jax.stages.prompt_optimizer import PromptOptimizer, PromptWeights

Step = Callable[[Any, Any, Any], tuple[Any, Any]]


def groups(devices: int, images: int, populations: Sequence[int]) -> list[list[int]]:
    """Return which populations to run as one, as lists of their positions in `populations`.

    `populations` are numbers of prompts, and `images` those of a step. Neighbours run together as long as no
    device computes more images at a time than for the largest of them alone: then the others use devices that
    would idle. On one device, every population runs alone.
    """

    def busiest(prompts: int) -> int:
        chosen = parallel.layout(devices, images, prompts)
        return chosen.images_each * chosen.prompts_each

    made: list[list[int]] = []
    for number, prompts in enumerate(populations):
        together = [*(populations[i] for i in made[-1]), prompts] if made else []
        if made and busiest(sum(together)) <= max(map(busiest, together)):
            made[-1].append(number)
        else:
            made.append([number])
    return made


class Program(NamedTuple):
    """The step of all prompts of populations that run as one, on a mesh.

    - `step(weights, state, batch) -> (state, metrics)`: is called with `weights`, the state of all prompts
      and what `feed` returns.
    - `feed(rows, batches)`: puts batches of `rows` images on the mesh, one for each population, from the
      `local_rows` of this process.
    """

    step: Step
    weights: Any
    feed: Callable[[int, Sequence[HostBatch]], dict[str, jax.Array]]


def join(
    optimizers: Sequence[PromptOptimizer], placed: Sequence[PromptWeights], counts: Sequence[int], mesh: Mesh
) -> Program:
    """Return the step of populations of `counts` prompts, whose optimisers differ in their weights only.

    `placed` are these weights, replicated on the mesh. What is the same array in all of them stays so; of
    everything else, each prompt gets its own.

    Raises ValueError for weights of another structure or of other shapes.
    """
    step = optimizers[0].step
    if len(optimizers) == 1:
        whole = parallel.population_step(step, mesh)
        return Program(whole, placed[0], lambda rows, batches: parallel.feed(mesh, rows, batches[0]))
    weights = [optimizer.weights for optimizer in optimizers]
    if len(set(map(shapes, weights))) > 1:
        raise ValueError("populations run as one only if the arrays of their weights have the same shapes")
    columns = list(zip(*map(jax.tree.leaves, weights), strict=True))
    same = tuple(all(leaf is column[0] for leaf in column) for column in columns)
    member_of = np.repeat(np.arange(len(counts)), counts).tolist()
    own = [
        jnp.stack([column[i] for i in member_of])
        for column, is_same in zip(columns, same, strict=True)
        if not is_same
    ]
    shared = [leaf for leaf, is_same in zip(jax.tree.leaves(placed[0]), same, strict=True) if is_same]
    joined = _joined_step(step, jax.tree.structure(weights[0]), same)

    def feed(rows: int, batches: Sequence[HostBatch]) -> dict[str, jax.Array]:
        return parallel.feed_each(mesh, rows, [batches[i] for i in member_of])

    return Program(
        parallel.population_step(joined, mesh, joined=True),
        (shared, parallel.split_prompts(mesh, own)),
        feed,
    )


def shapes(weights: Any) -> Hashable:
    """Return the structure, the shapes and the types of weights, equal for those that can run as one."""
    leaves, structure = jax.tree.flatten(weights)
    return structure, *((leaf.shape, leaf.dtype) for leaf in leaves)


@functools.cache  # the same function is compiled only once
def _joined_step(step: Step, structure: Any, same: tuple[bool, ...]) -> Step:
    """Return `step` with a pair of lists as its weights: the leaves that are the `same`, and the others."""

    def joined(weights: tuple[list[Any], list[Any]], state: Any, batch: Any) -> tuple[Any, Any]:
        shared, own = map(iter, weights)
        merged = [next(shared if is_same else own) for is_same in same]
        return step(jax.tree.unflatten(structure, merged), state, batch)

    return joined
