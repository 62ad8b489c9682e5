"""The settings, captions and vocabulary that all trainings of a recipe share."""

import dataclasses

import jax
import numpy as np
import pytest

import gap_jax
from gap_jax.small_worlds.pretrain import rooms, training, wildlife
from gap_jax.small_worlds.pretrain.__main__ import parse
from gap_jax.small_worlds.pretrain.recipes import RECIPES, RoomsRecipe, WildlifeRecipe
from gap_jax.small_worlds.pretrain.training import TOKENS, Training

WORLDS = {"rooms": rooms.WORLD, "wildlife": wildlife.WORLD}


@pytest.fixture(params=WORLDS)
def small(request):
    """The training of a world with its default recipe."""
    return Training(RECIPES[request.param](), WORLDS[request.param])


def test_a_world_has_settings_of_its_own():
    assert parse([]) == RoomsRecipe()
    recipe = parse(["--iwildcam-critic.steps", "7", "--world", "wildlife"])
    part = dataclasses.replace(WildlifeRecipe().iwildcam_critic, steps=7)
    assert recipe == WildlifeRecipe(iwildcam_critic=part)
    assert recipe.work != parse([]).work


@pytest.fixture
def train_calls(monkeypatch):
    """The arguments of `gap_jax.stages.train.train`, which is not run."""
    calls = []
    monkeypatch.setattr(training, "train", lambda *args, **options: calls.append((args, options)))
    return calls


@pytest.mark.parametrize("world", WORLDS)
def test_folders_of_rooms_go_on_and_are_not_taken_for_other_worlds(world, train_calls, tmp_path):
    recipe = dataclasses.replace(RECIPES[world](), work=tmp_path)
    Training(recipe, WORLDS[world]).train(
        "refine", recipe.refine, None, lambda key: jax.random.key_data(key), None, None
    )
    (_, start, *_), options = train_calls[0]
    config = {"seed": 0, "dtype": "float32", "few": False}
    config |= dataclasses.asdict(recipe.refine)
    assert options["config"] == config | ({"world": "wildlife"} if world == "wildlife" else {})
    init_key, train_key = jax.random.split(jax.random.fold_in(jax.random.key(0), 5))
    assert options["folder"] == tmp_path / "refine" and options["key"] == train_key
    np.testing.assert_array_equal(start, jax.random.key_data(init_key))


def test_captions_leave_words_out_as_often_as_they_should(small):
    random, words = np.random.default_rng(0), [known[-1] for known in small.world.axes.values()]
    example = {axis: len(known) - 1 for axis, known in small.world.axes.items()}
    captions = [small.caption(example, random, empty=0.1) for _ in range(2000)]
    spoken = [caption.replace(",", "").split() for caption in captions if caption]
    assert len(spoken) / len(captions) == pytest.approx(0.9, abs=0.03)
    for word, probability in zip(words, small.world.known_probabilities(words), strict=True):
        assert np.mean([word in caption for caption in spoken]) == pytest.approx(probability, abs=0.03)


def test_the_vocabulary_holds_every_word_whole(small):
    for words in small.world.axes.values():
        for word in words:
            ids = small.tokens(word)
            pieces = 3 if word == "dik-dik" else 1  # the hyphen is always one of its own
            assert (ids == ids[-1]).sum() == TOKENS - 1 - pieces


def test_the_vocabulary_of_rooms_is_the_shipped_models():
    small = Training(RoomsRecipe(), rooms.WORLD)
    pipe, _ = gap_jax.load_pipeline("small")
    assert small.tokenizer == pipe.tokenizer and small.vocab_size == pipe.text_encoder.vocab_size
