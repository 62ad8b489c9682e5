"""The losses of classification, adversarial losses made of them, and checks of labels.

Every loss takes logits `[B,K]` and returns one value per image, float32 `[B]`. Labels are `{"label": int
[B]}` with classes in 0..K-1. `check_labels` checks this range on the host, because jitted code cannot raise
for it. Adversarial losses are minimised by prompts whose images the model gets wrong.
"""

import functools
from collections.abc import Sequence

import jax
import jax.numpy as jnp
import numpy as np

from gap_jax.checks import expect_shape
from gap_jax.data.batch import Batch
from gap_jax.data.loader import Source
from gap_jax.tasks.metric import ImageLoss

NEGATIVE_PROMPT = (
    "comic,cartoon,synthetic,rendered,animated,painting,sketch,drawing,highly saturated,humans,people"
)


def cross_entropy(logits: jax.Array, labels: jax.Array) -> jax.Array:
    """Return the cross-entropy in nats of logits `[B,K]` to classes, int `[B]`; float32 `[B]`.

    Raises ValueError for other shapes.
    """
    log_probabilities = _log_softmax(logits)
    expect_shape("labels", labels, logits.shape[:1], "one class per image")
    return -jnp.take_along_axis(log_probabilities, labels[:, None], 1)[:, 0]


def weighted_cross_entropy(weights: Sequence[float] | np.ndarray) -> ImageLoss:
    """Return the loss `(logits [B,K], batch) -> [B]`: the cross-entropy times the true class's weight.

    `weights` `[K]` has a weight for each class. The loss is torch's with `weight` and `reduction="none"`.
    Unlike torch's mean, the mean of this loss is not divided by the mean weight of the batch; over the
    training set, `class_weights` have mean 1. The loss raises ValueError for another number of classes than
    weights.
    """
    class_weight = np.asarray(weights, np.float32)

    def loss(logits: jax.Array, batch: Batch) -> jax.Array:
        expect_shape("logits", logits, (None, len(class_weight)), "there must be one class weight per class")
        return jnp.asarray(class_weight)[batch["label"]] * cross_entropy(logits, batch["label"])

    return loss


def class_weights(labels: np.ndarray, num_classes: int) -> np.ndarray:
    """Return weights that make all classes count alike, float32 `[num_classes]`.

    Their mean over `labels`, int `[N]`, is 1. A class's weight is N / (num_classes · its number of images).
    Raises ValueError as `check_labels` does, and for a class without images.
    """
    check_labels(labels, num_classes)
    counts = np.bincount(labels, minlength=num_classes)
    if not counts.all():
        raise ValueError(f"class {counts.argmin()} has no image: leave it out, or give weights")
    return (len(labels) / (num_classes * counts)).astype(np.float32)


def other_class_cross_entropy(temperature: float = 0.5) -> ImageLoss:
    """Return the adversarial loss `(logits [B,2], batch) -> [B]` for two classes (Waterbirds).

    It is the cross-entropy of `temperature · logits` to the other class. It raises ValueError for another
    number of classes.
    """

    def loss(logits: jax.Array, batch: Batch) -> jax.Array:
        expect_shape("logits", logits, (None, 2), "the loss to the other class is for two classes")
        return cross_entropy(temperature * logits.astype(jnp.float32), 1 - batch["label"])

    return loss


def background_cross_entropy(logits: jax.Array, batch: Batch) -> jax.Array:
    """Return the adversarial cross-entropy to class 0, which is an empty picture in iWildCam."""
    return cross_entropy(logits, jnp.zeros_like(batch["label"]))


def uniform_cross_entropy(logits: jax.Array, batch: Batch) -> jax.Array:
    """Return the adversarial cross-entropy to the uniform distribution minus log K; 0 for equal logits."""
    log_probabilities = _log_softmax(logits)
    return -log_probabilities.mean(-1) - jnp.log(float(logits.shape[-1]))


def negative_cross_entropy(logits: jax.Array, batch: Batch) -> jax.Array:
    """Return the adversarial loss `-cross_entropy` to the true class, which has no lower bound."""
    return -cross_entropy(logits, batch["label"])


@functools.cache
def cut_mix_loss(loss: ImageLoss) -> ImageLoss:
    """Return `loss` extended to batches of `cut_mix`, whose images have two labels.

    The extended loss is `lam · loss(label) + (1 - lam) · loss(label_b)`, `[B]`; for a batch without `label_b`
    it is `loss` itself. Equal arguments return the same function, so that it is compiled once.
    """

    def mixed(logits: jax.Array, batch: Batch) -> jax.Array:
        if "label_b" not in batch:
            return loss(logits, batch)
        second = loss(logits, {**batch, "label": batch["label_b"]})
        return batch["lam"] * loss(logits, batch) + (1 - batch["lam"]) * second

    return mixed


def check_labels(labels: np.ndarray, num_classes: int) -> None:
    """Raise ValueError naming image and value unless `labels` are integers `[B]` in 0..num_classes-1.

    Reads the values: not for use under `jit`.
    """
    labels = np.asarray(labels)
    if labels.ndim != 1 or not np.issubdtype(labels.dtype, np.integer):
        raise ValueError(f"labels must be integers of shape [B], found {labels.dtype} {list(labels.shape)}")
    invalid = np.flatnonzero((labels < 0) | (labels >= num_classes))
    if len(invalid):
        i = invalid[0]
        raise ValueError(f"image {i}: label must be a class in 0..{num_classes - 1}, found {labels[i]}")


def class_frequencies(source: Source, classes: int) -> np.ndarray:
    """Return the logits, float32 `[classes]`, whose probabilities are the class frequencies in the source."""
    counts = np.bincount([int(source[i]["label"]) for i in range(len(source))], minlength=classes)
    return np.log(np.maximum(counts, 1e-3) / counts.sum()).astype(np.float32)


def _log_softmax(logits: jax.Array) -> jax.Array:
    expect_shape("logits", logits, (None, None), "one row per image, one column per class")
    return jax.nn.log_softmax(logits.astype(jnp.float32))
