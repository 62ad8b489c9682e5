import itertools
import re
from functools import lru_cache
from io import BytesIO

import numpy as np
import pytest
from PIL import Image, ImageOps

from gap_jax.data.corruptions.three_d import CORRUPTIONS_3D, corrupt_3d
from gap_jax.small_worlds import rooms

SEVERITIES = (1, 2, 3, 4, 5)
FIXED = {"fog_3d", "near_focus", "far_focus", "flash", "color_quant"}


@lru_cache
def textured(count, size=64):
    looks = itertools.product(("red", "blue", "beige", "grey"), ("bright", "dark"))
    styles = list(itertools.islice(itertools.cycle(rooms.Style(*look) for look in looks), count))
    rendered = rooms.render(0, range(count), styles, size)
    return rendered.image / np.float32(255), rendered.depth, rendered.mask


def by_severity(values):
    """Return (severity, value) for a published row."""
    return list(zip(SEVERITIES, values, strict=True))


def constant(level, count=1, size=64):
    """Return grey images of `level` / 255."""
    return np.full((count, size, size, 3), level / 255, np.float32)


def plane(depth, count=1, size=64):
    """Return depth that is equal in all rows, and its mask."""
    depth = np.broadcast_to(np.asarray(depth, np.float32), (count, size, size))[..., None].copy()
    return depth, np.ones_like(depth, bool)


def near_and_far(near, far, size=64, start=None):
    """Return a row of depths that are `far` from column `start` on, by default the middle."""
    return np.where(np.arange(size) < (size // 2 if start is None else start), near, far)


def levels(images):
    """Return the 8-bit levels of float images, which must be whole."""
    rounded = np.round(images * 255.0)
    np.testing.assert_allclose(images * 255.0, rounded, atol=1e-4)
    return rounded.astype(int)


def noise(count=1, size=64):
    return (np.random.default_rng(0).integers(0, 256, (count, size, size, 3)) / 255).astype(np.float32)


def test_there_are_the_corruptions_that_need_an_image_and_depth():
    depth_of_field, motion = ("near_focus", "far_focus"), ("xy_motion_blur", "z_motion_blur")
    assert set(CORRUPTIONS_3D) == {
        *("fog_3d", "flash", "low_light", "iso_noise", "color_quant", "bit_error"),
        *(depth_of_field + motion),
    }


@pytest.mark.parametrize("name", CORRUPTIONS_3D)
@pytest.mark.parametrize("shape", [(48, 64), (96, 72)])
def test_results_are_8_bit_images_and_the_same_in_any_batch(name, shape):
    random = np.random.default_rng(0)
    images, depth = random.random((3, *shape, 3), np.float32), random.random((3, *shape, 1), np.float32)
    mask = random.random((3, *shape, 1)) < 0.9
    before = images.copy(), depth.copy()
    together = corrupt_3d(images, depth, mask, name, 4, ids=[7, 2, 9])
    alone = corrupt_3d(images[1:2], depth[1:2], mask[1:2], name, 4, ids=np.array([2]))
    np.testing.assert_array_equal(images, before[0])
    np.testing.assert_array_equal(depth, before[1])
    np.testing.assert_array_equal(together[1:2], alone)
    assert together.shape == images.shape and together.dtype == np.float32
    assert together.min() >= 0 and together.max() <= 1
    levels(together)
    assert corrupt_3d(images[:0], depth[:0], mask[:0], name, 4, ids=[]).shape == (0, *shape, 3)


@pytest.mark.parametrize("name", CORRUPTIONS_3D)
def test_ids_and_seeds_choose_what_is_random_and_nothing_else(name):
    room = textured(1)
    first = corrupt_3d(*room, name, 5, ids=[1])
    for other in (corrupt_3d(*room, name, 5, ids=[2]), corrupt_3d(*room, name, 5, ids=[1], seed=1)):
        assert (name in FIXED) == (other == first).all()


@pytest.mark.parametrize("name", CORRUPTIONS_3D)
def test_severities_grow(name):
    count = 48 if name == "bit_error" else 12
    images, depth, mask = textured(count)
    results = (corrupt_3d(images, depth, mask, name, severity, ids=range(count)) for severity in SEVERITIES)
    errors = [np.square(result - images).mean() for result in results]
    assert errors[0] > 1e-5
    assert (np.diff(errors) > 0).all(), errors


@pytest.mark.parametrize("name", CORRUPTIONS_3D)
def test_invalid_depth_is_the_farthest_whatever_it_says(name):
    images, depth, _ = textured(2)
    mask = np.ones_like(depth, bool)
    mask[:, 20:30, 25:50] = False
    farthest = np.stack([values[valid].max() for values, valid in zip(depth, mask, strict=True)])
    filled = np.where(mask, depth, farthest[:, None, None, None])
    expected = corrupt_3d(images, filled, np.ones_like(mask), name, 3, ids=[0, 1])
    for anything in (np.nan, np.inf, -5, 0):
        given = np.where(mask, depth, np.float32(anything))
        np.testing.assert_array_equal(corrupt_3d(images, given, mask, name, 3, ids=[0, 1]), expected)
    unknown = corrupt_3d(images, depth * np.float32(np.nan), mask & False, name, 3, ids=[0, 1])
    np.testing.assert_array_equal(
        unknown, corrupt_3d(images, np.ones_like(depth), mask | True, name, 3, ids=[0, 1])
    )


@pytest.mark.parametrize("name", CORRUPTIONS_3D)
def test_depth_may_be_zero(name):
    images, depth, mask = textured(1)
    depth = depth.copy()
    depth[:, 30:34, 30:34] = 0
    assert np.isfinite(corrupt_3d(images, depth, mask, name, 5, ids=[0])).all()


@pytest.mark.parametrize(("severity", "alpha"), by_severity((4, 8, 12, 16, 20)))
def test_fog_fades_into_the_images_mean(severity, alpha):
    images = noise(2)
    depth, mask = plane(np.linspace(0, 1, 64), 2)
    clear = np.exp(-alpha * depth.astype(np.float64))
    pixels = levels(images)
    expected = clear * pixels + (1 - clear) * pixels.mean((1, 2, 3), keepdims=True)
    corrupted = levels(corrupt_3d(images, depth, mask, "fog_3d", severity, ids=[0, 1]))
    np.testing.assert_allclose(corrupted + 0.5, expected, atol=0.51)


@pytest.mark.parametrize("severity", SEVERITIES)
@pytest.mark.parametrize("name", ["near_focus", "far_focus"])
def test_focus_keeps_one_side_sharp_and_blurs_the_other(name, severity):
    """White lines on planes at 0.2 and 0.8 are blurred by the radius `aperture·|1 - focus/depth|`."""
    size = 224
    sharp, blurred, aperture, defocus = {
        "near_focus": (56, 168, severity + 2, 0.6 / 0.8),
        "far_focus": (168, 56, severity + 0.5, 0.6 / 0.2),
    }[name]
    depth, mask = plane(near_and_far(0.2, 0.8, size), size=size)
    image = constant(0, size=size)
    image[:, :, (sharp, blurred)] = 1
    corrupted = levels(corrupt_3d(image, depth, mask, name, severity, ids=[0]))[0, 112, :, 0]
    assert corrupted[sharp] >= 254 and corrupted[sharp - 9 : sharp + 10].sum() == corrupted[sharp]
    radius = aperture * defocus
    away = np.arange(-28, 29)
    profile = np.where(np.abs(away) <= np.floor(1.5 * radius), np.exp(-(away**2) / (2 * radius**2)), 0)
    expected = np.floor(255 * profile / profile.sum())
    np.testing.assert_allclose(corrupted[blurred - 28 : blurred + 29], expected, atol=1)


@pytest.mark.parametrize(("name", "focus"), [("near_focus", 0), ("far_focus", 7 / 8)])
def test_blur_grows_with_the_distance_from_the_quantile_in_focus(name, focus):
    depth, mask = plane(np.linspace(0.3, 0.9, 224), size=224)
    corrupted = corrupt_3d(noise(size=224), depth, mask, name, 5, ids=[0])[0]
    roughness = corrupted.reshape(224, 28, 8, 3).std((0, 2, 3))
    assert abs(roughness.argmax() - focus * 28) <= 2
    coarse = corrupted.reshape(224, 7, 32, 3).std((0, 2, 3))
    away = coarse if name == "near_focus" else coarse[-2::-1]
    assert (np.diff(away[:4]) < 0).all() and away[4:].max() < 1.05 * away[3] < 0.5 * away[0]


@pytest.mark.parametrize("name", ["near_focus", "far_focus", "xy_motion_blur", "z_motion_blur"])
def test_blurs_leave_a_grey_image_alone(name):
    _, depth, mask = textured(2)
    corrupted = levels(corrupt_3d(constant(77, 2), depth, mask, name, 5, ids=[0, 1]))
    assert set(np.unique(corrupted)) == {77}


@pytest.mark.parametrize(("severity", "softer"), by_severity((2.4, 1.4, 0.9, 0.6, 0.4)))
def test_flash_falls_off_with_distance_squared(severity, softer):
    depth, mask = plane(np.repeat((0.1, 0.2, 0.4, 0.8), 16))
    corrupted = levels(corrupt_3d(constant(60), depth, mask, "flash", severity, ids=[0]))[0]
    for column, distance in ((20, 0.2), (40, 0.4), (60, 0.8)):  # the nearest depth of the central half is 0.2
        expected = 60 + 60 * (0.2 / distance) ** 2 / softer
        np.testing.assert_allclose(corrupted[:, column], min(expected, 255), atol=1.01)
    np.testing.assert_array_equal(corrupted[:, 5], corrupted[:, 20])


def drawn(name, severity, depth, at, image_id, size=128):
    """Return the rows and columns that a white point covers, relative to where it was."""
    image = np.zeros((1, size, size, 3), np.float32)
    image[0, at[0], at[1]] = 1
    depth, mask = plane(depth, size=size)
    corrupted = corrupt_3d(image, depth, mask, name, severity, ids=[image_id])[0, ..., 0]
    rows, columns = np.nonzero(corrupted)
    return rows - at[0], columns - at[1]


@pytest.mark.parametrize(("severity", "frames"), by_severity((20, 30, 40, 50, 60)))
def test_moving_sideways_draws_lines(severity, frames):
    """In 60 frames, points move 50 to 75 of 512 pixels across and up to 75 down."""
    lengths, sides = [], []
    for i in range(8):
        rows, columns = drawn("xy_motion_blur", severity, np.full(128, 0.5), (64, 64), i)
        end = np.abs(columns).argmax()
        assert 0 in columns and np.abs(rows * columns[end] - columns * rows[end]).max() <= 2.1 * abs(
            columns[end]
        )
        lengths.append(np.abs(columns).max())
        sides.append(np.sign(columns[end]))
        assert np.abs(rows).max() <= 75 / 4 * frames / 60 + 1
    share = (frames - 1) / 59 * 128 / 512
    assert min(lengths) >= 50 * share - 1 and max(lengths) <= 75 * share + 1
    assert max(lengths) > 60 * share and set(sides) == {-1, 1}


def test_what_is_farther_moves_less_when_moving_sideways():
    depth = near_and_far(0.2, 0.8, 128, 48)
    for i in range(4):
        near, far = (np.abs(drawn("xy_motion_blur", 5, depth, (64, at), i)[1]).max() for at in (40, 80))
        assert 12 <= near <= 20 and far == pytest.approx(near / 4, abs=1.6)


def test_the_near_hides_the_far():
    """A white strip covers the black wall behind it, and a black strip the white wall behind it."""
    strip = np.where(np.abs(np.arange(64) - 32) < 4, 0.2, 0.9)
    depth, mask = plane(strip)
    for near, far in ((1, 0), (0, 1)):
        image = np.where(strip == 0.2, near, far)[None, None, :, None] * np.ones((1, 64, 64, 3))
        corrupted = corrupt_3d(image.astype(np.float32), depth, mask, "xy_motion_blur", 5, ids=[0])[
            0, 32, :, 0
        ]
        covered = np.abs(corrupted - far) > 0.02
        assert (
            12 <= covered.sum() <= 20
        )  # 7 wide, plus 6 to 9 of its path, which begins and ends between pixels


@pytest.mark.parametrize(("severity", "frames"), by_severity((20, 25, 30, 35, 38)))
def test_moving_forward_draws_lines_from_the_centre(severity, frames):
    """In 60 frames, the camera moves 0.4 to 0.5 of the nearest depth, and up to 30 of 512 pixels sideways."""
    lengths = []
    for i in range(8):
        _, columns = drawn("z_motion_blur", severity, np.full(128, 0.5), (64, 110), i)
        lengths.append(columns[np.abs(columns).argmax()])
    time = (frames - 1) / 59
    low, high = (46.5 * (1 / (1 - share * time) - 1) for share in (0.4, 0.5))
    side = 30 / 4 * time
    assert min(lengths) >= min(low - side, 17) - 2 and max(lengths) <= high + side + 2
    if high + side < 17:  # the point stays in the image
        assert np.mean(lengths) == pytest.approx((low + high) / 2, abs=3)


def test_what_is_farther_moves_less_when_moving_forward():
    depth = near_and_far(0.2, 0.8, 128)
    moved = np.array(
        [[np.mean(drawn("z_motion_blur", 5, depth, (64, at), i)[1]) for at in (34, 93)] for i in range(6)]
    )
    near, far = np.abs(moved.mean(0))
    assert moved.mean(0)[0] < -2 and near > 2.5 * far


def test_approaching_surfaces_have_no_gaps():
    """A white strip that grows on black is equally bright in all rows."""
    wide = np.abs(np.arange(64) - 31.5) < 16
    depth, mask = plane(np.where(wide, 0.2, 0.9))
    image = np.broadcast_to(wide[None, None, :, None], (1, 64, 64, 3)).astype(np.float32)
    for i in range(4):
        corrupted = corrupt_3d(image, depth, mask, "z_motion_blur", 5, ids=[i])[0, 16:48]
        assert ((corrupted > 0.1) & (corrupted < 0.9)).any() and np.ptp(corrupted, 0).max() < 1.01 / 255


@pytest.mark.parametrize(("severity", "brightest"), by_severity((0.6, 0.5, 0.4, 0.3, 0.2)))
def test_low_light_is_squared_dimmed_and_noisy(severity, brightest):
    """Images are stretched first; noise has 120 photons and an electronic deviation of 0.018."""
    image = np.repeat(np.array((51, 153, 204)), (8, 64, 24))[None, None, :, None] / 255
    image = np.broadcast_to(image, (1, 96, 96, 3)).astype(np.float32)
    depth, mask = plane(0.5, size=96)
    corrupted = corrupt_3d(image, depth, mask, "low_light", severity, ids=[0])[0]
    for columns, stretched in ((slice(8, 72), 2 / 3), (slice(72, 96), 1)):
        expected = brightest * stretched**2
        part = corrupted[:, columns]
        assert part.mean() == pytest.approx(expected - 0.5 / 255, abs=0.004)
        assert part.var() == pytest.approx(expected / 120 + 0.018**2, rel=0.06)
    assert corrupted[:, :8].mean() < 0.01


@pytest.mark.parametrize(("severity", "electronic"), by_severity((0.056, 0.084, 0.126, 0.182, 0.266)))
def test_iso_noise_has_the_variance_of_photons_and_electronics(severity, electronic):
    depth, mask = plane(0.5, 4)
    corrupted = corrupt_3d(constant(102, 4), depth, mask, "iso_noise", severity, ids=range(4))
    random = np.random.default_rng(0)
    photons = np.minimum(random.poisson(0.4 * 25, 400_000) / 25, 1)
    expected = np.clip(photons + random.normal(0, electronic, photons.shape), 0, 1)
    if severity == 1:
        assert expected.var() == pytest.approx(0.4 / 25 + electronic**2, rel=0.02)
    assert corrupted.var() == pytest.approx(expected.var(), rel=0.03)
    assert corrupted.mean() == pytest.approx(expected.mean() - 0.5 / 255, abs=0.005)


@pytest.mark.parametrize(("severity", "bits"), by_severity((5, 4, 3, 2, 1)))
def test_color_quant_is_pils_posterisation(severity, bits):
    images, (depth, mask) = noise(), plane(0.5)
    expected = ImageOps.posterize(Image.fromarray(levels(images)[0].astype(np.uint8)), bits)
    corrupted = levels(corrupt_3d(images, depth, mask, "color_quant", severity, ids=[0]))[0]
    np.testing.assert_array_equal(corrupted, expected)


@pytest.mark.parametrize(("severity", "rate"), by_severity((5e-5, 1.2e-4, 3e-4, 7e-4, 1.5e-3)))
def test_bit_errors_hit_as_many_runs_of_blocks_as_their_rate_says(severity, rate):
    """The other blocks are those of plain JPEG."""
    images, depth, mask = textured(48)
    corrupted = levels(corrupt_3d(images, depth, mask, "bit_error", severity, ids=range(48)))
    bits, hit = [], np.zeros(8)
    for image, result in zip(levels(images), corrupted, strict=True):
        file = BytesIO()
        settings = {"quality": 95, "subsampling": 0, "restart_marker_blocks": 8}
        Image.fromarray(image.astype(np.uint8)).save(file, "JPEG", **settings)
        wrong = (np.asarray(Image.open(file)) != result).reshape(8, 8 * 64 * 3).any(1)
        hit += wrong
        coded = file.getvalue()[file.getvalue().index(b"\xff\xda") + 14 : -2]
        bits += [8 * len(run) for run in re.split(rb"\xff[\xd0-\xd7]", coded)]
    missed = np.exp(-rate * np.array(bits))
    assert len(missed) == 8 * 48
    expected, deviation = (1 - missed).sum(), np.sqrt((missed * (1 - missed)).sum())
    assert abs(hit.sum() - expected) < 3 * deviation + 0.02 * expected
    assert abs(hit[::2].sum() - hit[1::2].sum()) < 3 * deviation  # errors stop at the end of a run


IMAGES, (DEPTH, MASK) = constant(128, 2), plane(0.5, 2)
GOOD = {"images": IMAGES, "depth": DEPTH, "mask": MASK, "name": "fog_3d", "severity": 1, "ids": [0, 1]}


@pytest.mark.parametrize(
    ("changed", "message"),
    [
        ({"name": "fog"}, "'fog' is not a corruption.*fog_3d.*bit_error"),
        ({"severity": 6}, "severity must be"),
        ({"images": IMAGES.astype(np.float64)}, "found float64"),
        ({"images": IMAGES * 2}, r"images must be in \[0, 1\]"),
        ({"ids": [0]}, r"ids must have shape \[2\]"),
        ({"depth": DEPTH[:1]}, r"depth must be float32 \[2, 64, 64, 1\].*found float32 \[1, 64, 64, 1\]"),
        ({"depth": DEPTH[..., 0]}, r"depth must be float32 \[2, 64, 64, 1\]"),
        ({"depth": DEPTH.astype(np.float64)}, "depth must be float32.*found float64"),
        ({"depth": DEPTH * 3}, r"depth must be in \[0, 1\] where mask is True, found 1.5 to 1.5"),
        ({"depth": DEPTH * np.float32(np.nan)}, r"depth must be in \[0, 1\].*nan"),
        ({"mask": MASK.astype(np.uint8)}, "mask must be bool.*found uint8"),
        ({"mask": MASK[:, :32]}, r"mask must be bool \[2, 64, 64, 1\]"),
    ],
)
def test_bad_requests_say_what_is_wrong(changed, message):
    request = GOOD | changed
    arguments = (request[key] for key in ("images", "depth", "mask", "name", "severity"))
    with pytest.raises(ValueError, match=message):
        corrupt_3d(*arguments, ids=request["ids"])
