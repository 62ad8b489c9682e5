"""Metrics of a classifier over a whole test set, computed on the host in float64.

All functions take logits, float `[N,K]`, and labels, int `[N]` in 0..K-1. The predicted class is that of the
largest logit. They raise ValueError for other shapes or labels, and for logits that are not finite.
"""

import numpy as np

from gap_jax.checks import expect_shape
from gap_jax.tasks.classification import check_labels

BINS = 15


def class_accuracy(logits: np.ndarray, labels: np.ndarray) -> np.ndarray:
    """Return the accuracy (recall) of each class's images, float64 `[K]`; NaN for a class without images."""
    correct = _predicted_classes(logits, labels) == labels
    num_classes = logits.shape[-1]
    counts = np.bincount(labels, minlength=num_classes)
    with np.errstate(invalid="ignore"):
        return np.bincount(labels, correct, num_classes) / counts


def macro_recall(logits: np.ndarray, labels: np.ndarray) -> float:
    """Return the mean accuracy of the classes that have images, also called balanced accuracy.

    It is WILDS's metric for iWildCam, and scikit-learn's `recall_score` with `average="macro"` over
    `np.unique(labels)`, which equals its `balanced_accuracy_score`.
    """
    return float(np.nanmean(class_accuracy(logits, labels)))


def macro_f1(logits: np.ndarray, labels: np.ndarray) -> float:
    """Return the mean F1 score of the classes that have images: WILDS's metric for iWildCam.

    It is scikit-learn's `f1_score` with `average="macro"` over `np.unique(labels)`: a prediction of a class
    without images only counts against the image's true class.
    """
    predicted = _predicted_classes(logits, labels)
    num_classes = logits.shape[-1]
    num_correct = np.bincount(labels[predicted == labels], minlength=num_classes)
    num_images = np.bincount(labels, minlength=num_classes)
    f1 = 2 * num_correct / np.maximum(num_images + np.bincount(predicted, minlength=num_classes), 1)
    return float(f1[num_images > 0].mean())


def calibration_error(logits: np.ndarray, labels: np.ndarray, bins: int = BINS) -> float:
    """Return the expected calibration error, in [0,1] (Guo et al., arXiv 1706.04599, eq. 3).

    The confidence of an image is its largest softmax probability. Confidences are sorted into `bins` equal
    parts of [0,1], each of which includes its upper end. The error is the absolute difference of accuracy and
    mean confidence within a bin, averaged over all images.
    """
    correct = _predicted_classes(logits, labels) == labels
    logits = np.asarray(logits, np.float64)
    confidence = 1 / np.exp(logits - logits.max(-1, keepdims=True)).sum(-1)
    bin_of_image = np.searchsorted(np.linspace(0, 1, bins + 1)[1:-1], confidence)
    return float(np.abs(np.bincount(bin_of_image, correct - confidence)).sum() / len(correct))


def _predicted_classes(logits: np.ndarray, labels: np.ndarray) -> np.ndarray:
    """Return the predicted class of each image, int `[N]`, after checking logits and labels."""
    expect_shape("logits", logits, (None, None), "one row per image, one column per class")
    expect_shape("labels", labels, logits.shape[:1], "one class per row of logits")
    if not logits.size:
        raise ValueError(f"logits must have at least one image and one class, found {list(logits.shape)}")
    check_labels(labels, logits.shape[1])
    is_finite = np.isfinite(logits).all(-1)
    if not is_finite.all():
        image = is_finite.argmin()
        raise ValueError(f"image {image}: logits must be finite, found {logits[image]}")
    return logits.argmax(-1)
