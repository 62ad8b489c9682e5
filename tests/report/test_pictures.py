import numpy as np
import pytest
from PIL import Image

from gap_jax.report import pictures

RAMP = np.linspace(0, 1, 9, dtype=np.float32).reshape(3, 3, 1)


def test_nearer_is_brighter_and_what_has_no_label_is_grey():
    mask = np.ones_like(RAMP, bool)
    mask[0, 0] = False
    picture = pictures.depth(RAMP, mask)
    assert picture.shape == (3, 3, 3) and picture.dtype == np.uint8
    assert tuple(picture[0, 0]) == (128, 128, 128)
    assert (np.diff(picture.astype(int).sum(-1).ravel()[1:]) < 0).all()


def test_errors_have_one_scale_black_to_bright():
    prediction = RAMP + np.float32([[0], [-0.1], [0.1]])[:, None]
    picture = pictures.error(prediction, RAMP)
    assert picture[0].max() < 8
    np.testing.assert_array_equal(picture[1], picture[2])
    np.testing.assert_array_equal(pictures.error(RAMP + 0.25, RAMP), pictures.error(RAMP + 0.9, RAMP))


def test_legends_have_the_pictures_colours():
    for kind, picture in (("depth", pictures.depth(RAMP)), ("error", pictures.error(0.25 * RAMP, 0 * RAMP))):
        ends = [bytes(picture[0, 0]).hex(), bytes(picture[-1, -1]).hex()]
        assert pictures.gradient(kind, 2) == [f"#{end}" for end in ends]


def test_floats_are_rounded_and_written_losslessly(tmp_path):
    image = np.broadcast_to(RAMP, (3, 3, 3))
    pictures.save(tmp_path / "new" / "a.png", image)
    np.testing.assert_array_equal(Image.open(tmp_path / "new" / "a.png"), np.round(image * 255))


def test_shapes_that_do_not_fit_are_refused():
    with pytest.raises(ValueError, match=r"depth must have shape \[H, W, 1\], found \[3, 3\]"):
        pictures.depth(RAMP[..., 0])
    with pytest.raises(
        ValueError, match=r"mask must have the shape of the depth, \[3, 3, 1\], found \[3, 1, 1\]"
    ):
        pictures.depth(RAMP, np.ones((3, 1, 1), bool))
    with pytest.raises(
        ValueError, match=r"prediction must have the shape of the depth, \[3, 3, 1\], found \[2, 3, 1\]"
    ):
        pictures.error(RAMP[:2], RAMP)
