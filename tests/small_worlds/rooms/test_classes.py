"""The class maps of rooms against a second computation, from points and normals alone."""

import numpy as np
import pytest
from scipy import ndimage

from gap_jax.small_worlds import rooms
from gap_jax.small_worlds.rooms import renderer

COUNT, SIZE, SILL_ROWS = 4, 64, 2
FLOOR, WALL, CEILING, SPHERE, BOX, WINDOW = range(6)


def is_shell(points, normals):
    """True where no point lies behind the surface's plane: the room is convex and holds all that is seen."""
    behind = points @ normals.T - (points * normals).sum(-1)  # [other pixel, pixel]
    return behind.min(0) > -1e-3 * np.abs(points).max()


def classify(points, normals):
    """The class of each pixel `[n]` of points and normals `[n,3]`; windows are walls here.

    The camera is tilted by less than 0.3: the floor faces up (-y), ceilings and roofs down, walls neither.
    """
    upright = normals[:, 1]
    shell = np.select([upright < -0.6, upright > 0.4], [FLOOR, CEILING], WALL)
    _, place, uses = np.unique(normals.round(4), axis=0, return_inverse=True, return_counts=True)
    flat = uses[place.ravel()] > 1  # a sphere has each normal once
    return np.where(is_shell(points, normals), shell, np.where(flat, BOX, SPHERE))


@pytest.mark.parametrize("plan", rooms.PLANS)
def test_classes_follow_from_points_and_normals(plan):
    rendered = rooms.render(2, range(COUNT), [rooms.Style()] * COUNT, plan=plan)
    grid = ((np.arange(SIZE) + 0.5) / SIZE * 2 - 1) / renderer.FOCAL
    rays = np.stack([*np.meshgrid(grid, grid), np.ones((SIZE, SIZE))], -1)
    assert rendered.classes.dtype == np.int32 and rendered.classes.shape == (COUNT, SIZE, SIZE, 1)
    assert (rendered.classes[:, -SILL_ROWS:] == WALL).all()
    wrong, seen = 0, np.zeros(6, int)
    for depth, normals, classes in zip(rendered.depth, rendered.normals, rendered.classes, strict=True):
        points = (depth * renderer.RANGE * rays)[:-SILL_ROWS].reshape(-1, 3).astype(np.float32)
        expected = classify(points, normals[:-SILL_ROWS].reshape(-1, 3))
        found = classes[:-SILL_ROWS].ravel()
        wrong += np.sum(np.where(found == WINDOW, WALL, found) != expected)
        seen += np.bincount(found, minlength=6)
    assert wrong <= 1e-3 * seen.sum() and (seen[:5] > 100).all(), (wrong, seen)


def test_windows_are_where_there_is_sky_and_no_depth():
    rendered = rooms.render(0, range(60), [rooms.Style()] * 60)
    window = rendered.classes == WINDOW
    np.testing.assert_array_equal(window, ~rendered.mask)
    sky = (rendered.image == np.round(255 * np.array((0.80, 0.90, 1.00)))).all(-1, keepdims=True)
    inside = ndimage.binary_erosion(window, np.ones((1, 3, 3, 1)), border_value=1)
    assert inside.sum() > 500 and sky[inside].all() and not (sky & ~window).any()
