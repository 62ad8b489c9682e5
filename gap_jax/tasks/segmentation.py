"""The losses and metrics of semantic segmentation, an adversarial loss, and checks of labels.

Labels are `{"classes": int [B,H,W,1]}`: a class in 0..K-1 for each pixel, or `UNLABELLED`, 255, which
nothing counts. Predictions are logits, float `[B,h,w,K]`. They are resized to the labels' size by bilinear
interpolation, as transformers and SegFormer do (Xie et al., arXiv 2105.15203). Losses return one value per
image, float32 `[B]`; an image without labelled pixels has loss and gradient 0. They raise ValueError for
other shapes. Adversarial losses are minimised by prompts whose images the model gets wrong.
"""

from collections.abc import Sequence

import jax
import jax.numpy as jnp
import numpy as np

from gap_jax.checks import expect_shape
from gap_jax.data.batch import Batch
from gap_jax.data.loader import Source
from gap_jax.data.segmented.read import UNLABELLED

_COUNTED_MAPS = 2000


def cross_entropy(logits: jax.Array, batch: Batch) -> jax.Array:
    """Return the cross-entropy in nats, averaged over each image's labelled pixels, float32 `[B]`."""
    logits, classes = _at_labels(logits, batch)
    labelled = classes != UNLABELLED
    log_probabilities = jax.nn.log_softmax(logits)
    index = jnp.where(labelled, classes, 0)[..., None]
    entropy = -jnp.take_along_axis(log_probabilities, index, -1)[..., 0]
    return _average(entropy, labelled)


def negative_cross_entropy(logits: jax.Array, batch: Batch) -> jax.Array:
    """Return the adversarial loss `-cross_entropy`, float32 `[B]`, which has no lower bound."""
    return -cross_entropy(logits, batch)


def pixel_accuracy(logits: jax.Array, batch: Batch) -> jax.Array:
    """Return the share of each image's labelled pixels whose largest logit is the true class's, `[B]`."""
    logits, classes = _at_labels(logits, batch)
    return _average((logits.argmax(-1) == classes).astype(jnp.float32), classes != UNLABELLED)


def intersections_and_unions(logits: jax.Array, batch: Batch) -> jax.Array:
    """Return what `mean_iou` needs to know of each image, float32 `[B,2K]`.

    For each of the K classes: the number of labelled pixels that have the class in prediction and label,
    then, again for each class, the number that have it in either.
    """
    logits, classes = _at_labels(logits, batch)
    one_hot = jax.nn.one_hot(classes, logits.shape[-1], dtype=bool)  # of no class if not labelled
    predicted = jax.nn.one_hot(logits.argmax(-1), logits.shape[-1], dtype=bool)
    predicted &= (classes != UNLABELLED)[..., None]
    both = [(one_hot & predicted).sum((1, 2)), (one_hot | predicted).sum((1, 2))]
    return jnp.concatenate(both, -1).astype(jnp.float32)


def mean_iou(counts: np.ndarray) -> float:
    """Return the mean intersection over union, mIoU, in [0,1], of a set with these counts `[N,2K]`.

    `counts` are those of `intersections_and_unions`. Pixels are added up over the set first, as in Pascal
    VOC, ADE20K and Cityscapes. The mean is over the classes that appear in labels or predictions: it is
    scikit-learn's `jaccard_score` of all labelled pixels with `average="macro"`.
    """
    intersections, unions = np.asarray(counts, np.float64).sum(0).reshape(2, -1)
    appears = unions > 0
    return float((intersections[appears] / unions[appears]).mean()) if appears.any() else float("nan")


def predicted_classes(logits: np.ndarray, size: Sequence[int]) -> np.ndarray:
    """Return the class of the largest logit of each pixel, int `[H,W,1]`, at a height and a width.

    `logits`: float `[h,w,K]`, of one image.
    """
    resized = jax.image.resize(logits, (*size, logits.shape[-1]), "bilinear")
    return np.asarray(resized.argmax(-1))[..., None]


def class_frequencies(source: Source, num_classes: int) -> np.ndarray:
    """Return logits whose softmax is each pixel's class frequencies in the source, float32 `[H,W,K]`.

    Every class counts one more time in every pixel, so that none has probability 0. At most 2,000 examples,
    evenly spread over the source, are read.
    """
    chosen = np.linspace(0, len(source) - 1, min(len(source), _COUNTED_MAPS)).astype(int)
    counts = np.ones((*source[0]["classes"].shape[:2], num_classes))
    for i in chosen:
        counts += source[int(i)]["classes"] == np.arange(num_classes)
    return np.log(counts / counts.sum(-1, keepdims=True)).astype(np.float32)


def check_labels(classes: np.ndarray, num_classes: int, size: Sequence[int]) -> None:
    """Raise ValueError naming the image unless the class maps fit a model and images of a height and width.

    They must be integers `[B,H,W,1]`, each in 0..num_classes-1 or `UNLABELLED`, and every image must have
    labelled pixels. Reads the values: not for use under `jit`.
    """
    classes = np.asarray(classes)
    expect_shape("classes", classes, (None, *size, 1), "a class map has the size of its image")
    if not np.issubdtype(classes.dtype, np.integer):
        raise ValueError(
            f"classes must be integers, the number of each pixel's class; found {classes.dtype}: a mask of "
            "True and False is classes 1 and 0, as in mask.astype(np.int32)"
        )
    for i, image in enumerate(classes):
        labels = image[image != UNLABELLED]
        if not len(labels):
            raise ValueError(f"image {i}: no pixel has a class, all are {UNLABELLED}; leave it out")
        if labels.min() < 0 or labels.max() >= num_classes:
            wrong = labels[(labels < 0) | (labels >= num_classes)][0]
            raise ValueError(
                f"image {i}: every class must be in 0..{num_classes - 1}, the classes of the model, or "
                f"{UNLABELLED} where there is no label; found {wrong}: renumber the classes, or choose "
                "another model"
            )


def _at_labels(logits: jax.Array, batch: Batch) -> tuple[jax.Array, jax.Array]:
    """Return logits at the labels' size, float32 `[B,H,W,K]`, and the classes `[B,H,W]`."""
    classes = batch["classes"]
    expect_shape("classes", classes, (None, None, None, 1))
    expect_shape("logits", logits, (len(classes), None, None, None), "one map of logits per image")
    shape = (*classes.shape[:3], logits.shape[-1])
    logits = logits.astype(jnp.float32)
    return (logits if logits.shape == shape else jax.image.resize(logits, shape, "bilinear")), classes[..., 0]


def _average(values: jax.Array, labelled: jax.Array) -> jax.Array:
    total = jnp.where(labelled, values, 0.0).sum((1, 2))
    return total / jnp.maximum(labelled.sum((1, 2)), 1)
