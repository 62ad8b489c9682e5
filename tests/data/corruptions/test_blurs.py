import numpy as np
import pytest

from gap_jax.data.corruptions.common import corrupt
from tests.data.corruptions.made_images import LARGE, SIZES, SMALL, TINY, constant, levels, point, published


def test_defocus_is_a_disc_of_equal_weights():
    for size, severity, radius in (
        (TINY, 4, 1),
        (TINY, 5, 1.5),
        (SMALL, 2, 1),
        (SMALL, 3, 1.5),
        (SMALL, 4, 2.5),
        (LARGE, 1, 3),
    ):
        away = np.arange(size) - size // 2
        disc = away[:, None] ** 2 + away**2 <= radius**2
        corrupted = levels(corrupt(point(size), "defocus_blur", severity, ids=[0]))[0]
        assert (corrupted[disc] == 255 // disc.sum()).all() and not corrupted[~disc].any()


@pytest.mark.parametrize(("severity", "radius"), [(2, 4), (3, 6), (4, 8), (5, 10)])
def test_large_defocus_ends_at_its_radius_and_sums_to_one(severity, radius):
    image = constant(0, size=LARGE)
    image[:, :, LARGE // 2 :] = 200 / 255
    row = levels(corrupt(image, "defocus_blur", severity, ids=[0]))[0, LARGE // 2, :, 0]
    middle, reach = LARGE // 2, radius + (1 if radius <= 8 else 2)
    assert row[: middle - reach].max() == 0 and row[middle - radius + 1] > 0
    # the published kernels of radius 8 and 10 touch the sides of their arrays and are 1 % too bright
    assert row[middle + reach :] == pytest.approx(200 if radius <= 6 else 202, abs=0.6)
    chords = 2 * np.sqrt(np.maximum(radius**2 - np.arange(-radius, radius + 1) ** 2, 0)) + 1
    expected = 200 * np.cumsum(chords / chords.sum())[:-1]
    np.testing.assert_allclose(row[middle - radius : middle + radius], expected, atol=6)


def test_glass_copies_each_pixel_from_one_of_four_neighbours():
    """At CIFAR's first severity, the blur (0.05) has no effect, and pixels come from above and the left."""
    grid = np.arange(TINY) * 8
    image = np.stack([*np.meshgrid(grid, grid, indexing="ij"), np.zeros((TINY, TINY))], -1)
    images = np.repeat(image[None] / 255, 4, 0).astype(np.float32)
    corrupted = levels(corrupt(images, "glass_blur", 1, ids=range(4)))
    down, across = ((corrupted - image)[..., channel] // 8 for channel in (0, 1))
    assert not down[:, :2].any() and not across[:, :, :2].any()
    offsets, counts = np.unique(
        np.stack([down[:, 2:, 2:], across[:, 2:, 2:]], -1).reshape(-1, 2), axis=0, return_counts=True
    )
    assert offsets.tolist() == [[-1, -1], [-1, 0], [0, -1], [0, 0]]
    np.testing.assert_allclose(counts / counts.sum(), 0.25, atol=0.03)


@pytest.mark.parametrize("size", SIZES)
def test_glass_blurs_no_farther_than_it_reaches(size):
    image = constant(0, size=size)
    image[:, :, size // 2 :] = 1
    sigma, reach, rounds = {TINY: (0.4, 1, 2), SMALL: (0.9, 2, 2), LARGE: (1.5, 4, 2)}[size]
    corrupted = corrupt(image, "glass_blur", 5, ids=[0])[0]
    # a copy may be copied again, but along a row only from pixels not yet visited
    farthest = rounds * reach + 2 * round(4 * sigma)
    assert (
        not corrupted[:, : size // 2 - 2 * farthest].any()
        and (corrupted[:, size // 2 + 2 * farthest :] == 1).all()
    )
    assert len(np.unique(corrupted[:, size // 2 - 1])) > 5


@pytest.mark.parametrize(
    ("size", "severity", "motion"),
    published(
        ((6, 1), (6, 1.5), (6, 2), (8, 2), (9, 2.5)),
        ((10, 1), (10, 1.5), (10, 2), (10, 2.5), (12, 3)),
        ((10, 3), (15, 5), (15, 8), (15, 12), (20, 15)),
    ),
)
def test_motion_draws_half_a_gaussian_along_a_line(size, severity, motion):
    radius, sigma = motion
    steps = np.arange(2 * radius + 1)
    weights = np.exp(-(steps**2) / (2 * sigma**2))
    weights /= weights.sum()
    angles = []
    for i in range(12):
        drawn = levels(corrupt(point(size), "motion_blur", severity, ids=[i]))[0, ..., 0]
        rows, columns = np.nonzero(drawn)
        values = drawn[rows, columns]
        rows, columns = rows - size // 2, columns - size // 2
        assert values.sum() == pytest.approx(255, abs=len(values))
        angle = np.arctan2((values * -rows).sum(), (values * -columns).sum())
        along = -(columns * np.cos(angle) + rows * np.sin(angle))
        across = columns * np.sin(angle) - rows * np.cos(angle)
        assert np.abs(across).max() < 1.3 and along.min() > -0.5 and along.max() < 2 * radius + 1
        for moment in (1, 2):
            expected = (weights * steps**moment).sum() ** (1 / moment)
            assert ((values * along**moment).sum() / 255) ** (1 / moment) == pytest.approx(
                expected, rel=0.1, abs=0.25
            )
        angles.append(np.degrees(angle))
    assert np.abs(angles).max() < 48 and np.std(angles) > 15


@pytest.mark.parametrize(
    ("size", "severity", "zooms"),
    published(
        *2 * [((7, 0.01), (12, 0.01), (16, 0.01), (21, 0.01), (26, 0.01))],
        ((12, 0.01), (16, 0.01), (11, 0.02), (13, 0.02), (11, 0.03)),
    ),
)
def test_zoom_blur_averages_its_zooms(size, severity, zooms):
    """A constant stays, and the slope of a ramp is the average of its zooms' slopes."""
    number, step = zooms
    assert set(np.unique(levels(corrupt(constant(77, size=size), "zoom_blur", severity, ids=[0])))) == {77}
    across = np.broadcast_to(np.arange(size) / size, (1, 3, size, size)).astype(np.float32)
    corrupted = corrupt(np.moveaxis(across, 1, -1), "zoom_blur", severity, ids=[0])[0, ..., 0]
    slope = np.polyfit(np.arange(size), corrupted.mean(0) * size, 1)[0]
    factors = 1 + step * np.arange(number)
    kept = np.ceil(size / factors - 1e-9)
    slopes = (kept - 1) / (
        np.round(kept * factors) - 1
    )  # the ends of the kept part map to those of the image
    assert slope == pytest.approx((1 + slopes.sum()) / (1 + number), abs=0.003)
    np.testing.assert_allclose(corrupted, corrupted[:1].repeat(size, 0), atol=1.1 / 255)
