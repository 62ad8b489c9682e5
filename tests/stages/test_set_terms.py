"""Set terms against scipy and torch: their values, and their gradients however the set is spread."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
import torch
from scipy.spatial.distance import cdist
from scipy.special import logsumexp

from gap_jax.stages.objective import Sample, SetTerm, Term, objective
from gap_jax.stages.set_terms import diversity, mean_similarity, set_guidance, soft_chamfer
from tests.stages.test_guidance import pictures, torch_features
from tests.torch_references.folders import nchw, nhwc, relative_error
from tests.toy_prompts import (
    DEPTH,
    PLACEHOLDERS,
    PROMPTS,
    ROWS,
    STARTS,
    WIDTH,
    toy_optimizer,
    vectors,
    whole_gradient,
)


@pytest.mark.parametrize("temperature", [1e-3, 0.02, 1.0])
def test_the_smoothed_chamfer_distance_is_scipys_formula(temperature):
    features, targets = vectors(7, 5), vectors(4, 5, seed=1)
    distances = cdist(features, targets, "cosine")
    to_targets = -temperature * (logsumexp(-distances / temperature, 1) - np.log(4))
    to_features = -temperature * (logsumexp(-distances / temperature, 0) - np.log(7))
    expected = (to_targets.mean() + to_features.mean()) / 2
    np.testing.assert_allclose(soft_chamfer(features, targets, temperature), expected, rtol=1e-5)


def test_without_smoothing_it_is_the_distance_of_nearest_neighbours():
    features, targets = vectors(7, 5), vectors(4, 5, seed=1)
    distances = cdist(features, targets, "cosine")
    exact = (distances.min(0).mean() + distances.min(1).mean()) / 2
    np.testing.assert_allclose(soft_chamfer(features, targets, 1e-6), exact, rtol=1e-4)
    assert exact < soft_chamfer(features, targets, 0.05) < exact + 0.05 * np.log(7)


def torch_chamfer(features, targets, temperature):
    distances = 1 - torch.nn.functional.cosine_similarity(features[:, None], targets[None], dim=-1)

    def nearest(axis):
        mean = torch.exp(-distances / temperature).mean(axis)
        return (-temperature * torch.log(mean)).mean()

    return (nearest(0) + nearest(1)) / 2


def torch_diversity(features):
    """Return the mean similarity over all pairs of rows of `[P,N,D]` from different prompts."""
    count = len(features)
    pairs = torch.nn.functional.cosine_similarity(features[:, :, None, None], features[None, None], dim=-1)
    other = 1 - torch.eye(count)
    return (pairs.mean((1, 3)) * other).sum() / other.sum()


def torch_population(clip, images, loss):
    """Return a loss of all images of a population `[P,N,H,W,3]`, and its gradient to them."""
    variable = nchw(images.reshape(-1, *images.shape[2:])).requires_grad_()
    features = torch_features(clip, variable)
    value = loss(features.reshape(*images.shape[:2], -1))
    value.backward()
    return value.item(), nhwc(variable.grad).reshape(images.shape)


def test_set_guidance_and_diversity_of_a_population_equal_torchs(clip):
    images, targets = pictures(4, 56, 56).reshape(2, 2, 56, 56, 3), pictures(3, 64, 72, seed=1)
    temperature = 0.02
    terms = [
        SetTerm("set", *set_guidance(clip.clip, clip.params, targets, temperature)),
        SetTerm("diversity", *diversity(clip.clip, clip.params)),
    ]
    of_targets = torch_features(clip, nchw(targets)).detach()

    def torch_set(features):
        return torch_chamfer(features.flatten(0, 1), of_targets, temperature)

    for term, reference in zip(terms, (torch_set, torch_diversity), strict=True):

        @jax.jit
        def total(images, params, term=term):
            sample = Sample(images.reshape(-1, 56, 56, 3), None, None, {}, None)
            return term.loss(params, term.features(params, sample).reshape(2, 2, -1))

        value, gradient = jax.value_and_grad(total)(images, term.params)
        expected, expected_gradient = torch_population(clip, images, reference)
        np.testing.assert_allclose(value, expected, rtol=1e-4)
        assert relative_error(gradient, expected_gradient) < 1e-3
        assert "text_model" not in term.params["clip"]


def test_a_mean_of_targets_is_matched_by_one_kind_of_image_but_a_set_by_all():
    """Two kinds of targets; four features that may turn freely, all begun near the first kind."""
    kinds = np.float32([[1, 0, 0], [0, 1, 0]])
    targets = np.repeat(kinds, 4, 0)
    features = kinds[:1] + 0.1 * vectors(4, 3)
    optimizer = optax.adam(0.05)

    @jax.jit
    def update(_, carry):
        features, state = carry
        changes, state = optimizer.update(jax.grad(soft_chamfer)(features, targets, 0.1), state)
        return optax.apply_updates(features, changes), state

    features, _ = jax.lax.fori_loop(0, 200, update, (features, optimizer.init(features)))
    distances = cdist(features, kinds, "cosine")
    assert (distances.min(0) < 0.02).all() and (distances.min(1) < 0.02).all()


def test_diversity_is_the_mean_over_pairs_of_images_of_different_prompts():
    features = vectors(3, 4, 5)
    pairs = [
        1 - cdist(features[i], features[j], "cosine").mean() for i in range(3) for j in range(3) if i != j
    ]
    np.testing.assert_allclose(mean_similarity(None, features), np.mean(pairs), rtol=1e-5)
    with pytest.raises(ValueError, match="optimise two or more together"):
        mean_similarity(None, features[:1])


@pytest.mark.parametrize("temperature", [0.0, -1.0, float("nan")])
def test_a_temperature_that_is_not_positive_is_refused(clip, temperature):
    with pytest.raises(ValueError, match="temperature must be positive; found"):
        set_guidance(clip.clip, clip.params, pictures(1, 56, 56), temperature)


def test_a_set_term_alone_has_the_sample_as_its_set_and_starts_at_its_step():
    images = jnp.asarray(vectors(3, 2, 2, 3))
    term = SetTerm("set", lambda scale, sample: scale * sample.images.mean((1, 2)), spread, 2.0, 10.0, 5)
    evaluate, params = objective([term, Term("zero", lambda _, sample: jnp.float32(0))])

    def total(images, step):
        return evaluate(params, Sample(images, None, None, {}, None), step)[0]

    expected = 10 * jnp.square(2 * images.mean((1, 2))).max(0).sum()
    np.testing.assert_allclose(total(images, 5), expected, rtol=1e-6)
    assert total(images, 4) == 0 and not jax.grad(total)(images, 4).any()
    np.testing.assert_allclose(
        jax.grad(total)(images, 5),
        jax.grad(lambda images: 10 * jnp.square(2 * images.mean((1, 2))).max(0).sum())(images),
        rtol=1e-5,
    )


def spread(_, features):
    """A loss that depends on all images at once."""
    return jnp.square(features).max((0, 1)).sum()


@pytest.mark.parametrize(
    ("term", "message"),
    [
        (SetTerm("a", lambda _, sample: sample.images, spread), r"'a': features must have shape \[3, D\]"),
        (SetTerm("a", lambda _, sample: sample.images[:2, 0, 0], spread), r"found \[2, 3\]"),
        (
            SetTerm("a", lambda _, sample: sample.images[:, 0, 0], lambda _, features: features),
            r"'a' must return a scalar, found shape \[1, 3, 3\]",
        ),
    ],
)
def test_set_terms_of_other_shapes_are_named(term, message):
    evaluate, params = objective([term])
    with pytest.raises(ValueError, match=message):
        evaluate(params, Sample(jnp.ones((3, 2, 2, 3)), None, None, {}, None), 0)


@pytest.mark.parametrize("devices", [1, 2])
@pytest.mark.parametrize("accumulation", [1, 2])
def test_the_gradient_is_that_of_the_whole_set_over_prompts_micro_batches_and_devices(devices, accumulation):
    """Mapped axes stand for devices; test_distributed.py has real ones."""
    made = toy_optimizer(accumulation, "data")
    by_data = jax.vmap(made.step, (None, None, 0), axis_name="data")
    by_population = jax.vmap(by_data, (None, 0, None), axis_name="population")
    step = jax.jit(jax.vmap(by_population, (None, 0, None), axis_name="prompt"))
    states = jax.vmap(made.init)(jax.random.split(jax.random.key(0), PROMPTS), STARTS)
    states = jax.tree.map(lambda leaf: leaf.reshape(2, 2, *leaf.shape[1:]), states)
    batch = {"depth": DEPTH.reshape(devices, ROWS // devices, *DEPTH.shape[1:])}
    after, metrics = step(made.weights, states, batch)

    (_, distance), gradient = whole_gradient()
    np.testing.assert_allclose(metrics["set"], np.full((2, 2, devices), distance), rtol=1e-5)
    update = after.embeddings.reshape(PROMPTS, devices, PLACEHOLDERS, WIDTH) - STARTS[:, None]
    for device in range(devices):
        assert relative_error(update[:, device], -gradient) < 1e-4


def test_without_axes_of_a_population_each_prompt_is_a_set_of_its_own():
    def distances(population_axes):
        made = toy_optimizer(population_axes=population_axes)
        states = jax.vmap(made.init)(jax.random.split(jax.random.key(0), PROMPTS), STARTS)
        step = jax.jit(jax.vmap(made.step, (None, 0, None), axis_name="population"))
        return step(made.weights, states, {"depth": DEPTH})[1]["set"]

    assert len(set(distances(()).tolist())) == PROMPTS
    assert np.ptp(distances(("population",))) < 1e-6
