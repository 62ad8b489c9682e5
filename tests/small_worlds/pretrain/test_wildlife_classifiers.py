"""The classifiers of the wildlife: their data, their optimiser and their size."""

import jax
import numpy as np
import pytest

from gap_jax.models.parameters import RUNNING_STATISTICS
from gap_jax.small_worlds import wildlife
from gap_jax.small_worlds.pretrain.recipes import TrainingPart, WildlifeRecipe
from gap_jax.small_worlds.pretrain.training import Training, initialiser, make_optimizer
from gap_jax.small_worlds.pretrain.wildlife import LARGE, SMALL, WORLD, pictures_of
from gap_jax.stages.classifier_tuning import masked_optimizer


@pytest.mark.parametrize("classes", [wildlife.BIRDS, wildlife.MAMMALS])
def test_critics_see_all_pictures_of_their_classes(classes, monkeypatch):
    words = [wildlife.draw_words(0, i) for i in range(60)]
    examples = [
        {
            axis: known.index(word)
            for (axis, known), word in zip(wildlife.AXES.items(), picture_words, strict=True)
        }
        | {"index": i, "label": wildlife.LABELS[picture_words.animal]}
        for i, picture_words in enumerate(words)
    ]
    training = Training(WildlifeRecipe(), WORLD)
    monkeypatch.setattr(training, "source", lambda config, split, decoders=None: examples)
    source = pictures_of(training, classes)
    chosen = [source[i] for i in range(len(source))]
    expected = [i for i, picture_words in enumerate(words) if picture_words.animal in classes]
    assert [example["index"] for example in chosen] == expected
    assert {example["label"] for example in chosen} == set(range(len(classes)))


@pytest.mark.parametrize("model", [SMALL, LARGE])
def test_batch_norm_follows_and_other_parameters_are_trained(model):
    model = model.clone(embedding_size=8, hidden_sizes=(16, 24, 32))  # fewer features, the same layers
    optimizer = masked_optimizer(make_optimizer(TrainingPart(10, 4, 1e-2, "muon")))
    params = initialiser(model.clone(num_labels=2))(jax.random.key(0))
    gradients = jax.tree.map(np.ones_like, params)
    state = jax.jit(optimizer.init)(params)
    update = jax.jit(optimizer.update)
    for _ in range(2):  # the rate is 0 in the first step
        updates, state = update(gradients, state, params)
    for path, change in jax.tree_util.tree_leaves_with_path(updates):
        if path[-1].key in RUNNING_STATISTICS:
            np.testing.assert_array_equal(change, -1)
        else:
            assert 0 < np.abs(change).max() < 0.1, path


def test_classifiers_are_small():
    size = 0
    for classes in (wildlife.BIRDS, wildlife.MAMMALS):
        for model in (SMALL, LARGE):
            model = model.clone(num_labels=len(classes))
            params = jax.eval_shape(model.init, jax.random.key(0), *model.example_inputs())
            size += sum(2 * leaf.size for leaf in jax.tree.leaves(params))
    assert size < 3e6
