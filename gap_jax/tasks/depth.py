"""The losses of depth estimation, adversarial losses made of them, and checks of labels.

Every loss returns one value per image, float32 `[B]`. Labels are `{"depth": float [B,H,W,1] in [0,1], "mask":
bool [B,H,W,1]}`, where True is a pixel with valid depth. Depth elsewhere may be anything, even NaN. An image
without a valid pixel has loss and gradient 0; `check_labels` finds such images on the host. Losses raise
ValueError unless prediction, depth and mask have one shape `[B,H,W,1]`. Adversarial losses are minimised by
prompts whose images the model gets wrong.
"""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from gap_jax.checks import expect_float, expect_shape
from gap_jax.data.batch import Batch
from gap_jax.data.loader import Source

NEGATIVE_PROMPT = (
    "comic,cartoon,synthetic,rendered,animated,painting,sketch,drawing,highly saturated,person,people,face,"
    "body parts,eyes"
)
_SMALLEST_DEPTH = 1e-3  # in ratios
_SMALLEST_DEVIATION = 1e-6  # smaller mean absolute deviations count as those of a constant map
_AVERAGED_MAPS = 2000


def l1(prediction: jax.Array, depth: jax.Array, mask: jax.Array) -> jax.Array:
    """Return `|prediction - depth|` averaged over each image's valid pixels, float32 `[B]`.

    It is the paper's loss of the depth U-Net, in fine-tuning and evaluation.
    """
    return _average(_error(prediction, depth, mask), mask)


def ssi_mae(prediction: jax.Array, depth: jax.Array, mask: jax.Array) -> jax.Array:
    """Return the scale- and shift-invariant mean absolute error, float32 `[B]`.

    It is MiDaS's (Ranftl et al., arXiv 1907.01341, eqs. 5-7, without the factor 1/2). Each map is normalised:
    its median is subtracted, and it is divided by its mean absolute deviation from the median. The error is
    the mean absolute difference of the normalised maps. All means are over the image's valid pixels. The
    median of an even number of values is the lower middle one, as in torch. The deviation is at least 1e-6,
    so a constant map becomes 0.
    """
    _check_shapes(prediction, depth, mask)
    return _average(jnp.abs(_normalise(prediction, mask) - _normalise(depth, mask)), mask)


def absrel(prediction: jax.Array, depth: jax.Array, mask: jax.Array) -> jax.Array:
    """Return `|prediction - depth| / depth` averaged over each image's valid pixels, float32 `[B]`.

    Eigen et al., arXiv 1406.2283, section 4. Depth below 1e-3 counts as 1e-3.
    """
    true_depth = jnp.maximum(jnp.where(mask, depth, 1.0), _SMALLEST_DEPTH)
    return _average(_error(prediction, depth, mask) / true_depth, mask)


def delta1(prediction: jax.Array, depth: jax.Array, mask: jax.Array) -> jax.Array:
    """Return the share of valid pixels with `max(prediction / depth, depth / prediction) < 1.25`, `[B]`.

    Eigen et al., arXiv 1406.2283, section 4; higher is better. Predictions and depth below 1e-3 count as
    1e-3.
    """
    _check_shapes(prediction, depth, mask)
    true_depth = jnp.maximum(jnp.where(mask, depth, 1.0), _SMALLEST_DEPTH)
    predicted = jnp.maximum(prediction.astype(jnp.float32), _SMALLEST_DEPTH)
    ratio = jnp.maximum(predicted / true_depth, true_depth / predicted)
    return _average((ratio < 1.25).astype(jnp.float32), mask)


def midas(
    prediction: jax.Array, depth: jax.Array, mask: jax.Array, weight: float = 0.5, scales: int = 4
) -> jax.Array:
    """Return MiDaS's loss, float32 `[B]`: half of `ssi_mae` plus `weight` times the gradient matching term.

    Ranftl et al., arXiv 1907.01341, eqs. 11 and 12. The gradient matching term sums the absolute differences
    between neighbouring valid pixels of the normalised maps' difference, divided by the number of valid
    pixels. It is added up over `scales` resolutions: every pixel, every second, every fourth, and so on. It
    is the paper's loss of DPT in fine-tuning.
    """
    _check_shapes(prediction, depth, mask)
    difference = _normalise(prediction, mask) - _normalise(depth, mask)
    return _average(jnp.abs(difference), mask) / 2 + weight * _gradient_matching(difference, mask, scales)


def omnidata_midas_parts(prediction: jax.Array, depth: jax.Array, mask: jax.Array) -> jax.Array:
    """Return what `omnidata_midas` needs to know of each image, float32 `[B,3]`.

    1. The sum over valid pixels of the absolute difference of the normalised maps. They are normalised as by
       `ssi_mae`, but the sum of absolute deviations is divided by the number of valid pixels plus 1, and 1e-6
       is added to the quotient.
    2. The number of valid pixels.
    3. The gradient matching term over four scales, of inverse depth `1 / (depth + 1e-6)`. The prediction's is
       scaled to the true one by least squares. (Omnidata also shifts it, which changes no difference between
       neighbours.)

    Source: Omnidata's `losses/midas_loss.py` and `losses/masked_losses.py`.
    """
    _check_shapes(prediction, depth, mask)
    aligned = []
    for x in (prediction, depth):
        centred = _centre(x, mask)
        deviation = jnp.abs(centred).sum((1, 2, 3), keepdims=True) / (mask.sum((1, 2, 3), keepdims=True) + 1)
        aligned.append(centred / (deviation + 1e-6))
    error = jnp.abs(aligned[0] - aligned[1]).sum((1, 2, 3))
    ours, true = (1 / (jnp.where(mask, x.astype(jnp.float32), 1.0) + 1e-6) for x in (prediction, depth))

    def minus_mean(x):
        return jnp.where(mask, x - _average(x, mask)[:, None, None, None], 0.0)

    covariance = (minus_mean(ours) * minus_mean(true)).sum((1, 2, 3), keepdims=True)
    variance = jnp.square(minus_mean(ours)).sum((1, 2, 3), keepdims=True)
    scale = jnp.where(variance > 0, covariance / jnp.where(variance > 0, variance, 1.0), 0.0)
    return jnp.stack([error, mask.sum((1, 2, 3)), _gradient_matching(scale * ours - true, mask, 4)], -1)


def omnidata_midas(parts: np.ndarray, gradient_weight: float = 0.1) -> float:
    """Return Omnidata's MiDaS loss of a test set, given the `omnidata_midas_parts` `[N,3]` of its images.

    The first term is averaged over the valid pixels of all images. `gradient_weight` times the gradient
    matching term, averaged over images, is added. The weight is 0.1 in Omnidata's code. It is 0 in the file
    that the paper's authors published, `depth/losses/midas_loss.py`.
    """
    error, num_valid, gradient = np.asarray(parts, np.float64).T
    return float(error.sum() / max(num_valid.sum(), 1) + gradient_weight * gradient.mean())


def negative_l1(prediction: jax.Array, batch: Batch) -> jax.Array:
    """Return the adversarial loss `-mean(|prediction - depth| · mask)`, float32 `[B]`.

    The mean is over all pixels, so an image with few valid ones counts little. The paper's thresholds of
    early stopping are on this scale.
    """
    return -_error(prediction, batch["depth"], batch["mask"]).mean((1, 2, 3))


def negative_ssi_mae(prediction: jax.Array, batch: Batch) -> jax.Array:
    """Return the adversarial loss `-ssi_mae`, float32 `[B]`."""
    return -ssi_mae(prediction, batch["depth"], batch["mask"])


def check_labels(depth: np.ndarray, mask: np.ndarray) -> None:
    """Raise ValueError naming the image if the losses would be meaningless for these labels.

    `depth` must be float and `mask` boolean, both `[B,H,W,1]`. Every image must have valid pixels, and their
    depth must be finite and in [0,1]. Reads the values: not for use under `jit`.
    """
    depth, mask = np.asarray(depth), np.asarray(mask)
    expect_shape("depth", depth, (None, None, None, 1))
    expect_float("depth", depth)
    expect_shape("mask", mask, depth.shape, "the shape of depth")
    if mask.dtype != bool:
        raise ValueError(f"mask must be boolean, True = valid; found {mask.dtype}")
    for i, (image_depth, valid) in enumerate(zip(depth, mask, strict=True)):
        values = image_depth[valid]
        if not len(values):
            raise ValueError(f"image {i}: its mask is all false, so that no pixel has a label; leave it out")
        num_invalid = np.count_nonzero(~np.isfinite(values))
        if num_invalid:
            raise ValueError(
                f"image {i}: depth is NaN or infinite in {num_invalid} of {len(values)} valid pixels: set "
                "the mask to False there"
            )
        if values.min() < 0 or values.max() > 1:
            bounds = f"{values.min():g} to {values.max():g}"
            raise ValueError(f"image {i}: depth of valid pixels must be in [0, 1], found {bounds}")


def mean_map(source: Source) -> np.ndarray:
    """Return the mean depth of each pixel over the examples in which it is valid, float32 `[H,W,1]`.

    At most 2,000 examples, evenly spread over the source, are read.
    """
    total: Any = 0.0
    count: Any = 0.0
    for i in np.linspace(0, len(source) - 1, min(len(source), _AVERAGED_MAPS)).astype(int):
        example = source[int(i)]
        total = total + np.where(example["mask"], example["depth"], 0)
        count = count + example["mask"]
    return (total / np.maximum(count, 1)).astype(np.float32)


def _error(prediction: jax.Array, depth: jax.Array, mask: jax.Array) -> jax.Array:
    """Return `|prediction - depth|`, 0 where it is not valid."""
    _check_shapes(prediction, depth, mask)
    return jnp.abs(jnp.where(mask, prediction.astype(jnp.float32) - depth, 0.0))


def _average(values: jax.Array, mask: jax.Array) -> jax.Array:
    return jnp.where(mask, values, 0.0).sum((1, 2, 3)) / _num_valid(mask)


def _num_valid(mask: jax.Array) -> jax.Array:
    """Return the number of valid pixels of each image, at least 1, int `[B]`."""
    return jnp.maximum(mask.sum((1, 2, 3)), 1)


def _gradient_matching(difference: jax.Array, mask: jax.Array, scales: int) -> jax.Array:
    """Return the gradient matching term of the difference of two maps (see `midas`), float32 `[B]`."""
    total = jnp.zeros(len(difference))
    for scale in range(scales):
        step = 2**scale
        coarse, valid = difference[:, ::step, ::step], mask[:, ::step, ::step]
        across = jnp.where(valid[:, :, 1:] & valid[:, :, :-1], jnp.abs(jnp.diff(coarse, axis=2)), 0.0)
        down = jnp.where(valid[:, 1:] & valid[:, :-1], jnp.abs(jnp.diff(coarse, axis=1)), 0.0)
        total += (across.sum((1, 2, 3)) + down.sum((1, 2, 3))) / _num_valid(valid)
    return total


def _normalise(x: jax.Array, mask: jax.Array) -> jax.Array:
    """Return `x` minus its median, divided by its mean absolute deviation; 0 where it is not valid."""
    centred = _centre(x, mask)
    deviation = jnp.abs(centred).sum((1, 2, 3)) / _num_valid(mask)
    return centred / jnp.maximum(deviation, _SMALLEST_DEVIATION)[:, None, None, None]


def _centre(x: jax.Array, mask: jax.Array) -> jax.Array:
    """Return `x` minus its median, float32; 0 where it is not valid."""
    x = jnp.where(mask, x.astype(jnp.float32), 0.0)
    values = x.reshape(len(x), -1)
    order = jnp.argsort(jnp.where(mask, jax.lax.stop_gradient(x), jnp.inf).reshape(values.shape))
    middle = jnp.take_along_axis(order, (_num_valid(mask)[:, None] - 1) // 2, 1)
    median = jnp.take_along_axis(values, middle, 1)[:, :, None, None]
    return jnp.where(mask, x - median, 0.0)


def _check_shapes(prediction: jax.Array, depth: jax.Array, mask: jax.Array) -> None:
    advice = "prediction, depth and mask must have one shape [B, H, W, 1]"
    expect_shape("depth", depth, (None, None, None, 1), advice)
    expect_shape("prediction", prediction, depth.shape, advice)
    expect_shape("mask", mask, depth.shape, advice)
