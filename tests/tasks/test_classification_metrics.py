"""Classification metrics against scikit-learn's on random predictions, among them WILDS's definitions."""

import numpy as np
import pytest
from sklearn import calibration
from sklearn import metrics as theirs

from gap_jax.tasks import classification_metrics as ours


def predictions(num_classes, seed=0, images=200):
    """Return logits that are mostly right, and labels without class 1 if there are more than two classes."""
    rng = np.random.default_rng(seed)
    labels = rng.choice([k for k in range(num_classes) if k != 1 or num_classes == 2], images)
    logits = rng.normal(size=(images, num_classes)).astype(np.float32)
    logits[np.arange(images), labels] += 1
    return 1.5 * logits, labels


CASES = [(2, 0), (7, 0), (7, 1)]


@pytest.mark.parametrize("num_classes, seed", CASES)
def test_recall_and_f1_equal_scikit_learns(num_classes, seed):
    logits, labels = predictions(num_classes, seed)
    predicted, present = logits.argmax(-1), np.unique(labels)
    assert num_classes == 2 or ((predicted == 1).any() and 1 not in present)
    macro = dict(labels=present, average="macro")
    expected = {
        "macro_recall": theirs.recall_score(labels, predicted, **macro),
        "macro_f1": theirs.f1_score(labels, predicted, **macro),
    }
    for name, value in expected.items():
        assert getattr(ours, name)(logits, labels) == pytest.approx(value, abs=1e-12), name
    np.testing.assert_allclose(
        ours.class_accuracy(logits, labels)[present],
        theirs.recall_score(labels, predicted, labels=present, average=None),
    )


@pytest.mark.filterwarnings("ignore:y_pred contains classes not in y_true")
@pytest.mark.parametrize("num_classes, seed", CASES)
def test_macro_recall_equals_scikit_learns_balanced_accuracy(num_classes, seed):
    logits, labels = predictions(num_classes, seed)
    expected = theirs.balanced_accuracy_score(labels, logits.argmax(-1))
    assert ours.macro_recall(logits, labels) == pytest.approx(expected, abs=1e-12)


def test_a_class_without_images_has_no_accuracy():
    logits, labels = predictions(7)
    assert np.flatnonzero(np.isnan(ours.class_accuracy(logits, labels))).tolist() == [1]


@pytest.mark.parametrize("num_classes, seed", CASES)
def test_calibration_error_equals_scikit_learns_curve(num_classes, seed):
    logits, labels = predictions(num_classes, seed)
    probabilities = np.exp(logits.astype(np.float64))
    confidence = (probabilities / probabilities.sum(-1, keepdims=True)).max(-1)
    right = logits.argmax(-1) == labels
    curve = calibration.calibration_curve(right, confidence, n_bins=15, strategy="uniform")
    counts = np.histogram(confidence, 15, (0, 1))[0]
    expected = np.average(np.abs(curve[0] - curve[1]), weights=counts[counts > 0])
    assert expected > 0.02
    assert ours.calibration_error(logits, labels) == pytest.approx(expected, abs=1e-9)


def test_calibration_error_of_known_confidences():
    certain, guess = [[100.0, 0.0]], [[0.0, 0.0]]
    assert ours.calibration_error(np.array(4 * certain), np.array([0, 0, 0, 0])) == 0
    assert ours.calibration_error(np.array(4 * certain), np.array([1, 1, 0, 0])) == pytest.approx(0.5)
    assert ours.calibration_error(np.array(4 * guess), np.array([1, 1, 0, 0])) == pytest.approx(0)
    assert ours.calibration_error(np.array(4 * guess), np.array([0, 0, 0, 0])) == pytest.approx(0.5)


@pytest.mark.parametrize(
    "logits, labels, message",
    [
        (np.zeros(3), np.zeros(3, int), r"logits must have shape \[\*, \*\], found \[3\]"),
        (np.zeros((0, 3)), np.zeros(0, int), r"logits must have at least one image .*found \[0, 3\]"),
        (np.zeros((2, 3)), np.zeros(3, int), r"labels must have shape \[2\], found \[3\]"),
        (np.zeros((2, 3)), np.array([0, 3]), r"image 1: label must be a class in 0\.\.2, found 3"),
        (np.array([[0, 1], [0, np.nan]]), np.array([0, 1]), "image 1: logits must be finite"),
    ],
)
@pytest.mark.parametrize("metric", ["class_accuracy", "macro_recall", "macro_f1", "calibration_error"])
def test_invalid_logits_and_labels_are_refused(metric, logits, labels, message):
    with pytest.raises(ValueError, match=message):
        getattr(ours, metric)(logits, labels)
