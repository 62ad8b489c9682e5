import colorsys
from io import BytesIO

import numpy as np
import pytest
from PIL import Image

from gap_jax.data.corruptions.common import CORRUPTIONS, corrupt
from tests.data.corruptions.made_images import (
    LARGE,
    SEVERITIES,
    SIZES,
    SMALL,
    TINY,
    constant,
    levels,
    published,
    textured,
)

# Severities after which the published parameters do not increase the mean squared error
NO_HARDER = {
    ("glass_blur", TINY): {1, 2, 4},
    ("glass_blur", SMALL): {1, 3},
    ("glass_blur", LARGE): {1, 3},
    ("elastic_transform", TINY): {1, 2, 3, 4},
    ("elastic_transform", SMALL): {1, 2, 3, 4},
    ("elastic_transform", LARGE): {2},
    ("frost", TINY): {3},  # equal frost, less of the image
    ("frost", LARGE): {3},
    ("pixelate", SMALL): {3},  # on a regular texture, 44 of 64 pixels are worse than 38
    ("fog", LARGE): {3},  # equally thick, but rougher
}


def test_there_are_the_fifteen_published_corruptions():
    noise, blur = ("gaussian_noise", "shot_noise", "impulse_noise"), ("defocus", "glass", "motion", "zoom")
    weather = ("snow", "frost", "fog", "brightness")
    digital = ("contrast", "elastic_transform", "pixelate", "jpeg_compression")
    assert (*noise, *(f"{kind}_blur" for kind in blur), *weather, *digital) == CORRUPTIONS


@pytest.mark.parametrize("name", CORRUPTIONS)
@pytest.mark.parametrize("shape", [(48, 64), (96, 72)])
def test_results_are_8_bit_images_and_the_same_in_any_batch(name, shape):
    images = np.random.default_rng(0).random((3, *shape, 3), np.float32)
    before = images.copy()
    together = corrupt(images, name, 4, ids=[7, 2, 9])
    alone = corrupt(images[1:2], name, 4, ids=np.array([2]))
    np.testing.assert_array_equal(images, before)
    np.testing.assert_array_equal(together[1:2], alone)
    assert together.shape == images.shape and together.dtype == np.float32
    assert together.min() >= 0 and together.max() <= 1
    levels(together)
    assert corrupt(images[:0], name, 4, ids=[]).shape == (0, *shape, 3)


FIXED = {"defocus_blur", "zoom_blur", "brightness", "contrast", "pixelate", "jpeg_compression"}


@pytest.mark.parametrize("name", CORRUPTIONS)
def test_ids_and_seeds_choose_what_is_random_and_nothing_else(name):
    image = textured(1, SMALL)
    first = corrupt(image, name, 3, ids=[1])
    for other in (corrupt(image, name, 3, ids=[2]), corrupt(image, name, 3, ids=[1], seed=1)):
        assert (name in FIXED) == (other == first).all()


@pytest.mark.parametrize("size", SIZES)
@pytest.mark.parametrize("name", CORRUPTIONS)
def test_severities_grow(name, size):
    """The mean squared error grows, except where the published parameters do not."""
    images = textured(24, size)
    results = (corrupt(images, name, severity, ids=range(24)) for severity in SEVERITIES)
    errors = [np.square(result - images).mean() for result in results]
    assert errors[0] > 1e-5
    for severity in set(SEVERITIES[:-1]) - NO_HARDER.get((name, size), set()):
        assert errors[severity] > 0.97 * errors[severity - 1], (severity, errors)  # 3 % for chance


@pytest.mark.parametrize(
    ("shape", "deviation"),
    [
        ((32, 32), 0.1),
        ((32, 200), 0.1),
        ((33, 33), 0.18),
        ((64, 200), 0.18),
        ((65, 65), 0.38),
        ((65, 200), 0.38),
    ],
)
def test_the_shorter_side_chooses_between_the_published_parameters(shape, deviation):
    grey = np.full((8, *shape, 3), 128 / 255, np.float32)
    drawn = np.clip(128 / 255 + np.random.default_rng(0).normal(0, deviation, 400_000), 0, 1)
    assert corrupt(grey, "gaussian_noise", 5, ids=range(8)).std() == pytest.approx(drawn.std(), rel=0.03)


@pytest.mark.parametrize(
    ("size", "severity", "deviation"),
    published((0.04, 0.06, 0.08, 0.09, 0.10), (0.04, 0.08, 0.12, 0.15, 0.18), (0.08, 0.12, 0.18, 0.26, 0.38)),
)
def test_gaussian_noise_has_its_variance(size, severity, deviation):
    noise = corrupt(constant(128, 8, size), "gaussian_noise", severity, ids=range(8)) - 128 / 255
    expected = deviation**2 + (1 / 255) ** 2 / 12
    if deviation > 0.12:  # some values are clipped
        drawn = 128 / 255 + np.random.default_rng(0).normal(0, deviation, 400_000)
        expected = np.clip(drawn, 0, 1).var()
    assert noise.var() == pytest.approx(expected, rel=0.02)
    assert noise.mean() == pytest.approx(-0.5 / 255, abs=0.004)


@pytest.mark.parametrize(
    ("size", "severity", "photons"),
    published((500, 250, 100, 75, 50), (250, 100, 50, 30, 15), (60, 25, 12, 5, 3)),
)
def test_shot_noise_has_poissons_variance_and_steps(size, severity, photons):
    corrupted = levels(corrupt(constant(51, 8, size), "shot_noise", severity, ids=range(8)))
    steps = np.floor(np.minimum(np.arange(photons + 1) / photons, 1) * 255 + 1e-9).astype(int)
    counts = np.random.default_rng(0).poisson(51 / 255 * photons, 400_000)
    assert counts.var() / photons**2 == pytest.approx(51 / 255 / photons, rel=0.01)
    assert set(np.unique(corrupted)) <= set(steps)
    expected = steps[np.minimum(counts, photons)]
    assert corrupted.var() == pytest.approx(expected.var(), rel=0.03)
    assert corrupted.mean() == pytest.approx(expected.mean(), rel=0.02)


@pytest.mark.parametrize(
    ("size", "severity", "share"),
    published((0.01, 0.02, 0.03, 0.05, 0.07), (0.01, 0.02, 0.05, 0.08, 0.14), (0.03, 0.06, 0.09, 0.17, 0.27)),
)
def test_impulse_noise_turns_its_share_of_values_black_or_white(size, severity, share):
    corrupted = levels(corrupt(constant(100, 24, size), "impulse_noise", severity, ids=range(24)))
    changed = corrupted[corrupted != 100]
    assert changed.size / corrupted.size == pytest.approx(share, rel=0.1)
    assert set(np.unique(changed)) == {0, 255} and np.mean(changed == 255) == pytest.approx(0.5, abs=0.05)
    pixels = (corrupted != 100).any(-1).mean()  # channels are hit independently
    assert pixels == pytest.approx(1 - (1 - share) ** 3, rel=0.1)


@pytest.mark.parametrize(
    ("size", "severity", "keep"),
    published((0.95, 0.9, 0.9, 0.85, 0.8), (0.8, 0.8, 0.7, 0.65, 0.6), (0.8, 0.7, 0.7, 0.65, 0.55)),
)
def test_snow_whitens_and_adds_flakes_that_are_symmetric_under_rotation(size, severity, keep):
    dark = np.zeros((4, size, size, 3), np.float32)
    dark[..., 0] = 40 / 255
    corrupted = levels(corrupt(dark, "snow", severity, ids=range(4)))
    grey = 0.299 * 40
    floor = keep * np.array((40, 0, 0)) + (1 - keep) * (1.5 * grey + 127.5)
    flakes = corrupted - floor
    assert flakes.min() > -1.01
    unclipped = (corrupted < 255).all(-1) & (corrupted[:, ::-1, ::-1] < 255).all(-1)
    np.testing.assert_array_equal(flakes[unclipped], flakes[:, ::-1, ::-1][unclipped])
    np.testing.assert_allclose(flakes[unclipped][:, 1], flakes[unclipped][:, 0], atol=1)
    assert (flakes[..., 1] > 10).mean() > 0.02


@pytest.mark.parametrize(
    ("size", "severity", "weights"),
    published(
        ((1, 0.2), (1, 0.3), (0.9, 0.4), (0.85, 0.4), (0.75, 0.45)),
        ((1, 0.3), (0.9, 0.4), (0.8, 0.45), (0.75, 0.5), (0.7, 0.55)),
        ((1, 0.4), (0.8, 0.6), (0.7, 0.7), (0.65, 0.7), (0.6, 0.75)),
    ),
)
def test_frost_is_a_weighted_sum_with_one_texture(size, severity, weights):
    keep, share = weights
    black, grey = (
        levels(corrupt(constant(level, size=size), "frost", severity, ids=[3])) for level in (0, 80)
    )
    expected = black + keep * 80
    free = expected < 253
    np.testing.assert_allclose(grey[free], expected[free], atol=1.01)
    texture = black / 255 / share
    assert texture.max() <= 1 and 0.45 < texture.mean() < 0.84 and texture.std() > 0.05
    assert (texture[..., 2] >= texture[..., 0]).all()


@pytest.mark.parametrize(
    ("size", "severity", "thickness"),
    published((0.2, 0.5, 0.75, 1, 1.5), (0.4, 0.7, 1, 1.5, 2), (1.5, 2, 2.5, 2.5, 3)),
)
def test_fog_lies_between_none_and_its_thickness(size, severity, thickness):
    value = 200 / 255
    size = 128 if size == LARGE else size  # the cloud map's own size, so that its extremes are in the image
    corrupted = corrupt(constant(200, 2, size), "fog", severity, ids=[0, 1])
    np.testing.assert_allclose(corrupted.min((1, 2, 3)), value * value / (value + thickness), atol=1.1 / 255)
    np.testing.assert_allclose(corrupted.max((1, 2, 3)), value, atol=1.1 / 255)


@pytest.mark.parametrize(("severity", "decay"), [(1, 2), (3, 1.7), (5, 1.4)])
def test_fog_is_less_rough_at_every_halving(severity, decay):
    """The noise that diamond-square adds to the mean of four corners falls by the square of the decay."""
    fog = corrupt(constant(255, 8, 128), "fog", severity, ids=range(8))[..., 0].astype(np.float64)

    def added(spacing):
        corners = fog[:, ::spacing, ::spacing]
        mean = (corners[:, :-1, :-1] + corners[:, 1:, :-1] + corners[:, :-1, 1:] + corners[:, 1:, 1:]) / 4
        half = spacing // 2
        return (fog[:, half::spacing, half::spacing][:, :-1, :-1] - mean).std()

    assert added(32) / added(16) == pytest.approx(decay**2, rel=0.15)


@pytest.mark.parametrize(
    ("size", "severity", "more"), published((0.05, 0.1, 0.15, 0.2, 0.3), *2 * [(0.1, 0.2, 0.3, 0.4, 0.5)])
)
def test_brightness_adds_to_hsvs_value(size, severity, more):
    images = (np.random.default_rng(0).integers(0, 256, (1, size, size, 3)) / 255).astype(np.float32)
    images[0, 0, :3] = np.array(([0, 0, 0], [1, 1, 1], [0.2, 0.2, 0.2]), np.float32)
    corrupted = levels(corrupt(images, "brightness", severity, ids=[0]))[0, 0]
    for pixel, result in zip(np.round(images[0, 0] * 255) / 255, corrupted, strict=True):
        hue, saturation, value = colorsys.rgb_to_hsv(*pixel)
        expected = np.array(colorsys.hsv_to_rgb(hue, saturation, min(value + more, 1)))
        np.testing.assert_array_equal(result, np.floor(expected * 255 + 1e-3))


@pytest.mark.parametrize(
    ("size", "severity", "factor"), published((0.75, 0.5, 0.4, 0.3, 0.15), *2 * [(0.4, 0.3, 0.2, 0.1, 0.05)])
)
def test_contrast_shrinks_differences_from_the_channels_mean(size, severity, factor):
    images = np.random.default_rng(0).integers(0, 256, (1, size, size, 3)) * np.array((1.0, 0.8, 0.5))
    images = np.floor(images).astype(np.float32) / np.float32(255)
    mean = np.round(images.astype(np.float64) * 255).mean((1, 2), keepdims=True)
    expected = np.floor(factor * (np.round(images * 255.0) - mean) + mean + 1e-3)
    np.testing.assert_array_equal(levels(corrupt(images, "contrast", severity, ids=[0])), expected)


@pytest.mark.parametrize("size", SIZES)
@pytest.mark.parametrize("severity", SEVERITIES)
def test_elastic_only_moves(severity, size):
    images = 0.2 + 0.5 * textured(2, size)
    corrupted = corrupt(images, "elastic_transform", severity, ids=[0, 1])
    low, high = images.min((1, 2)), images.max((1, 2))
    assert (corrupted.min((1, 2)) >= low - 1.01 / 255).all() and (
        corrupted.max((1, 2)) <= high + 1.01 / 255
    ).all()
    assert set(
        np.unique(levels(corrupt(constant(77, size=size), "elastic_transform", severity, ids=[0])))
    ) == {77}


@pytest.mark.parametrize(
    ("size", "severity", "jitter"), [(TINY, 1, 0.08), (SMALL, 1, 0.08), (LARGE, 3, 0.02 * 244 / 224)]
)
def test_elastic_moves_three_corners_by_at_most_its_jitter(size, severity, jitter):
    """Ramps show where a pixel came from, up to the displacement, whose bounds are known."""
    grid = (np.arange(size) / size).astype(np.float32)
    image = np.stack([*np.meshgrid(grid, grid, indexing="ij"), np.zeros((size, size), np.float32)], -1)[None]
    field = 0 if size < LARGE else 0.05 * 244 / 224 * size / 3
    moves = []
    for i in range(24):
        came_from = (
            (levels(corrupt(image, "elastic_transform", severity, ids=[i]))[0, ..., :2] + 0.5) / 255 * size
        )
        moved = came_from - np.stack(np.indices((size, size)), -1)
        centre, reach = size // 2, size // 3
        corners = np.array(((1, 1), (1, -1), (-1, -1))) * reach + centre
        moves.append(moved[corners[:, 0], corners[:, 1]])
    assert np.abs(moves).max() < 1.5 * jitter * size + field + 0.5
    spread = np.std(moves) * np.sqrt(3) / (jitter * size)
    assert 0.8 < spread < 1.5
    if size == SMALL:  # the first severity is affine only
        assert spread == pytest.approx(1, abs=0.15)
        inner = moved[20:44, 20:44]
        rows, columns = (axis.ravel() for axis in np.indices((24, 24)))
        plane = np.stack([rows, columns, np.ones(576)], 1)
        fitted = plane @ np.linalg.lstsq(plane, inner.reshape(-1, 2), rcond=None)[0]
        assert np.abs(fitted - inner.reshape(-1, 2)).max() < 0.3


@pytest.mark.parametrize(
    ("size", "severity", "share"),
    published((0.95, 0.9, 0.85, 0.75, 0.65), (0.9, 0.8, 0.7, 0.6, 0.5), (0.6, 0.5, 0.4, 0.3, 0.25)),
)
def test_pixelate_is_pils_box_there_and_back(size, severity, share):
    image = textured(1, size)
    few = int(size * share)
    picture = Image.fromarray(levels(image)[0].astype(np.uint8))
    expected = picture.resize((few, few), Image.Resampling.BOX).resize((size, size), Image.Resampling.BOX)
    np.testing.assert_array_equal(levels(corrupt(image, "pixelate", severity, ids=[0]))[0], expected)


@pytest.mark.parametrize(
    ("size", "severity", "quality"),
    published((80, 65, 58, 50, 40), (65, 58, 50, 40, 25), (25, 18, 15, 10, 7)),
)
def test_jpeg_is_pils(size, severity, quality):
    image = textured(1, size)
    file = BytesIO()
    Image.fromarray(levels(image)[0].astype(np.uint8)).save(file, "JPEG", quality=quality)
    corrupted = levels(corrupt(image, "jpeg_compression", severity, ids=[0]))[0]
    np.testing.assert_array_equal(corrupted, np.asarray(Image.open(file)))


GOOD = {"images": constant(128, 2), "name": "fog", "severity": 1, "ids": [0, 1], "seed": 0}


@pytest.mark.parametrize(
    ("changed", "message"),
    [
        ({"name": "mist"}, "'mist' is not a corruption.*gaussian_noise.*jpeg_compression"),
        ({"severity": 0}, "severity must be"),
        ({"severity": 6}, "severity must be"),
        ({"severity": 2.0}, "severity must be"),
        ({"images": GOOD["images"][0]}, r"float32 \[B, H, W, 3\].*\[64, 64, 3\]"),
        ({"images": GOOD["images"][..., :1]}, r"found float32 \[2, 64, 64, 1\]"),
        ({"images": GOOD["images"].astype(np.float64)}, "found float64"),
        ({"images": (GOOD["images"] * 255).astype(np.uint8)}, "found uint8"),
        ({"images": GOOD["images"] * 255}, r"in \[0, 1\], found 128 to 128"),
        ({"images": GOOD["images"] - 1}, r"in \[0, 1\]"),
        ({"images": GOOD["images"] * np.float32(np.nan)}, r"in \[0, 1\], found nan"),
        ({"images": GOOD["images"][:, :8]}, "16 pixels or more"),
        ({"ids": [0]}, r"ids must have shape \[2\]"),
        ({"ids": 0}, r"ids must have shape \[2\]"),
        ({"ids": [0, -1]}, "integers, 0 or more"),
        ({"ids": [0.0, 1.0]}, "integers, 0 or more"),
        ({"seed": -1}, "seed must be"),
    ],
)
def test_bad_requests_say_what_is_wrong(changed, message):
    request = GOOD | changed
    with pytest.raises(ValueError, match=message):
        corrupt(
            request["images"], request["name"], request["severity"], ids=request["ids"], seed=request["seed"]
        )
