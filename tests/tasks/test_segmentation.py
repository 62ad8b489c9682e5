"""Segmentation's losses against torch, its metrics against scikit-learn, and its checks of labels."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import torch
from sklearn.metrics import accuracy_score, jaccard_score
from torch.nn.functional import cross_entropy, interpolate

from gap_jax.tasks import segmentation

CLASSES, SIDE = 6, 12
UNLABELLED = 255  # as in ADE20K's and Cityscapes' files


def labelled(side=SIDE, seed=0):
    """Logits `[3,side,side,6]` and a batch of 12 × 12 labels, of which class 4 and a few pixels have none."""
    rng = np.random.default_rng(seed)
    logits = rng.normal(0, 2, (3, side, side, CLASSES)).astype(np.float32)
    classes = rng.choice([0, 1, 2, 3, 5, UNLABELLED], (3, SIDE, SIDE, 1)).astype(np.int32)
    return logits, {"classes": classes}


def torch_logits(logits):
    """Logits at the labels' size, as transformers' SegFormer resizes them for its loss, `[B,K,H,W]`."""
    return interpolate(
        torch.as_tensor(logits).permute(0, 3, 1, 2), size=(SIDE, SIDE), mode="bilinear", align_corners=False
    )


@pytest.mark.parametrize("side", [SIDE, 3])
def test_cross_entropy_and_its_gradient_are_torchs(side):
    logits, batch = labelled(side)
    variable = torch.tensor(logits, dtype=torch.float64, requires_grad=True)
    labels = torch.from_numpy(batch["classes"][..., 0]).long()
    pairs = zip(torch_logits(variable), labels, strict=True)
    expected = torch.stack([cross_entropy(x[None], y[None], ignore_index=UNLABELLED) for x, y in pairs])
    weights = np.array([1.0, -2.0, 3.0], np.float32)
    (expected * torch.from_numpy(weights)).sum().backward()
    for loss, sign in ((segmentation.cross_entropy, 1), (segmentation.negative_cross_entropy, -1)):
        value, pull = jax.vjp(lambda x, loss=loss: loss(x, batch), logits)
        np.testing.assert_allclose(value, sign * expected.detach(), rtol=1e-5)
        gradient = pull(jnp.asarray(weights))[0]
        np.testing.assert_allclose(gradient, sign * variable.grad, rtol=1e-4, atol=1e-6)


@pytest.mark.parametrize("side", [SIDE, 3])
def test_metrics_are_scikit_learns_over_all_labelled_pixels(side):
    logits, batch = labelled(side)
    logits[..., 4] = -100.0  # neither labelled nor predicted: it does not count
    logits[:, :, : side // 2, 3] -= 100.0
    predicted = torch_logits(logits).argmax(1).numpy()
    truth = batch["classes"][..., 0]
    seen = truth != UNLABELLED
    counts = segmentation.intersections_and_unions(logits, batch)
    assert counts.shape == (3, 2 * CLASSES)
    expected = jaccard_score(truth[seen], predicted[seen], average="macro")
    assert segmentation.mean_iou(np.asarray(counts)) == pytest.approx(expected, rel=1e-6)
    accuracy = [accuracy_score(t[s], p[s]) for t, p, s in zip(truth, predicted, seen, strict=True)]
    np.testing.assert_allclose(segmentation.pixel_accuracy(logits, batch), accuracy, rtol=1e-6)
    for i in range(3):
        found = segmentation.predicted_classes(logits[i], (SIDE, SIDE))
        np.testing.assert_array_equal(found[..., 0], predicted[i])


def test_a_class_that_is_only_predicted_counts_as_missed():
    counts = segmentation.intersections_and_unions(
        np.float32([[[[9, 0, 0], [0, 9, 0]]]]), {"classes": np.zeros((1, 1, 2, 1), int)}
    )
    assert counts.tolist() == [[1, 0, 0, 2, 1, 0]]  # of two pixels of class 0, one is taken for class 1
    assert segmentation.mean_iou(np.asarray(counts)) == pytest.approx((1 / 2 + 0) / 2)


def test_an_image_without_labels_has_loss_and_gradient_zero():
    logits, batch = labelled()
    batch["classes"][1] = UNLABELLED
    value, gradient = jax.value_and_grad(lambda x: segmentation.cross_entropy(x, batch).sum())(logits)
    assert np.isfinite(value) and not gradient[1].any() and np.abs(gradient[0]).max() > 0
    assert segmentation.cross_entropy(logits, batch)[1] == 0
    assert not segmentation.intersections_and_unions(logits, batch)[1].any()


def test_the_constant_prediction_is_each_pixels_frequency_of_classes():
    _, batch = labelled()
    logits = segmentation.class_frequencies([{"classes": c} for c in batch["classes"]], CLASSES)
    seen = np.stack([(batch["classes"][..., 0] == k).sum(0) for k in range(CLASSES)], -1)
    expected = (seen + 1) / (seen.sum(-1, keepdims=True) + CLASSES)
    np.testing.assert_allclose(np.exp(logits), expected, rtol=1e-5)


GOOD = np.full((2, 4, 4, 1), 5, np.int32)


def changed(value):
    classes = GOOD.copy()
    classes[1, 2, 3] = value
    return classes


@pytest.mark.parametrize(
    ("classes", "message"),
    [
        (changed(6), r"image 1: every class must be in 0\.\.5, the classes of the model, or 255 .*; found 6"),
        (changed(-1), r"image 1: every class must be in 0\.\.5, .*; found -1: renumber the classes"),
        (GOOD > 3, "classes must be integers, .*; found bool: a mask of True and False is classes 1 and 0"),
        (GOOD.astype(np.float32), "classes must be integers, .*; found float32"),
        (
            GOOD[:, :2],
            r"classes must have shape \[\*, 4, 4, 1\], found \[2, 2, 4, 1\]: a class map has the s",
        ),
        (np.full_like(GOOD, UNLABELLED), "image 0: no pixel has a class, all are 255; leave it out"),
    ],
)
def test_labels_that_do_not_fit_are_refused(classes, message):
    with pytest.raises(ValueError, match=message) as error:
        segmentation.check_labels(classes, CLASSES, (4, 4))
    assert len(str(error.value)) < 500


def test_labels_that_fit_are_accepted():
    segmentation.check_labels(changed(UNLABELLED), CLASSES, (4, 4))


def test_other_shapes_are_refused():
    logits, batch = labelled()
    with pytest.raises(ValueError, match=r"logits must have shape \[3, \*, \*, \*\], found \[2, 12, 12, 6\]"):
        segmentation.cross_entropy(logits[:2], batch)
    with pytest.raises(ValueError, match=r"classes must have shape \[\*, \*, \*, 1\], found \[3, 12, 12\]"):
        segmentation.cross_entropy(logits, {"classes": batch["classes"][..., 0]})
