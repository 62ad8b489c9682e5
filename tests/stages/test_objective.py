"""The weighted sum of terms: its values, gradients, starts and keys; parameters are arguments."""

import chex
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from gap_jax.stages.objective import Sample, Term, adversarial, objective
from gap_jax.tasks import depth


def make_sample(seed=0):
    rng = np.random.default_rng(seed)
    label = {"depth": rng.random((3, 4, 4, 1), dtype=np.float32), "mask": rng.random((3, 4, 4, 1)) < 0.7}
    images = jnp.asarray(rng.random((3, 4, 4, 3), dtype=np.float32))
    context = jnp.asarray(rng.standard_normal((1, 5, 6), dtype=np.float32))
    return Sample(
        images, context, images.mean(-1, keepdims=True), label, jax.random.split(jax.random.key(seed), 3)
    )


def brightness(scale, sample):
    return scale * sample.images.mean((1, 2, 3))


def size(_, sample):
    return jnp.square(sample.context).mean()


@pytest.mark.parametrize("transform", [jax.jit, lambda f: f], ids=["jit", "no jit"])
def test_total_is_the_weighted_sum_of_the_terms_means(transform):
    sample = make_sample()
    terms = [
        adversarial(depth.negative_l1),
        Term("bright", brightness, jnp.float32(2), 10.0),
        Term("size", size),
    ]
    evaluate, params = objective(terms)
    total, values = transform(evaluate)(params, sample, 0)
    difference = np.abs(sample.prediction - sample.label["depth"]) * sample.label["mask"]
    expected = {
        "adversarial": -difference.mean(),
        "bright": 2 * np.mean(sample.images),
        "size": np.square(sample.context).mean(),
    }
    assert list(values) == list(expected)
    for name, value in values.items():
        assert value.shape == () and value.dtype == jnp.float32
        np.testing.assert_allclose(value, expected[name], rtol=1e-5)
    np.testing.assert_allclose(
        total, expected["adversarial"] + 10 * expected["bright"] + expected["size"], rtol=1e-5
    )


def test_a_term_starts_at_its_step_and_before_is_only_reported():
    chex.clear_trace_counter()
    sample = make_sample()
    evaluate, params = objective([Term("size", size), Term("bright", brightness, 1.0, weight=2.0, start=30)])

    @jax.jit
    @chex.assert_max_traces(n=1)
    def run(step):
        def total(images, context):
            return evaluate(params, sample._replace(images=images, context=context), step)

        return jax.value_and_grad(total, (0, 1), has_aux=True)(sample.images, sample.context)

    (before, values), (to_images, to_context) = run(29)
    assert before == values["size"]
    np.testing.assert_allclose(values["bright"], sample.images.mean(), rtol=1e-6)
    assert not to_images.any() and to_context.any()
    (after, values), (to_images, _) = run(30)
    np.testing.assert_allclose(after, values["size"] + 2 * values["bright"], rtol=1e-6)
    np.testing.assert_allclose(to_images, 2 / sample.images.size, rtol=1e-6)


def test_a_term_before_its_start_adds_nothing_even_if_not_finite():
    def infinite(_, sample):
        return (
            jnp.log(jnp.sum(sample.images - sample.images))
            + jnp.sqrt(sample.prediction - sample.prediction).sum()
        )

    sample = make_sample()
    evaluate, params = objective([Term("bright", brightness, 1.0), Term("late", infinite, start=5)])

    def total(images):
        prediction = images.mean(-1, keepdims=True)
        return evaluate(params, sample._replace(images=images, prediction=prediction), jnp.int32(4))

    (value, values), gradient = jax.value_and_grad(total, has_aux=True)(sample.images)
    assert value == values["bright"] and np.isneginf(values["late"])
    np.testing.assert_allclose(gradient, 1 / sample.images.size, rtol=1e-6)


def test_fidelity_to_a_stronger_model_is_a_term_like_any_other():
    def strong(params, images):
        return images @ params

    def fidelity(params, sample):
        return depth.l1(strong(params, sample.images), sample.label["depth"], sample.label["mask"])

    sample, weights = make_sample(), jnp.full((3, 1), 0.4)
    terms = [adversarial(depth.negative_l1), Term("fidelity", fidelity, weights, weight=0.5)]
    evaluate, params = objective(terms)
    total, values = evaluate(params, sample, 0)
    expected = depth.l1(strong(weights, sample.images), sample.label["depth"], sample.label["mask"]).mean()
    np.testing.assert_allclose(values["fidelity"], expected, rtol=1e-6)
    np.testing.assert_allclose(total, values["adversarial"] + 0.5 * expected, rtol=1e-6)


def test_large_parameters_are_arguments_of_the_program_not_constants():
    weights = jnp.ones((3, 100_000))
    evaluate, params = objective(
        [Term("wide", lambda w, sample: (sample.images @ w).mean((1, 2, 3)), weights)]
    )
    jaxpr = jax.make_jaxpr(evaluate)(params, make_sample(), 0)
    assert not [const for const in jaxpr.consts if np.size(const) > 1000]


def test_each_term_draws_for_each_image_from_its_own_key():
    drawn = {}

    def draw(name):
        def loss(_, sample):
            drawn[name] = jax.vmap(jax.random.normal)(sample.key)
            return drawn[name]

        return Term(name, loss)

    sample = make_sample()
    evaluate, params = objective([draw("a"), draw("b")])
    evaluate(params, sample, 0)
    first = dict(drawn)
    assert len({float(x) for values in first.values() for x in values}) == 6
    evaluate, params = objective([draw("b")])
    evaluate(params, jax.tree.map(lambda x: x[1:], sample), 0)
    np.testing.assert_array_equal(drawn["b"], first["b"][1:])


def test_a_population_is_a_vmap():
    samples = [make_sample(seed) for seed in range(3)]
    evaluate, params = objective(
        [adversarial(depth.negative_ssi_mae), Term("size", size, weight=3.0, start=1)]
    )
    together = jax.tree.map(lambda *leaves: jnp.stack(leaves), *samples)
    totals, _ = jax.vmap(evaluate, (None, 0, None))(params, together, 1)
    np.testing.assert_allclose(totals, [evaluate(params, sample, 1)[0] for sample in samples], rtol=1e-5)


@pytest.mark.parametrize(
    "terms, message",
    [
        ([], "at least one term"),
        ([Term("a", size), Term("a", brightness)], "two terms are named 'a'"),
        ([Term("a", size, weight=float("nan"))], "'a': weight must be finite, found nan"),
        ([Term("a", size, start=-1)], "'a': start must be a step from 0 on, found -1"),
    ],
)
def test_impossible_objectives_are_refused(terms, message):
    with pytest.raises(ValueError, match=message):
        objective(terms)


def test_a_term_that_is_not_reduced_is_named():
    evaluate, params = objective([Term("a", lambda _, sample: sample.images.mean(-1))])
    with pytest.raises(ValueError, match=r"'a' must return \[B\] or a scalar, found shape \[3, 4, 4\]"):
        evaluate(params, make_sample(), 0)
