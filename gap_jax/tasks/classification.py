"""Classification: cross-entropy, the adversarial losses made of it, and what labels must be like.

Every loss is per image, `[B]` float32, of logits `[B,K]`. A label is `{"label": int [B] in 0..K-1}`; that
it is in range is checked on the host, by `check_labels`: under jit it cannot be.
"""

import functools
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from gap_jax.data.loader import Source

NEGATIVE_PROMPT = (
    "comic,cartoon,synthetic,rendered,animated,painting,sketch,drawing,highly saturated,humans,people"
)
Loss = Callable[[jax.Array, Mapping[str, jax.Array]], jax.Array]


def cross_entropy(logits: jax.Array, labels: jax.Array) -> jax.Array:
    """The cross-entropy, in nats, of each image's logits `[B,K]` to its class, int `[B]`; float32 `[B]`.

    Raises ValueError for other shapes.
    """
    log_probabilities = _log_softmax(logits)
    if labels.shape != logits.shape[:1]:
        raise ValueError(f"labels must have shape {list(logits.shape[:1])}, found {list(labels.shape)}")
    return -jnp.take_along_axis(log_probabilities, labels[:, None], 1)[:, 0]


def class_weighted(weights: Sequence[float]) -> Loss:
    """The cross-entropy to the true class times that class's weight, `weights` `[K]`.

    Torch's with `weight` and `reduction="none"`; its mean also divides by a batch's weights, of which
    `class_weights` makes the mean 1. `loss(logits [B,K], label) -> [B]`, which raises ValueError where there
    are not as many classes as weights.
    """
    weights = np.asarray(weights, np.float32)

    def loss(prediction: jax.Array, label: Mapping[str, jax.Array]) -> jax.Array:
        if prediction.shape[-1:] != weights.shape:
            raise ValueError(f"{list(weights.shape)} class weights, found logits {list(prediction.shape)}")
        return jnp.asarray(weights)[label["label"]] * cross_entropy(prediction, label["label"])

    return loss


def class_weights(labels: np.ndarray, num_classes: int) -> np.ndarray:
    """Weights `[num_classes]`, float32, by which all classes count alike, with mean 1 over `labels` `[N]`.

    N / (num_classes · images of the class). Raises ValueError as `check_labels`, and for a class without
    images.
    """
    check_labels(labels, num_classes)
    counts = np.bincount(labels, minlength=num_classes)
    if not counts.all():
        raise ValueError(f"class {counts.argmin()} has no image: leave it out, or give weights")
    return (len(labels) / (num_classes * counts)).astype(np.float32)


def other_class(temperature: float = 0.5) -> Loss:
    """Adversarial, for two classes: cross-entropy of `temperature·logits` to the other class (Waterbirds).

    `loss(logits [B,2], label) -> [B]`, which raises ValueError for another number of classes.
    """

    def loss(prediction: jax.Array, label: Mapping[str, jax.Array]) -> jax.Array:
        if prediction.shape[-1] != 2:
            raise ValueError(f"other_class is for two classes, found logits {list(prediction.shape)}")
        return cross_entropy(temperature * prediction.astype(jnp.float32), 1 - label["label"])

    return loss


def background(prediction: jax.Array, label: Mapping[str, jax.Array]) -> jax.Array:
    """Adversarial: cross-entropy to class 0, whatever the label (iWildCam: an empty picture)."""
    return cross_entropy(prediction, jnp.zeros_like(label["label"]))


def uniform(prediction: jax.Array, label: Mapping[str, jax.Array]) -> jax.Array:
    """Adversarial: cross-entropy to the uniform distribution minus log K; 0 where all logits are equal."""
    log_probabilities = _log_softmax(prediction)
    return -log_probabilities.mean(-1) - jnp.log(float(prediction.shape[-1]))


def negative_cross_entropy(prediction: jax.Array, label: Mapping[str, jax.Array]) -> jax.Array:
    """Adversarial: minus the cross-entropy to the true class; not bounded below."""
    return -cross_entropy(prediction, label["label"])


def check_labels(labels: np.ndarray, num_classes: int) -> None:
    """Raise ValueError, naming image and value, unless `labels` are integers `[B]` in 0..num_classes-1.

    On the host: the array must be concrete.
    """
    labels = np.asarray(labels)
    if labels.ndim != 1 or not np.issubdtype(labels.dtype, np.integer):
        raise ValueError(f"labels must be integers of shape [B], found {labels.dtype} {list(labels.shape)}")
    outside = np.flatnonzero((labels < 0) | (labels >= num_classes))
    if len(outside):
        i = outside[0]
        raise ValueError(f"image {i}: label {labels[i]} is not a class, which are 0..{num_classes - 1}")


def _log_softmax(logits):
    if logits.ndim != 2:
        raise ValueError(f"logits must have shape [B, K], found {list(logits.shape)}")
    return jax.nn.log_softmax(logits.astype(jnp.float32))


@functools.cache
def mixed(loss: Loss) -> Loss:
    """`lam·loss + (1 - lam)·loss for label_b`, `[B]`, for batches by `cut_mix`; for others the plain loss.

    `loss(prediction, batch) -> [B]` reads `label`. The same function for the same loss.
    """

    def mixture(prediction: Any, batch: Mapping[str, jax.Array]) -> Any:
        if "label_b" not in batch:
            return loss(prediction, batch)
        other = loss(prediction, {**batch, "label": batch["label_b"]})
        return batch["lam"] * loss(prediction, batch) + (1 - batch["lam"]) * other

    return mixture


def class_frequencies(source: Source, classes: int) -> np.ndarray:
    """The logits `[K]` that predict the classes as often as they are."""
    counts = np.bincount([int(source[i]["label"]) for i in range(len(source))], minlength=classes)
    return np.log(np.maximum(counts, 1e-3) / counts.sum()).astype(np.float32)
