import numpy as np
import pytest

from gap_jax.data.corruptions.files import list_corruptions, precomputed_sets, read_corrupted
from tests.data.depth_files import SIDE, draw, save, truncate

FILES = ["hanson_rgb/rgb/point_0_view_0_domain_rgb.png", "hanson_rgb/rgb/point_1_view_3_domain_rgb.png"]


@pytest.fixture
def root(tmp_path):
    for i, folder in enumerate(("flash/1", "flash/5", "occlusion/2")):
        for j, file in enumerate(FILES):
            save(tmp_path / folder / file, draw(2 * i + j).image)
    (tmp_path / "notes" / "6").mkdir(parents=True)
    return tmp_path


def test_every_existing_corruption_and_severity_is_a_set(root):
    assert list_corruptions(root) == [("flash", 1), ("flash", 5), ("occlusion", 2)]
    sets = list(precomputed_sets(root, FILES, SIDE))
    assert [tuple(name) for *name, _ in sets] == [("flash", 1), ("flash", 5), ("occlusion", 2)]
    for i, (_, _, images) in enumerate(sets):
        expected = np.stack([draw(2 * i + j).image for j in range(2)]) / np.float32(255)
        assert images.dtype == np.float32
        np.testing.assert_array_equal(images, expected)


def test_images_are_in_the_order_of_the_clean_ones(root):
    forth, back = (read_corrupted(root, "flash", 5, files, 8) for files in (FILES, FILES[::-1]))
    np.testing.assert_array_equal(forth, back[::-1])


def test_missing_and_damaged_files_are_named(root):
    with pytest.raises(FileNotFoundError, match=r"fog_3d/3 lacks 2 of 2 images: hanson_rgb/rgb/point_0"):
        read_corrupted(root, "fog_3d", 3, FILES, 8)
    truncate(root / "flash/1" / FILES[1])
    with pytest.raises(
        ValueError, match=r"flash/1/.*point_1_view_3_domain_rgb.png cannot be read as an image"
    ):
        read_corrupted(root, "flash", 1, FILES, 8)
    with pytest.raises(FileNotFoundError, match=r"has no folders {corruption}/{severity}"):
        list_corruptions(root / "flash" / "1")
