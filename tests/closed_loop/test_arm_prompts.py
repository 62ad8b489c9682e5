"""The prompts of arms: texts for subsets, populations for targets, and the text states that images get."""

import dataclasses

import numpy as np
import pytest

import gap_jax
from gap_jax.closed_loop.arm_prompts import PromptSet, contexts, initial_prompts, populations, text_prompts
from gap_jax.closed_loop.arms import ARMS
from gap_jax.closed_loop.settings import Optimizing
from gap_jax.experiments.depth.settings import SmallRooms
from gap_jax.experiments.depth.small_world import build


@pytest.fixture(scope="module")
def world():
    return build(SmallRooms(original=2), held_out=1)


def test_a_text_with_a_subset_becomes_one_for_each():
    assert text_prompts(("a {subset}", "nature"), ("cat", "dog")) == [
        PromptSet(("nature",)),
        PromptSet(("a cat",), subset="cat"),
        PromptSet(("a dog",), subset="dog"),
    ]
    why = r"'a \{subset\}' has \{subset\}, but the data has no subsets: remove it from the prompt"
    with pytest.raises(ValueError, match=why):
        text_prompts(("a {subset}",), ())


def test_populations_are_for_targets_and_for_subsets_with_prompts_of_their_own(world):
    guided, adversarial = ARMS["guided"], ARMS["adversarial"]
    assert populations(guided, world) == [("foggy", None), ("checkered", None)]
    assert populations(adversarial, world) == [(None, None)]
    subsets = {"a": np.array([0]), "b": np.array([1])}
    data = dataclasses.replace(world.data, subsets=subsets, prompts_per_subset=True)
    targets = {
        "fog": gap_jax.TargetDomain(images=np.zeros(0)),
        "sea": gap_jax.TargetDomain(images=np.zeros(0), subset="b"),
    }
    world = dataclasses.replace(world, data=data, targets=targets)
    assert populations(adversarial, world) == [(None, "a"), (None, "b")]
    assert populations(guided, world) == [("fog", "a"), ("fog", "b"), ("sea", "b")]


def test_all_arms_of_a_seed_begin_alike_and_seeds_do_not(world):
    config = Optimizing(prompts=2)
    first, *others = (initial_prompts(ARMS[arm], world, config, 0) for arm in ("adversarial", "guided"))
    for prompt_set in others[0]:
        np.testing.assert_array_equal(prompt_set.embeddings, first[0].embeddings)
    (other,) = initial_prompts(ARMS["adversarial"], world, config, 1)
    assert np.abs(other.embeddings - first[0].embeddings).min(axis=(1, 2)).max() > 0
    assert first[0].label == "all" and others[0][0].label == "foggy"
    assert first[0].name(1) == "<gap-1>" and others[0][0].name(1) == "foggy: <gap-1>"


def test_a_suffix_follows_embeddings_but_not_texts(world):
    pipe, params = world.generator.pipe, world.generator.params
    (drawn,) = initial_prompts(ARMS["adversarial"], world, Optimizing(prompts=1), 0)
    found = contexts(pipe, params, drawn, ", red")
    ids = pipe.tokenize(["<0>,<1>,<2>, red"], 3)
    np.testing.assert_array_equal(found[0], pipe.encode_text(params, ids, drawn.embeddings[0])[0])
    assert np.abs(found - contexts(pipe, params, drawn, "")).max() > 0.01
    text = PromptSet(("a red room",))
    np.testing.assert_array_equal(
        contexts(pipe, params, text, ", red"), pipe.encode_text(params, pipe.tokenize(["a red room"]))
    )
