"""The authors' and Omnidata's MiDaS loss against the formula in torch, with a whole test set as one batch."""

import jax
import numpy as np
import pytest
import torch

from gap_jax.experiments.depth.task import depth_task
from gap_jax.tasks import depth

SHAPE = (4, 17, 20, 1)


def images(seed=0):
    """Return predictions, depth and masks; the last mask is empty, and the third prediction is constant."""
    rng = np.random.default_rng(seed)
    prediction, label = 0.1 + 0.9 * rng.random((2, *SHAPE), dtype=np.float32)
    prediction[2] = 0.3
    mask = rng.random(SHAPE) < np.array([0.95, 0.5, 0.7, 0.0]).reshape(4, 1, 1, 1)
    return prediction, label, mask


def torch_midas(prediction, label, mask, weight):
    """The loss of maps `[B,H,W,1]` in float64, after `midas_loss.py` and `masked_losses.py`."""
    prediction, label = (torch.from_numpy(x[..., 0]).double() for x in (prediction, label))
    mask = torch.from_numpy(mask[..., 0])
    errors, terms = [], []
    for p, y, valid in zip(prediction, label, mask, strict=True):

        def aligned(x, valid=valid):
            if not valid.any():
                return x[valid]
            centred = x[valid] - x[valid].median()
            return centred / (centred.abs().sum() / (valid.sum() + 1) + 1e-6)

        errors.append((aligned(p) - aligned(y)).abs())
        a, b = 1 / (p + 1e-6), 1 / (y + 1e-6)
        n, aa, sa = valid.sum(), (a * a)[valid].sum(), a[valid].sum()
        ab, sb = (a * b)[valid].sum(), b[valid].sum()
        determinant = aa * n - sa * sa
        scale = shift = torch.tensor(0.0)
        if determinant > 1e-4:  # it is 0 for a constant map and an empty mask
            scale = (n * ab - sa * sb) / (determinant + 1e-6)
            shift = (aa * sb - sa * ab) / (determinant + 1e-6)
        term = 0.0
        for step in (1, 2, 4, 8):
            difference = (scale * a + shift - b)[::step, ::step]
            coarse = valid[::step, ::step]
            across = difference.diff(dim=1).abs()[coarse[:, 1:] & coarse[:, :-1]].sum()
            down = difference.diff(dim=0).abs()[coarse[1:] & coarse[:-1]].sum()
            term += float(across + down) / max(int(coarse.sum()), 1)
        terms.append(term)
    return float(torch.cat(errors).mean() + weight * np.mean(terms))


@pytest.mark.parametrize(("name", "weight"), [("authors_midas", 0.0), ("omnidata_midas", 0.1)])
def test_the_metric_is_the_formulas_over_the_whole_set(name, weight):
    prediction, label, mask = images()
    expected = torch_midas(prediction, label, mask, weight)
    label = np.where(mask, label, np.nan)
    metric = depth_task("midas").metrics[name]
    measure = jax.jit(metric.per_image)
    rows = [
        measure(prediction[part], {"depth": label[part], "mask": mask[part]})
        for part in (slice(0, 2), slice(2, 4))
    ]
    assert metric.over_set(np.concatenate(rows)) == pytest.approx(expected, rel=2e-5)


def test_the_gradient_matching_term_ignores_the_scale_and_shift_of_inverse_depth():
    _, label, mask = images()
    _, _, term = depth.omnidata_midas_parts(1 / (2 / label + 3), label, mask).T
    np.testing.assert_allclose(term, 0, atol=1e-3)


def test_predictions_of_zero_are_finite():
    prediction, label, mask = images()
    for sparse in (0 * prediction, np.where(prediction > 0.5, prediction, 0)):
        assert np.isfinite(depth.omnidata_midas(depth.omnidata_midas_parts(sparse, label, mask)))
