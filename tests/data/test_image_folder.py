import json

import numpy as np
import pytest
from PIL import Image

from gap_jax.data.image_folder import ImageFolder, read_images
from tests.data import depth_files


def write(folder, lines, size=(40, 30)):
    """Write images of noise, their depth, and metadata.jsonl."""
    draw = np.random.default_rng(0)
    for line in lines:
        pixels = draw.integers(0, 256, (size[1], size[0], 3), np.uint8)
        Image.fromarray(pixels).save(folder / line["file_name"])
        if "depth_file_name" in line:
            depth = draw.integers(1, 65536, (size[1], size[0])).astype(np.uint16)
            depth[:, :8] = 0
            Image.fromarray(depth).save(folder / line["depth_file_name"])
    (folder / "metadata.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))


LINES = [
    {"file_name": f"{i}.png", "text": f"room {i}", "depth_file_name": f"{i}-depth.png"} for i in range(3)
]


def test_images_captions_and_depth_come_as_central_squares(tmp_path):
    write(tmp_path, LINES)
    example = ImageFolder(tmp_path, size=30)[1]
    pixels = np.asarray(Image.open(tmp_path / "1.png"))
    depth = np.asarray(Image.open(tmp_path / "1-depth.png"))
    np.testing.assert_array_equal(example["image"], pixels[:, 5:35])
    np.testing.assert_array_equal(example["depth"][..., 0], depth[:, 5:35])
    np.testing.assert_array_equal(example["mask"][..., 0] == 255, depth[:, 5:35] > 0)
    assert example["text"] == "room 1" and example["depth"].dtype == np.uint16


def test_images_are_resized_and_depth_is_not_mixed(tmp_path):
    write(tmp_path, LINES)
    example = ImageFolder(tmp_path, size=16)[0]
    assert example["image"].shape == (16, 16, 3) and example["depth"].shape == (16, 16, 1)
    assert np.isin(example["depth"], np.asarray(Image.open(tmp_path / "0-depth.png"))).all()


def test_examples_may_have_no_depth(tmp_path):
    write(tmp_path, [{"file_name": "a.png", "text": "a"}])
    source = ImageFolder(tmp_path, size=8)
    assert len(source) == 1 and set(source[0]) == {"image", "text"} and not source.has_depth


def test_grey_images_become_colour(tmp_path):
    write(tmp_path, [{"file_name": "a.png", "text": "a"}])
    Image.new("L", (20, 20), 7).save(tmp_path / "a.png")
    assert (ImageFolder(tmp_path, size=8)[0]["image"] == 7).all()


def test_bad_folders_are_named(tmp_path):
    with pytest.raises(
        FileNotFoundError, match=r"metadata.jsonl is missing: it must have a line for each image"
    ):
        ImageFolder(tmp_path, 8)
    write(tmp_path, [])
    with pytest.raises(ValueError, match=r"metadata.jsonl has no lines: write one JSON line per image"):
        ImageFolder(tmp_path, 8)
    (tmp_path / "metadata.jsonl").write_text('{"file_name": "a.png", "text": "a"}\n{"file_name": ')
    with pytest.raises(ValueError, match=r"metadata.jsonl:2 is not JSON"):
        ImageFolder(tmp_path, 8)
    (tmp_path / "metadata.jsonl").write_text('{"file_name": "a.png"}\n')
    why = r"metadata.jsonl:1 must be a JSON object with a string 'text'; found .*a.png"
    with pytest.raises(ValueError, match=why):
        ImageFolder(tmp_path, 8)
    (tmp_path / "metadata.jsonl").write_text('{"file_name": "a.png", "text": "a"}\n')
    with pytest.raises(FileNotFoundError, match=r"a.png, named in .*, is missing"):
        ImageFolder(tmp_path, 8)


def test_bad_files_are_named(tmp_path):
    write(tmp_path, LINES)
    (tmp_path / "2.png").write_bytes((tmp_path / "2.png").read_bytes()[:200])
    Image.new("L", (40, 30)).save(tmp_path / "1-depth.png")
    Image.fromarray(np.ones((8, 8), np.uint16)).save(tmp_path / "0-depth.png")
    source = ImageFolder(tmp_path, 8)
    with pytest.raises(ValueError, match=r"2.png cannot be read as an image"):
        source[2]
    with pytest.raises(ValueError, match=r"1-depth.png must be a 16-bit PNG of 40x30 pixels, found .*mode L"):
        source[1]
    with pytest.raises(ValueError, match=r"0-depth.png must be a 16-bit PNG of 40x30 pixels, found 8x8"):
        source[0]


def test_all_images_or_none_have_depth(tmp_path):
    write(tmp_path, [*LINES[:2], {"file_name": "b.png", "text": "b"}])
    with pytest.raises(ValueError, match="must have a depth_file_name, but image 3 differs"):
        ImageFolder(tmp_path, 8)


def test_an_image_that_cannot_be_read_is_named_and_left_out(tmp_path, capsys):
    with pytest.raises(FileNotFoundError, match="no images"):
        read_images(tmp_path, 8)
    for i in range(3):
        Image.fromarray(depth_files.draw(i).image).save(tmp_path / f"{i}.png")
    depth_files.truncate(tmp_path / "1.png")
    images = read_images(tmp_path, 8)
    assert images.shape == (2, 8, 8, 3) and 0 <= images.min() < images.max() <= 1
    assert "left out 1, each cannot be read as an image" in capsys.readouterr().out
    depth_files.truncate(tmp_path / "2.png")
    with pytest.raises(ValueError, match="2 of 3 examples cannot be used"):
        read_images(tmp_path, 8)
