import pytest
from PIL import Image

from gap_jax.data.images import read_images
from tests.data import depth_files


def test_an_image_that_cannot_be_read_is_named_and_left_out(tmp_path, capsys):
    with pytest.raises(FileNotFoundError, match="no images"):
        read_images(tmp_path, 8)
    for i in range(3):
        Image.fromarray(depth_files.draw(i).image).save(tmp_path / f"{i}.png")
    depth_files.truncate(tmp_path / "1.png")
    found = read_images(tmp_path, 8)
    assert found.shape == (2, 8, 8, 3) and 0 <= found.min() < found.max() <= 1
    assert "left out 1, each cannot be read as an image" in capsys.readouterr().out
    depth_files.truncate(tmp_path / "2.png")
    with pytest.raises(ValueError, match="2 of 3 examples cannot be used"):
        read_images(tmp_path, 8)
