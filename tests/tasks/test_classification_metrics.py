"""Classification metrics against scikit-learn's on random predictions, and WILDS's definitions by it."""

import numpy as np
import pytest
from sklearn import calibration
from sklearn import metrics as theirs

from gap_jax.tasks import classification_metrics as ours


def predictions(num_classes, seed=0, images=200):
    """Logits that are right more often than not, without images of class 1 unless there are but two."""
    rng = np.random.default_rng(seed)
    labels = rng.choice([k for k in range(num_classes) if k != 1 or num_classes == 2], images)
    logits = rng.normal(size=(images, num_classes)).astype(np.float32)
    logits[np.arange(images), labels] += 1
    return 1.5 * logits, labels


CASES = [(2, 0), (7, 0), (7, 1)]


@pytest.mark.parametrize("num_classes, seed", CASES)
def test_accuracies_and_f1_equal_scikit_learns(num_classes, seed):
    logits, labels = predictions(num_classes, seed)
    found, present = logits.argmax(-1), np.unique(labels)
    assert num_classes == 2 or ((found == 1).any() and 1 not in present)
    macro = dict(labels=present, average="macro")
    expected = {
        "accuracy": theirs.accuracy_score(labels, found),
        "macro_recall": theirs.recall_score(labels, found, **macro),
        "macro_f1": theirs.f1_score(labels, found, **macro),
    }
    for name, value in expected.items():
        assert getattr(ours, name)(logits, labels) == pytest.approx(value, abs=1e-12), name
    np.testing.assert_allclose(
        ours.class_accuracy(logits, labels)[present],
        theirs.recall_score(labels, found, labels=present, average=None),
    )


@pytest.mark.filterwarnings("ignore:y_pred contains classes not in y_true")
@pytest.mark.parametrize("num_classes, seed", CASES)
def test_balanced_accuracy_equals_scikit_learns(num_classes, seed):
    logits, labels = predictions(num_classes, seed)
    expected = theirs.balanced_accuracy_score(labels, logits.argmax(-1))
    assert ours.balanced_accuracy(logits, labels) == pytest.approx(expected, abs=1e-12)


def test_group_accuracies_equal_scikit_learns():
    logits, labels = predictions(2)
    places = np.random.default_rng(3).integers(0, 2, len(labels))
    groups = ours.waterbirds_groups(labels, places)
    expected = []
    for place, y in ((0, 0), (0, 1), (1, 0), (1, 1)):
        rows = (places == place) & (labels == y)
        expected.append(theirs.accuracy_score(labels[rows], logits[rows].argmax(-1)))
    np.testing.assert_allclose(ours.group_accuracy(logits, labels, groups, 4), expected)
    assert ours.worst_group(logits, labels, groups, 4) == pytest.approx(min(expected))
    assert ours.balanced_group_accuracy(logits, labels, groups, 4) == pytest.approx(np.mean(expected))


def test_what_has_no_images_has_no_accuracy():
    logits, labels = predictions(7)
    assert np.flatnonzero(np.isnan(ours.class_accuracy(logits, labels))).tolist() == [1]
    groups = np.where(labels == 0, 0, 2)
    found = ours.group_accuracy(logits, labels, groups, 4)
    assert np.isnan(found).tolist() == [False, True, False, True]
    assert ours.worst_group(logits, labels, groups, 4) == found[[0, 2]].min()


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
        (np.zeros(3), np.zeros(3, int), r"logits must be \[N,K\] and labels \[N\], found \[3\] and \[3\]"),
        (np.zeros((0, 3)), np.zeros(0, int), r"found \[0, 3\] and \[0\]"),
        (np.zeros((2, 3)), np.zeros(3, int), r"found \[2, 3\] and \[3\]"),
        (np.zeros((2, 3)), np.array([0, 3]), r"image 1: label 3 is not a class, which are 0\.\.2"),
        (np.array([[0, 1], [0, np.nan]]), np.array([0, 1]), "image 1: logits are not finite"),
    ],
)
@pytest.mark.parametrize("metric", ["accuracy", "class_accuracy", "macro_f1", "calibration_error"])
def test_what_is_no_prediction_is_refused(metric, logits, labels, message):
    with pytest.raises(ValueError, match=message):
        getattr(ours, metric)(logits, labels)


@pytest.mark.parametrize("groups", [np.array([0, 4]), np.array([-1, 0]), np.array([0])])
def test_groups_that_do_not_fit_are_refused(groups):
    with pytest.raises(ValueError, match=r"groups must be \[2\] of 0\.\.3, found"):
        ours.group_accuracy(np.eye(2), np.array([0, 1]), groups, 4)
