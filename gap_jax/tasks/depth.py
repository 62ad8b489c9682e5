"""Depth: losses of a prediction, the adversarial losses made of them, and what labels must be like.

Every loss is per image, `[B]` float32, so that a caller averages over as many devices as it likes. A label
is `{"depth": float [B,H,W,1] in [0,1], "mask": bool [B,H,W,1]}`, True = valid; depth where it is not valid
may be anything, NaN included. An image without a valid pixel has loss and gradient 0: labels are checked on
the host, by `check_labels`.
"""

from collections.abc import Mapping

import jax
import jax.numpy as jnp
import numpy as np

from gap_jax.data.loader import Source

NEGATIVE_PROMPT = (
    "comic,cartoon,synthetic,rendered,animated,painting,sketch,drawing,highly saturated,person,people,face,"
    "body parts,eyes"
)
_NEAREST = 1e-3  # of depth in ratios
_TINY = 1e-6  # below this, a map's mean absolute deviation is that of a constant


def l1(prediction: jax.Array, depth: jax.Array, mask: jax.Array) -> jax.Array:
    """`|prediction - depth|` averaged over each image's valid pixels, float32 `[B]`.

    The U-Net's loss in fine-tuning and evaluation. All arguments `[B,H,W,1]`, else ValueError.
    """
    return _average(_error(prediction, depth, mask), mask)


def ssi_mae(prediction: jax.Array, depth: jax.Array, mask: jax.Array) -> jax.Array:
    """The scale- and shift-invariant mean absolute error, float32 `[B]`.

    MiDaS (Ranftl et al., arXiv 1907.01341, eqs. 5-7, without the factor 1/2): each map minus its median,
    divided by its mean absolute deviation from it, both over the image's valid pixels, as is the average of
    the absolute difference. Of an even number of values the lower middle one is the median, as in torch. The
    deviation is at least 1e-6: a constant map is all 0. All arguments `[B,H,W,1]`, else ValueError.
    """
    _check_shapes(prediction, depth, mask)
    return _average(jnp.abs(_normalise(prediction, mask) - _normalise(depth, mask)), mask)


def absrel(prediction: jax.Array, depth: jax.Array, mask: jax.Array) -> jax.Array:
    """`|prediction - depth| / depth` averaged over each image's valid pixels, float32 `[B]`.

    Eigen et al., arXiv 1406.2283, section 4. Depth below 1e-3 counts as 1e-3. All arguments `[B,H,W,1]`.
    """
    known = jnp.maximum(jnp.where(mask, depth, 1.0), _NEAREST)
    return _average(_error(prediction, depth, mask) / known, mask)


def delta1(prediction: jax.Array, depth: jax.Array, mask: jax.Array) -> jax.Array:
    """The share of each image's valid pixels with `max(prediction / depth, depth / prediction)` < 1.25.

    Eigen et al., arXiv 1406.2283, section 4; float32 `[B]`, higher is better. Both are taken as at least
    1e-3. All arguments `[B,H,W,1]`.
    """
    _check_shapes(prediction, depth, mask)
    known = jnp.maximum(jnp.where(mask, depth, 1.0), _NEAREST)
    guess = jnp.maximum(prediction.astype(jnp.float32), _NEAREST)
    return _average((jnp.maximum(guess / known, known / guess) < 1.25).astype(jnp.float32), mask)


def midas(
    prediction: jax.Array, depth: jax.Array, mask: jax.Array, weight: float = 0.5, scales: int = 4
) -> jax.Array:
    """The loss of MiDaS, float32 `[B]`: half of `ssi_mae`, plus `weight` times the matching of gradients.

    Ranftl et al., arXiv 1907.01341, eqs. 11 and 12: the absolute differences of neighbours in the error of
    the normalised maps, between valid pixels, summed and divided by the number of valid pixels, at full size
    and at every second, fourth, … pixel. The DPT's loss in fine-tuning. All arguments `[B,H,W,1]`.
    """
    _check_shapes(prediction, depth, mask)
    error = _normalise(prediction, mask) - _normalise(depth, mask)
    total = _average(jnp.abs(error), mask) / 2
    for scale in range(scales):
        step = 2**scale
        part, valid = error[:, ::step, ::step], mask[:, ::step, ::step]
        across = jnp.where(valid[:, :, 1:] & valid[:, :, :-1], jnp.abs(jnp.diff(part, axis=2)), 0.0)
        down = jnp.where(valid[:, 1:] & valid[:, :-1], jnp.abs(jnp.diff(part, axis=1)), 0.0)
        total += weight * (across.sum((1, 2, 3)) + down.sum((1, 2, 3))) / _count(valid)
    return total


def negative_l1(prediction: jax.Array, label: Mapping[str, jax.Array]) -> jax.Array:
    """Adversarial, to be minimised: `-mean(|prediction - depth|·mask)`, float32 `[B]`.

    The mean is over all pixels, not only valid ones: an image weighs as much as it has of them. It is on this
    scale that early stopping has its thresholds.
    """
    return -_error(prediction, label["depth"], label["mask"]).mean((1, 2, 3))


def negative_ssi_mae(prediction: jax.Array, label: Mapping[str, jax.Array]) -> jax.Array:
    """Adversarial, to be minimised: `-ssi_mae`, float32 `[B]`."""
    return -ssi_mae(prediction, label["depth"], label["mask"])


def check_labels(depth: np.ndarray, mask: np.ndarray) -> None:
    """Raise ValueError, naming the image, for labels on which the losses mean nothing.

    `depth` float and `mask` boolean, both `[B,H,W,1]`; each image must have valid pixels, and depth must be
    finite and in [0,1] in all of them. On the host: arrays must be concrete.
    """
    depth, mask = np.asarray(depth), np.asarray(mask)
    if depth.ndim != 4 or depth.shape[-1] != 1:
        raise ValueError(f"depth must have shape [B, H, W, 1], found {list(depth.shape)}")
    if mask.shape != depth.shape:
        raise ValueError(f"mask has shape {list(mask.shape)}, depth {list(depth.shape)}: they must be equal")
    if mask.dtype != bool:
        raise ValueError(f"mask must be boolean, True = valid; found {mask.dtype}")
    for i, (values, valid) in enumerate(zip(depth, mask, strict=True)):
        values = values[valid]
        if not len(values):
            raise ValueError(f"image {i}: its mask is all false, so that no pixel has a label; leave it out")
        wrong = np.count_nonzero(~np.isfinite(values))
        if wrong:
            raise ValueError(f"image {i}: depth is NaN or infinite in {wrong} of {len(values)} valid pixels")
        if values.min() < 0 or values.max() > 1:
            found = f"{values.min():g} to {values.max():g}"
            raise ValueError(f"image {i}: depth of valid pixels must be in [0, 1], found {found}")


def _error(prediction, depth, mask):
    _check_shapes(prediction, depth, mask)
    return jnp.abs(jnp.where(mask, prediction.astype(jnp.float32) - depth, 0.0))


def _average(values, mask):
    return jnp.where(mask, values, 0.0).sum((1, 2, 3)) / _count(mask)


def _count(mask):
    return jnp.maximum(mask.sum((1, 2, 3)), 1)


def _normalise(x, mask):
    """`x` minus its median, divided by its mean absolute deviation; 0 where not valid."""
    x = jnp.where(mask, x.astype(jnp.float32), 0.0)
    values = x.reshape(len(x), -1)
    order = jnp.argsort(jnp.where(mask, jax.lax.stop_gradient(x), jnp.inf).reshape(values.shape))
    middle = jnp.take_along_axis(order, (_count(mask)[:, None] - 1) // 2, 1)
    median = jnp.take_along_axis(values, middle, 1)[:, :, None, None]
    centred = jnp.where(mask, x - median, 0.0)
    deviation = jnp.abs(centred).sum((1, 2, 3)) / _count(mask)
    return centred / jnp.maximum(deviation, _TINY)[:, None, None, None]


def _check_shapes(prediction, depth, mask):
    shapes = {"prediction": prediction.shape, "depth": depth.shape, "mask": mask.shape}
    if prediction.ndim != 4 or prediction.shape[-1] != 1 or len(set(shapes.values())) > 1:
        found = ", ".join(f"{name} {list(shape)}" for name, shape in shapes.items())
        raise ValueError(f"prediction, depth and mask must have one shape [B, H, W, 1], found {found}")


def mean_map(source: Source) -> np.ndarray:
    """The mean depth, `[H,W,1]`: of each pixel where it is valid, over 2,000 examples at the most."""
    total = count = 0.0
    for i in np.linspace(0, len(source) - 1, min(len(source), _AVERAGED)).astype(int):
        example = source[int(i)]
        total = total + np.where(example["mask"], example["depth"], 0)
        count = count + example["mask"]
    return (total / np.maximum(count, 1)).astype(np.float32)


_AVERAGED = 2000  # maps
