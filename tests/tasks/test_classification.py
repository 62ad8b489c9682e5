"""Classification losses, and their gradients, against torch's cross-entropy."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import torch
import torch.nn.functional as F
from sklearn.utils.class_weight import compute_class_weight

from gap_jax.tasks import classification


def batch(classes):
    rng = np.random.default_rng(classes)
    return 3 * rng.standard_normal((5, classes), dtype=np.float32), rng.integers(0, classes, 5)


def torch_uniform(logits, labels):
    classes = logits.shape[-1]
    target = torch.full_like(logits, 1 / classes)
    return F.cross_entropy(logits, target, reduction="none") - np.log(classes)


def torch_cross_entropy(logits, labels):
    return F.cross_entropy(logits, labels, reduction="none")


WEIGHTS = [0.5, 2, 1, 0.1, 1, 3, 1]


def torch_weighted(logits, labels):
    weights = torch.tensor(WEIGHTS, dtype=torch.float64)
    return F.cross_entropy(logits, labels, weights, reduction="none")


LOSSES = {
    "other_class_cross_entropy": (
        2,
        classification.other_class_cross_entropy(),
        lambda x, y: torch_cross_entropy(0.5 * x, 1 - y),
    ),
    "other_class_cross_entropy, temperature 2": (
        2,
        classification.other_class_cross_entropy(2.0),
        lambda x, y: torch_cross_entropy(2 * x, 1 - y),
    ),
    "background_cross_entropy": (
        7,
        classification.background_cross_entropy,
        lambda x, y: torch_cross_entropy(x, torch.zeros_like(y)),
    ),
    "uniform_cross_entropy": (7, classification.uniform_cross_entropy, torch_uniform),
    "negative_cross_entropy": (
        7,
        classification.negative_cross_entropy,
        lambda x, y: -torch_cross_entropy(x, y),
    ),
    "weighted_cross_entropy": (7, classification.weighted_cross_entropy(WEIGHTS), torch_weighted),
    "cross_entropy": (
        7,
        lambda x, label: classification.cross_entropy(x, label["label"]),
        torch_cross_entropy,
    ),
}


@pytest.mark.parametrize("transform", [jax.jit, lambda f: f], ids=["jit", "no jit"])
@pytest.mark.parametrize("name", LOSSES)
def test_losses_and_gradients_equal_torchs(name, transform):
    classes, ours, theirs = LOSSES[name]
    logits, labels = batch(classes)
    weights = np.arange(1, 6, dtype=np.float32)
    variable = torch.tensor(logits, dtype=torch.float64, requires_grad=True)
    expected = theirs(variable, torch.from_numpy(labels))
    (expected * torch.from_numpy(weights)).sum().backward()

    value, pull = jax.vjp(transform(lambda x: ours(x, {"label": jnp.asarray(labels)})), logits)
    np.testing.assert_allclose(value, expected.detach(), rtol=1e-5, atol=1e-6)
    np.testing.assert_allclose(pull(jnp.asarray(weights))[0], variable.grad, rtol=1e-4, atol=1e-6)


def test_the_uniform_loss_is_zero_for_equal_logits():
    np.testing.assert_allclose(
        classification.uniform_cross_entropy(jnp.full((2, 7), 4.0), {"label": jnp.zeros(2, int)}),
        0,
        atol=1e-6,
    )


@pytest.mark.parametrize("name", LOSSES)
def test_losses_of_half_precision_logits_are_float32(name):
    classes, loss, _ = LOSSES[name]
    logits, labels = batch(classes)
    half, label = jnp.asarray(logits, jnp.bfloat16), {"label": jnp.asarray(labels)}
    assert loss(half, label).dtype == jnp.float32
    np.testing.assert_array_equal(loss(half, label), loss(half.astype(jnp.float32), label))


def test_class_weights_make_classes_count_alike():
    labels = np.array([0, 0, 0, 1, 2, 2])
    weights = classification.class_weights(labels, 3)
    np.testing.assert_allclose(weights, compute_class_weight("balanced", classes=np.arange(3), y=labels))
    assert weights[labels].mean() == pytest.approx(1)
    with pytest.raises(ValueError, match="class 3 has no image"):
        classification.class_weights(labels, 4)


def test_class_weights_of_other_classes_are_refused():
    logits, labels = batch(2)
    with pytest.raises(
        ValueError, match=r"logits must have shape \[\*, 7\], found \[5, 2\]: .*weight per class"
    ):
        classification.weighted_cross_entropy(WEIGHTS)(logits, {"label": labels})


def test_other_class_refuses_three_classes():
    logits, labels = batch(3)
    with pytest.raises(
        ValueError, match=r"logits must have shape \[\*, 2\], found \[5, 3\]: .*for two classes"
    ):
        classification.other_class_cross_entropy()(logits, {"label": labels})


def test_losses_refuse_wrong_shapes():
    logits, labels = batch(7)
    with pytest.raises(ValueError, match=r"logits must have shape \[\*, \*\], found \[7\]"):
        classification.cross_entropy(logits[0], labels)
    with pytest.raises(ValueError, match=r"labels must have shape \[5\], found \[5, 1\]"):
        classification.cross_entropy(logits, labels[:, None])


@pytest.mark.parametrize("wrong", [-1, 7])
def test_labels_outside_the_classes_are_named(wrong):
    classification.check_labels(np.array([0, 3, 6]), 7)
    with pytest.raises(ValueError, match=rf"image 1: label must be a class in 0\.\.6, found {wrong}"):
        classification.check_labels(np.array([0, wrong, 6]), 7)


@pytest.mark.parametrize("labels", [np.array([0.0, 1.0]), np.array([[0, 1]]), np.eye(2, dtype=int)])
def test_labels_that_are_no_class_numbers_are_refused(labels):
    with pytest.raises(ValueError, match=r"labels must be integers of shape \[B\], found"):
        classification.check_labels(labels, 2)


def test_a_mixed_loss_is_the_loss_to_mixed_labels():
    logits = jnp.asarray(np.random.default_rng(0).normal(size=(4, 3)), jnp.float32)
    batch = {
        "label": jnp.array([0, 1, 2, 2]),
        "label_b": jnp.array([1, 1, 0, 2]),
        "lam": jnp.array([1, 0.3, 0.6, 0]),
    }

    def loss(prediction, batch):
        return classification.cross_entropy(prediction, batch["label"])

    lam = batch["lam"][:, None]
    soft = lam * jax.nn.one_hot(batch["label"], 3) + (1 - lam) * jax.nn.one_hot(batch["label_b"], 3)
    expected = -(soft * jax.nn.log_softmax(logits)).sum(-1)
    np.testing.assert_allclose(jax.jit(classification.cut_mix_loss(loss))(logits, batch), expected, rtol=1e-5)
    plain = {"label": batch["label"]}
    np.testing.assert_array_equal(classification.cut_mix_loss(loss)(logits, plain), loss(logits, plain))
    weighted_loss = classification.weighted_cross_entropy([1.0, 2.0, 4.0])
    weighted = classification.cut_mix_loss(weighted_loss)(logits, batch)
    np.testing.assert_allclose(
        weighted, -(soft * jnp.array([1, 2, 4]) * jax.nn.log_softmax(logits)).sum(-1), rtol=1e-5
    )
    assert classification.cut_mix_loss(loss) is classification.cut_mix_loss(loss)
