"""The renderer of rooms: its geometry, its pictures and their determinism."""

import itertools

import numpy as np
import pytest

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


def test_depth_is_that_of_the_surfaces_whose_normals_are_given():
    """Where a pixel and its neighbours lie on one plane, its normal follows from their depth."""
    size = 256
    rendered = rooms.render(0, range(4), [PLAIN] * 4, size)
    grid = ((np.arange(size) + 0.5) / size * 2 - 1) / renderer.FOCAL
    rays = np.stack([*np.meshgrid(grid, grid), np.ones((size, size))], -1)
    points = rendered.depth.astype(np.float64) * renderer.RANGE * rays
    across, down = points[:, 1:-1, 2:] - points[:, 1:-1, :-2], points[:, 2:, 1:-1] - points[:, :-2, 1:-1]
    crossed = np.cross(down, across)
    crossed /= np.linalg.norm(crossed, axis=-1, keepdims=True)
    agreement = (crossed * rendered.normals[:, 1:-1, 1:-1]).sum(-1)
    assert np.mean(agreement > 0.9999) > 0.9


def test_the_farthest_point_is_as_far_in_every_room():
    rendered = rooms.render(2, range(50), [PLAIN] * 50)
    farthest = rendered.depth.max((1, 2, 3)) * renderer.RANGE
    assert np.abs(farthest - renderer.FARTHEST).max() < 0.35  # less than a pixel away


def test_the_nearest_point_is_the_sill_in_every_room():
    depth = rooms.render(2, range(200), [PLAIN] * 200).depth * renderer.RANGE
    np.testing.assert_allclose(depth[:, -2:], renderer.NEAREST, rtol=1e-6)
    assert (depth[:, :-2] > renderer.NEAREST).all()


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
    with pytest.raises(ValueError, match="'huge'"):
        rooms.render(0, [0], [rooms.Style(texture="huge")])
