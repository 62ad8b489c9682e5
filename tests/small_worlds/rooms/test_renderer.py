"""The renderer of rooms: its geometry, its pictures and their determinism."""

import itertools

import numpy as np
import pytest
from scipy import signal

from gap_jax.small_worlds import rooms
from gap_jax.small_worlds.rooms import renderer

EVERY_STYLE = [rooms.Style(*words) for words in itertools.product(*rooms.AXES.values())]
PLAIN = rooms.Style()


def test_the_same_arguments_give_the_same_bits_in_any_batch():
    styles = [rooms.draw_style(0, i) for i in (3, 8, 11)]
    together = rooms.render(0, [3, 8, 11], styles)
    alone = rooms.render(0, [8], styles[1:2])
    for whole, part in zip(together[:4], alone[:4], strict=True):
        np.testing.assert_array_equal(whole[1:2], part)


def test_splits_share_no_room():
    worlds = [rooms.render(seed, range(40), [PLAIN] * 40).depth for seed in rooms.SPLITS.values()]
    rows = np.concatenate(worlds).reshape(120, -1)
    assert len(np.unique(rows, axis=0)) == 120


def test_shapes_and_ranges():
    rendered = rooms.render(1, range(16), EVERY_STYLE[:16], size=80)
    assert rendered.image.shape == (16, 80, 80, 3) and rendered.image.dtype == np.uint8
    assert rendered.depth.shape == rendered.mask.shape == (16, 80, 80, 1)
    assert rendered.depth.dtype == np.float32 and rendered.mask.dtype == bool
    assert rendered.depth.min() > 0 and rendered.depth.max() <= 1
    np.testing.assert_allclose(np.linalg.norm(rendered.normals, axis=-1), 1, atol=1e-4)


@pytest.mark.parametrize("plan", rooms.PLANS)
def test_depth_is_that_of_the_surfaces_whose_normals_are_given(plan):
    """Where a pixel and its neighbours lie on one plane, its normal follows from their depth."""
    size = 256
    rendered = rooms.render(0, range(4), [PLAIN] * 4, size, plan)
    grid = ((np.arange(size) + 0.5) / size * 2 - 1) / renderer.FOCAL
    rays = np.stack([*np.meshgrid(grid, grid), np.ones((size, size))], -1)
    points = rendered.depth.astype(np.float64) * renderer.RANGE * rays
    across, down = points[:, 1:-1, 2:] - points[:, 1:-1, :-2], points[:, 2:, 1:-1] - points[:, :-2, 1:-1]
    crossed = np.cross(down, across)
    crossed /= np.linalg.norm(crossed, axis=-1, keepdims=True)
    agreement = (crossed * rendered.normals[:, 1:-1, 1:-1]).sum(-1)
    assert np.mean(agreement > 0.9999) > 0.9


@pytest.mark.parametrize("plan", rooms.PLANS)
def test_the_farthest_point_is_as_far_in_every_room(plan):
    rendered = rooms.render(2, range(50), [PLAIN] * 50, plan=plan)
    farthest = rendered.depth.max((1, 2, 3)) * renderer.RANGE
    assert np.abs(farthest - renderer.FARTHEST).max() < 0.55  # less than a pixel away


def test_the_nearest_point_is_the_sill_in_every_room():
    depth = rooms.render(2, range(200), [PLAIN] * 200).depth * renderer.RANGE
    np.testing.assert_allclose(depth[:, -2:], renderer.NEAREST, rtol=1e-6)
    assert (depth[:, :-2] > renderer.NEAREST).all()


def test_corridors_are_longer_for_their_width_and_attics_have_slanted_roofs():
    """Shares of the pixels whose surface faces the side, and whose surface faces neither side nor up."""
    sides, slanted = [], []
    for plan in rooms.PLANS:
        normals = rooms.render(2, range(40), [PLAIN] * 40, plan=plan).normals
        sides.append(np.mean(np.abs(normals[..., 0]) > 0.7))
        slanted.append(np.mean((normals[..., 1] > 0.4) & (normals[..., 1] < 0.85)))
    assert sides[1] > 1.5 * sides[0] and slanted[2] > 10 * slanted[0] and slanted[2] > 0.2


def test_the_pattern_is_carved_from_space():
    """On a plane, colours are proportional to 0.80 + 0.28 tanh(3 sin kx sin ky sin kz), with k of 0.8 m."""
    size = 256
    rendered = rooms.render(0, range(6), [PLAIN] * 6, size)
    grid = ((np.arange(size) + 0.5) / size * 2 - 1) / renderer.FOCAL
    rays = np.stack([*np.meshgrid(grid, grid), np.ones((size, size))], -1)
    waves = np.sin(2 * np.pi / 0.8 * rendered.depth.astype(np.float64) * renderer.RANGE * rays)
    factor = 0.80 + 0.28 * np.tanh(3 * waves.prod(-1))
    for image, depth, normals, expected in zip(*rendered[:2], rendered.normals, factor, strict=True):
        planes, counts = np.unique(normals.reshape(-1, 3).round(3), axis=0, return_counts=True)
        largest = (normals.round(3) == planes[counts.argmax()]).all(-1)
        near = largest & (depth[..., 0] * renderer.RANGE > 0.5) & (depth[..., 0] * renderer.RANGE < 3)
        colour = image[near].mean(-1) / expected[near]
        assert near.sum() > 1000 and np.mean(np.abs(colour / np.median(colour) - 1) < 0.05) > 0.9


def test_some_rooms_have_windows_without_depth():
    masks = rooms.render(0, range(100), [PLAIN] * 100).mask
    with_window = (~masks).any((1, 2, 3)).mean()
    assert 0.1 < with_window < 0.6 and masks.mean((1, 2, 3)).min() > 0.5


def test_every_word_changes_the_picture_and_nothing_else():
    plain = rooms.render(0, [5], [PLAIN])
    for i, words in enumerate(rooms.AXES.values()):
        for word in set(words) - {PLAIN[i]}:
            changed = rooms.render(0, [5], [rooms.Style(*PLAIN[:i], word, *PLAIN[i + 1 :])])
            assert np.abs(changed.image.astype(int) - plain.image).mean() > 4, word
            np.testing.assert_array_equal(changed.depth, plain.depth)


def photograph(camera, size=64, light="bright"):
    """Return pictures of four rooms by this camera and by a sharp one, float `[4,S,S,3]` in [0,1]."""
    both = [[rooms.Style("beige", light, camera=name)] * 4 for name in (camera, "sharp")]
    return (rooms.render(0, range(4), styles, size).image.astype(np.float64) / 255 for styles in both)


def test_a_blurry_picture_is_convolved_with_a_gaussian():
    blurry, sharp = photograph("blurry", 128)
    weights = np.exp(-(np.arange(-12, 13) ** 2) / (2 * 3.2**2))
    kernel = np.outer(weights, weights)[..., None] / weights.sum() ** 2
    for image, original in zip(blurry, sharp, strict=True):
        expected = signal.convolve(original, kernel, "valid")
        np.testing.assert_allclose(image[12:-12, 12:-12], expected, atol=2 / 255)


def test_a_faded_picture_has_a_quarter_of_the_contrast():
    faded, sharp = photograph("faded")
    mean = sharp.mean((1, 2), keepdims=True)
    np.testing.assert_allclose(faded, mean + 0.25 * (sharp - mean), atol=1.5 / 255)


def test_grain_is_grey_noise_of_two_by_two_pixels():
    grainy, sharp = (
        x.reshape(4, 32, 2, 32, 2, 3).swapaxes(2, 3) for x in photograph("grainy", light="overexposed")
    )
    grain = (grainy - sharp)[((sharp > 0.4) & (sharp < 0.65)).all((3, 4, 5))]  # is hardly ever clipped
    assert len(grain) > 300 and np.median(np.ptp(grain, (1, 2, 3))) < 2.1 / 255
    assert grain.std() == pytest.approx(0.15, rel=0.1) and abs(grain.mean()) < 0.02
    assert len({image.tobytes() for image in grainy - sharp}) == 4


def test_a_pixelated_picture_has_blocks_of_three_by_three_pixels():
    pixelated, sharp = photograph("pixelated")
    blocks = sharp[:, :63, :63].reshape(4, 21, 3, 21, 3, 3).mean((2, 4))
    expected = blocks.repeat(3, 1).repeat(3, 2)
    np.testing.assert_allclose(pixelated[:, :63, :63], expected, atol=1.5 / 255)
    np.testing.assert_allclose(pixelated[:, 63, 63], sharp[:, 63, 63], atol=1.5 / 255)


def test_fog_is_the_law_of_beer_and_lambert():
    clear, foggy = (rooms.render(0, [0], [rooms.Style(air=air)]) for air in ("clear", "foggy"))
    share = np.exp(-0.35 * clear.depth[0] * renderer.RANGE)
    expected = share * clear.image[0] + (1 - share) * 255 * np.array((0.86, 0.88, 0.90))
    error = np.abs(expected - foggy.image[0])
    assert np.median(error) < 1


def test_wrong_sizes_and_words_are_refused():
    with pytest.raises(ValueError, match="size must be at least 64 pixels, found 32"):
        rooms.render(0, [0], [PLAIN], size=32)
    with pytest.raises(ValueError, match="every room needs a style, found 2 rooms and 1 styles"):
        rooms.render(0, [0, 1], [PLAIN])
    with pytest.raises(ValueError, match="plan must be one of room, corridor, attic, found 'hall'"):
        rooms.render(0, [0], [PLAIN], plan="hall")
    with pytest.raises(ValueError, match="'huge'"):
        rooms.render(0, [0], [rooms.Style(camera="huge")])
