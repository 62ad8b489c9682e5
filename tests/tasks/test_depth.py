"""Depth losses and their gradients against the paper's formulas written in torch."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import torch

from gap_jax.tasks import depth

SHAPE = (3, 6, 7, 1)


def batch(seed=0):
    """Return prediction, depth and mask; masks have an even, an odd and the full number of valid pixels."""
    rng = np.random.default_rng(seed)
    prediction, label = rng.random((2, *SHAPE), dtype=np.float32)
    mask = rng.random(SHAPE) < 0.6
    mask[0, 0, 0] ^= mask[0].sum() % 2 == 1
    mask[1, 0, 0] ^= mask[1].sum() % 2 == 0
    mask[2] = True
    return prediction, label, mask


def torch_l1(prediction, label, mask):
    return torch.stack([(p - y).abs()[m].mean() for p, y, m in zip(prediction, label, mask, strict=True)])


def torch_ssi_mae(prediction, label, mask):
    def normalise(x):
        centred = x - x.median()
        return centred / centred.abs().mean()

    images = zip(prediction, label, mask, strict=True)
    return torch.stack([(normalise(p[m]) - normalise(y[m])).abs().mean() for p, y, m in images])


def torch_negative_l1(prediction, label, mask):
    return -((prediction - label).abs() * mask).mean((1, 2, 3))


def with_label(loss):
    return lambda prediction, label, mask: loss(prediction, {"depth": label, "mask": mask})


LOSSES = {
    "l1": (depth.l1, torch_l1),
    "ssi_mae": (depth.ssi_mae, torch_ssi_mae),
    "negative_l1": (with_label(depth.negative_l1), torch_negative_l1),
    "negative_ssi_mae": (with_label(depth.negative_ssi_mae), lambda *arrays: -torch_ssi_mae(*arrays)),
}


@pytest.mark.parametrize("transform", [jax.jit, lambda f: f], ids=["jit", "no jit"])
@pytest.mark.parametrize("name", LOSSES)
def test_losses_and_gradients_equal_torchs(name, transform):
    ours, theirs = LOSSES[name]
    prediction, label, mask = batch()
    weights = np.array([1.0, -2.0, 3.0], np.float32)
    variable = torch.tensor(prediction, dtype=torch.float64, requires_grad=True)
    expected = theirs(variable, torch.from_numpy(label).double(), torch.from_numpy(mask))
    (expected * torch.from_numpy(weights)).sum().backward()

    value, pull = jax.vjp(transform(lambda x: ours(x, label, mask)), prediction)
    np.testing.assert_allclose(value, expected.detach(), rtol=1e-5)
    np.testing.assert_allclose(pull(jnp.asarray(weights))[0], variable.grad, rtol=1e-4, atol=1e-6)


@pytest.mark.parametrize("name", LOSSES)
def test_images_are_independent_and_populations_can_be_mapped(name):
    loss, _ = LOSSES[name]
    arrays = batch()
    alone = [loss(*(x[i : i + 1] for x in arrays))[0] for i in range(len(arrays[0]))]
    np.testing.assert_allclose(loss(*arrays), alone, rtol=1e-6)
    populations = tuple(np.stack([x, x[::-1]]) for x in arrays)
    np.testing.assert_allclose(jax.vmap(loss)(*populations), [alone, alone[::-1]], rtol=1e-6)


@pytest.mark.parametrize("name", LOSSES)
@pytest.mark.parametrize("poison", [np.nan, np.inf, 1e30])
def test_invalid_pixels_have_no_influence(name, poison):
    loss, _ = LOSSES[name]
    prediction, label, mask = batch()
    gradient = jax.grad(lambda x, y: loss(x, y, mask).sum())
    poisoned = np.where(mask, label, np.float32(poison))
    np.testing.assert_array_equal(loss(prediction, poisoned, mask), loss(prediction, label, mask))
    np.testing.assert_array_equal(gradient(prediction, poisoned), gradient(prediction, label))
    assert not gradient(prediction, label)[~mask].any()


@pytest.mark.parametrize("name", LOSSES)
def test_an_image_without_valid_pixels_has_loss_and_gradient_zero(name):
    loss, _ = LOSSES[name]
    prediction, label, mask = batch()
    mask[1] = False
    label[1] = np.nan
    values, gradient = (
        loss(prediction, label, mask),
        jax.grad(lambda x: loss(x, label, mask).sum())(prediction),
    )
    assert values[1] == 0 and not gradient[1].any()
    assert np.isfinite(values).all() and np.isfinite(gradient).all()


def test_ssi_mae_ignores_scale_and_shift():
    prediction, label, mask = batch()
    np.testing.assert_allclose(
        depth.ssi_mae(3 * prediction + 7, label, mask), depth.ssi_mae(prediction, label, mask), rtol=1e-4
    )
    np.testing.assert_allclose(depth.ssi_mae(2 * label - 1, label, mask), 0, atol=1e-5)


def test_ssi_mae_of_a_constant_prediction_is_finite():
    prediction, label, mask = batch()
    constant = np.full_like(prediction, 0.3)
    np.testing.assert_allclose(
        depth.ssi_mae(constant, label, mask), 1, rtol=1e-5
    )  # that of 0 to a unit deviation
    assert np.isfinite(jax.grad(lambda x: depth.ssi_mae(x, label, mask).sum())(constant)).all()


@pytest.mark.parametrize("name", LOSSES)
def test_losses_of_half_precision_predictions_are_float32(name):
    loss, _ = LOSSES[name]
    prediction, label, mask = batch()
    half = jnp.asarray(prediction, jnp.bfloat16)
    assert loss(half, label, mask).dtype == jnp.float32
    np.testing.assert_array_equal(loss(half, label, mask), loss(half.astype(jnp.float32), label, mask))


@pytest.mark.parametrize("name", LOSSES)
def test_losses_refuse_shapes_that_would_only_broadcast(name):
    loss, _ = LOSSES[name]
    prediction, label, mask = batch()
    with pytest.raises(
        ValueError, match=r"mask must have shape \[3, 6, 7, 1\], found \[3, 6, 7\]: .*one shape"
    ):
        loss(prediction, label, mask[..., 0])
    with pytest.raises(ValueError, match=r"prediction must have shape \[3, 6, 7, 1\], found \[3, 3, 7, 1\]"):
        loss(prediction[:, :3], label, mask)


def test_good_labels_pass():
    _, label, mask = batch()
    depth.check_labels(np.where(mask, label, np.nan), mask)


def set_pixel(array, value):
    array[1, 2, 3, 0] = value


@pytest.mark.parametrize(
    "spoil, message",
    [
        (lambda label, mask: set_pixel(label, np.nan), r"image 1: depth is NaN or infinite in 1 of 42"),
        (lambda label, mask: set_pixel(label, -np.inf), r"image 1: depth is NaN or infinite in 1 of 42"),
        (
            lambda label, mask: set_pixel(label, 1.5),
            r"image 1: depth of valid pixels must be in \[0, 1\].*1\.5",
        ),
        (lambda label, mask: set_pixel(label, -0.25), r"image 1: .*found -0\.25 to"),
        (lambda label, mask: mask[1].fill(False), r"image 1: its mask is all false"),
    ],
)
def test_bad_labels_are_named(spoil, message):
    _, label, _ = batch()
    mask = np.ones(SHAPE, bool)
    spoil(label, mask)
    with pytest.raises(ValueError, match=message):
        depth.check_labels(label, mask)


def test_labels_of_wrong_shape_or_type_are_refused():
    _, label, mask = batch()
    with pytest.raises(ValueError, match=r"depth must have shape \[\*, \*, \*, 1\], found \[3, 6, 7\]"):
        depth.check_labels(label[..., 0], mask)
    with pytest.raises(ValueError, match=r"mask must have shape \[3, 6, 7, 1\], found \[3, 6, 6, 1\]"):
        depth.check_labels(label, mask[:, :, :6])
    with pytest.raises(ValueError, match=r"depth must be floats in \[0,1\], found uint8"):
        depth.check_labels(label.astype(np.uint8), mask)
    with pytest.raises(ValueError, match="mask must be boolean, True = valid; found float32"):
        depth.check_labels(label, mask.astype(np.float32))


def test_absrel_and_delta1_by_hand():
    truth = np.array([[0.2, 0.4], [0.5, 0.0]], np.float32).reshape(1, 2, 2, 1)
    prediction = np.array([[0.24, 0.6], [0.41, 0.9]], np.float32).reshape(1, 2, 2, 1)
    mask = np.array([[True, True], [True, False]]).reshape(1, 2, 2, 1)
    relative = (0.04 / 0.2 + 0.2 / 0.4 + 0.09 / 0.5) / 3
    np.testing.assert_allclose(depth.absrel(prediction, truth, mask), [relative], rtol=1e-5)
    np.testing.assert_allclose(depth.delta1(prediction, truth, mask), [2 / 3], rtol=1e-5)


@pytest.mark.parametrize("name", ["absrel", "delta1"])
def test_ratios_stay_finite_where_depth_is_zero_or_not_valid(name):
    truth = np.array([[0.0, np.nan]], np.float32).reshape(1, 1, 2, 1)
    mask = np.array([[True, False]]).reshape(1, 1, 2, 1)
    value = getattr(depth, name)(np.zeros((1, 1, 2, 1), np.float32), truth, mask)
    assert np.isfinite(value).all()


def test_midas_loss_is_its_papers_summed_pixel_by_pixel():
    random = np.random.default_rng(0)
    prediction, truth = random.uniform(0, 1, (2, 1, 9, 11, 1)).astype(np.float32)
    mask = random.random((1, 9, 11, 1)) < 0.8

    def normalised(x):
        values = np.sort(x[mask])
        median = values[(len(values) - 1) // 2]
        return (x - median)[0, ..., 0] / np.abs(values - median).mean()

    error, valid = normalised(prediction) - normalised(truth), mask[0, ..., 0]
    expected = np.abs(error[valid]).mean() / 2
    for step in (1, 2, 4, 8):
        coarse, coarse_valid = error[::step, ::step], valid[::step, ::step]
        total = 0.0
        for i, j in np.argwhere(coarse_valid):
            for k, m in ((i + 1, j), (i, j + 1)):
                if k < coarse.shape[0] and m < coarse.shape[1] and coarse_valid[k, m]:
                    total += abs(coarse[k, m] - coarse[i, j])
        expected += 0.5 * total / max(coarse_valid.sum(), 1)
    np.testing.assert_allclose(depth.midas(prediction, truth, mask), [expected], rtol=1e-5)


def test_the_mean_map_is_the_mean_of_valid_pixels():
    first = {"depth": np.full((2, 2, 1), 0.2), "mask": np.ones((2, 2, 1), bool)}
    second = {"depth": np.full((2, 2, 1), 0.6), "mask": np.array([[[True], [True]], [[False], [False]]])}
    np.testing.assert_allclose(depth.mean_map([first, second])[..., 0], [[0.4, 0.4], [0.2, 0.2]])
