"""The prompts of arms: texts for subsets, populations for targets, and the text states that images get."""

import dataclasses

import diffusers
import numpy as np
import pytest

import gap_jax
from gap_jax import prompts
from gap_jax.closed_loop.arm_prompts import (
    PromptSet,
    contexts,
    generating_rows,
    optimizing_rows,
    populations,
    text_prompts,
    token_owner,
    tokens,
)
from gap_jax.closed_loop.arms import ARMS
from gap_jax.closed_loop.programs import Programs
from gap_jax.closed_loop.settings import Optimizing, Settings
from gap_jax.closed_loop.terms import adversarial_start
from gap_jax.experiments.depth.settings import SmallRooms
from gap_jax.experiments.depth.small_world import build
from gap_jax.stages.optimize import save_prompts
from tests.torch_references.folders import relative_error


@pytest.fixture(scope="module")
def world():
    return build(SmallRooms(original=2), held_out=1)


def test_a_text_with_a_subset_becomes_one_for_each():
    assert text_prompts(("a {subset} {x", "nature {"), ("cat", "dog")) == [
        PromptSet(("nature {",)),
        PromptSet(("a cat {x",), subset="cat"),
        PromptSet(("a dog {x",), subset="dog"),
    ]
    why = r"'a \{subset\}' has \{subset\}, but the data has no subsets: remove it from the prompt"
    with pytest.raises(ValueError, match=why):
        text_prompts(("a {subset}",), ())


def test_populations_are_for_targets_and_for_subsets_with_prompts_of_their_own(world):
    guided, adversarial = ARMS["guided"], ARMS["adversarial"]
    assert populations(guided, world) == [("fog", None), ("blur", None)]
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
    programs = Programs(Settings(arms=("adversarial", "guided"), optimizing=config), world)
    first, *others = (programs.initial_prompts(ARMS[arm], 0) for arm in programs.settings.arms)
    for prompt_set in others[0]:
        np.testing.assert_array_equal(prompt_set.embeddings, first[0].embeddings)
    (other,) = programs.initial_prompts(ARMS["adversarial"], 1)
    assert np.abs(other.embeddings - first[0].embeddings).min(axis=(1, 2)).max() > 0
    assert first[0].label == "all" and others[0][0].label == "fog"
    assert first[0].texts == ("<gap-0>", "<gap-1>")


def test_diffusers_loads_the_prompts_of_all_arms_together(sd15, tmp_path):
    random = np.random.default_rng(0)
    places = [
        ("guided", "foggy", None),
        ("guided-adversarial", "foggy", None),
        ("guided", "Rain, 雪_1", "a"),
    ]
    sets = [PromptSet(tokens(*place, 2), random.standard_normal((2, 3, 48), np.float32)) for place in places]
    pipe = diffusers.StableDiffusionControlNetPipeline.from_pretrained(sd15.folder, safety_checker=None)
    for i, prompt_set in enumerate(sets):
        folder = tmp_path / str(i)
        save_prompts(sd15.pipe, sd15.params, prompt_set.embeddings, folder, prompt_set.texts, {})
        for j in range(2):
            pipe.load_textual_inversion(str(folder / str(j)))
    for prompt_set in sets:
        ours = contexts(sd15.pipe, sd15.params, prompt_set, ", photo", joiner="")
        for j in range(2):
            text = prompt_set.prompt(j, ", photo")
            theirs, _ = pipe.encode_prompt(text, "cpu", 1, do_classifier_free_guidance=False)
            assert relative_error(ours[j], theirs[0].detach()) < 1e-4
    assert PromptSet(("a room",)).prompt(0, ", photo") == "a room"


def test_tokens_name_the_arm_whose_prompts_they_are_and_any_seed_but_the_first():
    assert token_owner(0, "adversarial-sdedit") == "adversarial"
    assert token_owner(0, "adversarial-sdedit", 1) == "adversarial-sdedit-iteration-2"
    assert token_owner(4, "guided") == "seed-4-guided"


def test_guided_arms_have_prompts_for_each_target_and_the_random_arm_its_own_number(world):
    config = Optimizing(prompts=4, prompts_per_target=1, placeholders=2)
    config = dataclasses.replace(config, random_prompts=5, random_placeholders=1)
    programs = Programs(Settings(arms=("adversarial", "guided", "agnostic-random"), optimizing=config), world)
    shapes = {
        arm: [prompt_set.embeddings.shape[:2] for prompt_set in programs.initial_prompts(ARMS[arm], 0)]
        for arm in programs.settings.arms
    }
    assert shapes == {"adversarial": [(4, 2)], "guided": [(1, 2), (1, 2)], "agnostic-random": [(5, 1)]}


def test_only_guided_prompts_wait_for_the_adversarial_loss():
    config = Optimizing(adversarial_start=2000)
    starts = [adversarial_start(ARMS[arm], config) for arm in ("adversarial", "guided-adversarial")]
    assert starts == [0, 2000]


def test_prompts_are_made_from_the_examples_of_their_subset_that_suit_their_target(world):
    subsets = {"a": np.array([3, 1]), "b": np.array([0, 2, 4, 5])}
    targets = {"night": gap_jax.TargetDomain(images=np.zeros(0), sources=np.array([4, 3, 9]))}
    world = dataclasses.replace(world, data=dataclasses.replace(world.data, subsets=subsets), targets=targets)
    of_all, at_night = PromptSet(("x",)), PromptSet(("x",), target="night")
    of_b = PromptSet(("x",), subset="b", target="night")
    assert generating_rows(world, of_all, False).tolist() == [3, 1, 0, 2, 4, 5]
    assert generating_rows(world, of_all, True).tolist() == [3, 1, 3, 1, 0, 2, 4, 5]
    assert generating_rows(world, at_night, False).tolist() == [3, 4]
    assert generating_rows(world, of_b, True).tolist() == [4]
    assert set(optimizing_rows(world, at_night, None, 0)) == {3, 4}
    for seed in range(3):
        chosen = optimizing_rows(world, of_all, 4, seed)  # two of each subset
        assert len(chosen) == 4 and set(chosen[:2]) == {3, 1} and set(chosen[2:]) < {0, 2, 4, 5}
    nowhere = PromptSet(("x",), subset="a", target="night")
    world.targets["night"].sources[:] = 9
    with pytest.raises(ValueError, match=r"no original image of a is among the sources of .*'night': leave"):
        generating_rows(world, nowhere, False)


def test_prompts_start_from_earlier_ones_or_from_their_distribution(world, tmp_path):
    width = world.generator.pipe.text_encoder.hidden_size
    earlier = np.random.default_rng(0).standard_normal((3, 2, width), np.float32)
    for i, prompt in enumerate(earlier):
        prompts.save(tmp_path / "run" / str(i) / "learned_embeds.safetensors", prompt)
    folder = Optimizing(prompts=4, placeholders=2, earlier=(tmp_path / "run",))

    def started(config, arm="adversarial"):
        programs = Programs(Settings(arms=(arm,), optimizing=config), world)
        return programs.initial_prompts(ARMS[arm], 0)[0].embeddings

    np.testing.assert_array_equal(started(folder), earlier[[0, 1, 2, 0]])
    np.testing.assert_array_equal(
        started(folder, "agnostic-random"), started(Optimizing(prompts=4, placeholders=2), "agnostic-random")
    )
    many = dataclasses.replace(folder, prompts=400, placeholders=1)
    words = earlier.reshape(-1, width)
    vocabulary = np.asarray(prompts.vocabulary(world.generator.params))
    room = np.asarray(prompts.from_word(world.generator.pipe, world.generator.params, "room", 1))[0]
    for use, start, mean in (
        ("mean-covariance", None, words.mean(0)),
        ("covariance", None, vocabulary.mean(0)),
        ("covariance", "room", room),
    ):
        for arm in ("adversarial", "agnostic-random"):
            drawn = started(dataclasses.replace(many, earlier_use=use, start=start), arm)[:, 0]
            np.testing.assert_allclose(drawn.mean(0), mean, atol=0.3)
            covariance = np.cov(words, rowvar=False)
            np.testing.assert_allclose(np.trace(np.cov(drawn, rowvar=False)), np.trace(covariance), rtol=0.1)
    rows = {row.tobytes() for row in vocabulary}
    random_words = started(Optimizing(prompts=2, start="*"))
    assert {row.tobytes() for row in random_words.reshape(-1, width)} <= rows
    with pytest.raises(ValueError, match=r"must have 3 placeholders to start from them, found 2: set"):
        started(dataclasses.replace(folder, placeholders=3))
    prompts.save(tmp_path / "other.safetensors", np.zeros((2, width + 1), np.float32))
    with pytest.raises(ValueError, match=rf"must have {width} numbers .* found {width + 1}: they are"):
        started(dataclasses.replace(folder, earlier=(tmp_path / "other.safetensors",)))
    (tmp_path / "empty").mkdir()
    with pytest.raises(FileNotFoundError, match="empty has no prompts: it must hold files named learned_emb"):
        started(dataclasses.replace(folder, earlier=(tmp_path / "empty",)))


def test_a_suffix_follows_embeddings_but_not_texts(world):
    pipe, params = world.generator.pipe, world.generator.params
    programs = Programs(Settings(arms=("adversarial",), optimizing=Optimizing(prompts=1)), world)
    (drawn,) = programs.initial_prompts(ARMS["adversarial"], 0)
    found = contexts(pipe, params, drawn, ", red")
    ids = pipe.tokenize(["<0>,<1>,<2>, red"], 3)
    np.testing.assert_array_equal(found[0], pipe.encode_text(params, ids, drawn.embeddings[0])[0])
    assert np.abs(found - contexts(pipe, params, drawn, "")).max() > 0.01
    joined = contexts(pipe, params, drawn, ", red", "")
    ids = pipe.tokenize(["<0><1><2>, red"], 3)
    np.testing.assert_array_equal(joined[0], pipe.encode_text(params, ids, drawn.embeddings[0])[0])
    text = PromptSet(("a red room",))
    np.testing.assert_array_equal(
        contexts(pipe, params, text, ", red"), pipe.encode_text(params, pipe.tokenize(["a red room"]))
    )
