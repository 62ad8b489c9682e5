"""How good a classifier is, over a whole test set: float64 on the host, of logits `[N,K]` and labels `[N]`.

Labels are integers in 0..K-1, an image's class is that of its largest logit. Every function raises ValueError
for other shapes or labels, and for logits that are not finite.
"""

import numpy as np

from gap_jax.tasks.classification import check_labels

BINS = 15


def accuracy(logits: np.ndarray, labels: np.ndarray) -> float:
    """The share of images of which the class is right."""
    return float((_classes(logits, labels) == labels).mean())


def class_accuracy(logits: np.ndarray, labels: np.ndarray) -> np.ndarray:
    """The accuracy (recall) of each class's images, `[K]`; NaN for a class without images."""
    return group_accuracy(logits, labels, labels, logits.shape[-1])


def group_accuracy(logits: np.ndarray, labels: np.ndarray, groups: np.ndarray, num_groups: int) -> np.ndarray:
    """The accuracy of each group's images, `[num_groups]`; NaN for a group without images.

    `groups`: each image's, int `[N]` in 0..num_groups-1.
    """
    right = _classes(logits, labels) == labels
    groups = np.asarray(groups)
    if groups.shape != right.shape or groups.min() < 0 or groups.max() >= num_groups:
        raise ValueError(
            f"groups must be {list(right.shape)} of 0..{num_groups - 1}, found {list(groups.shape)} of "
            f"{groups.min()}..{groups.max()}"
        )
    counts = np.bincount(groups, minlength=num_groups)
    with np.errstate(invalid="ignore"):
        return np.bincount(groups, right, num_groups) / counts


def worst_group(logits: np.ndarray, labels: np.ndarray, groups: np.ndarray, num_groups: int) -> float:
    """The least accuracy of a group that has images (Sagawa et al., arXiv 1911.08731)."""
    return float(np.nanmin(group_accuracy(logits, labels, groups, num_groups)))


def balanced_group_accuracy(
    logits: np.ndarray, labels: np.ndarray, groups: np.ndarray, num_groups: int
) -> float:
    """The mean of the accuracies of the groups that have images."""
    return float(np.nanmean(group_accuracy(logits, labels, groups, num_groups)))


def waterbirds_groups(labels: np.ndarray, places: np.ndarray) -> np.ndarray:
    """Waterbirds' groups, `2·place + y`: landbirds on land, waterbirds on land, and both on water."""
    return 2 * np.asarray(places) + np.asarray(labels)


def macro_recall(logits: np.ndarray, labels: np.ndarray) -> float:
    """The mean of the accuracies of the classes that have images: WILDS's for iWildCam, "balanced accuracy".

    scikit-learn's `recall_score` with `average="macro"` over `np.unique(labels)`; its
    `balanced_accuracy_score` is the same.
    """
    return float(np.nanmean(class_accuracy(logits, labels)))


balanced_accuracy = macro_recall


def macro_f1(logits: np.ndarray, labels: np.ndarray) -> float:
    """The mean F1 of the classes that have images: WILDS's for iWildCam.

    scikit-learn's `f1_score` with `average="macro"` over `np.unique(labels)`: what is taken for a class
    without images counts only against the class it is of.
    """
    found = _classes(logits, labels)
    num_classes = logits.shape[-1]
    right = np.bincount(labels[found == labels], minlength=num_classes)
    images = np.bincount(labels, minlength=num_classes)
    f1 = 2 * right / np.maximum(images + np.bincount(found, minlength=num_classes), 1)
    return float(f1[images > 0].mean())


def calibration_error(logits: np.ndarray, labels: np.ndarray, bins: int = BINS) -> float:
    """The expected calibration error, in [0,1] (Guo et al., arXiv 1706.04599, eq. 3).

    The difference between accuracy and confidence, the largest softmax probability, in `bins` equal parts of
    [0,1], each of them with its upper end; averaged over images.
    """
    right = _classes(logits, labels) == labels
    logits = np.asarray(logits, np.float64)
    confidence = 1 / np.exp(logits - logits.max(-1, keepdims=True)).sum(-1)
    part = np.searchsorted(np.linspace(0, 1, bins + 1)[1:-1], confidence)
    return float(np.abs(np.bincount(part, right - confidence)).sum() / len(right))


def _classes(logits: np.ndarray, labels: np.ndarray) -> np.ndarray:
    """Each image's class, int `[N]`, where logits and labels are what they must be."""
    if logits.ndim != 2 or not logits.size or labels.shape != logits.shape[:1]:
        raise ValueError(
            f"logits must be [N,K] and labels [N], found {list(logits.shape)} and {list(labels.shape)}"
        )
    check_labels(labels, logits.shape[1])
    finite = np.isfinite(logits).all(-1)
    if not finite.all():
        raise ValueError(f"image {finite.argmin()}: logits are not finite, {logits[finite.argmin()]}")
    return logits.argmax(-1)
