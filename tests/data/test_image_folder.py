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
    with pytest.raises(ValueError, match=r"each is not JSON: .*metadata.jsonl:2"):
        ImageFolder(tmp_path, 8)
    (tmp_path / "metadata.jsonl").write_text('{"file_name": "a.png"}\n')
    why = r"each must be a JSON object with a string 'text': .*metadata.jsonl:1"
    with pytest.raises(ValueError, match=why):
        ImageFolder(tmp_path, 8)
    (tmp_path / "metadata.jsonl").write_text('{"file_name": "a.png", "text": "a"}\n')
    with pytest.raises(ValueError, match=r"cannot be read as an image: No such file.*a.png"):
        ImageFolder(tmp_path, 8)


def test_bad_files_are_named(tmp_path, capsys):
    write(tmp_path, LINES)
    (tmp_path / "2.png").write_bytes((tmp_path / "2.png").read_bytes()[:200])
    Image.new("L", (40, 30)).save(tmp_path / "1-depth.png")
    Image.fromarray(np.ones((8, 8), np.uint16)).save(tmp_path / "0-depth.png")
    with pytest.raises(ValueError, match="3 of 3 examples cannot be used"):
        ImageFolder(tmp_path, 8)
    output = capsys.readouterr().out
    for why, name in (
        ("cannot be read as an image: it is damaged or incomplete", "2.png"),
        ("must be a 16-bit PNG of 40x30 pixels, found 40x30, mode L", "1-depth.png"),
        ("must be a 16-bit PNG of 40x30 pixels, found 8x8, mode I;16", "0-depth.png"),
    ):
        assert f"each {why}: {tmp_path / name}" in output


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


def test_a_bad_file_among_many_is_left_out_and_named(tmp_path, capsys):
    lines = [{"file_name": f"{i}.png", "text": f"{i}"} for i in range(4)]
    write(tmp_path, lines)
    depth_files.truncate(tmp_path / "1.png")
    source = ImageFolder(tmp_path, 8, tolerance=0.3)
    assert [source[i]["text"] for i in range(len(source))] == ["0", "2", "3"]
    assert f"damaged or incomplete: {tmp_path / '1.png'}" in capsys.readouterr().out


def test_lines_that_repeat_and_images_without_a_line_are_told(tmp_path, capsys):
    lines = [{"file_name": f"{i}.png", "text": f"{i}"} for i in range(3)]
    write(tmp_path, lines)
    path = tmp_path / "metadata.jsonl"
    lines = [lines[0], lines[0], {"file_name": "0.png", "text": "again"}, lines[1]]
    path.write_text("\n".join(map(json.dumps, lines)), encoding="utf-8-sig")
    source = ImageFolder(tmp_path, 8, tolerance=0.3)
    assert [source[i]["text"] for i in range(len(source))] == ["0", "again", "1"]
    output = capsys.readouterr().out
    assert f"left out 1, each repeats another line: {path}:2" in output
    assert f"1 images have several lines in {path}: 0.png" in output
    assert f"1 images have no line in {path} and are not used: 2.png" in output


def test_names_may_have_backslashes_or_their_folders_name(tmp_path):
    folder = tmp_path / "train"
    (folder / "cat").mkdir(parents=True)
    write(folder, [{"file_name": "cat/a.png", "text": "a"}, {"file_name": "b.png", "text": "b"}])
    names = [r"cat\\a.png", "train/b.png"]
    lines = [f'{{"file_name": "{name}", "text": "{name}"}}' for name in names]
    (folder / "metadata.jsonl").write_text("\r\n".join(lines), encoding="utf-16")
    assert len(ImageFolder(folder, 8)) == 2


def test_images_are_found_in_nested_folders_or_as_metadata_names_them(tmp_path, capsys):
    for name in ("a.png", "more/b.png", "depth/c.png", "._a.png"):
        depth_files.save(tmp_path / name, depth_files.draw(0).image)
    assert len(read_images(tmp_path, 8)) == 3
    assert f"passed over 1 in {tmp_path}, each hidden: ._a.png" in capsys.readouterr().out
    (tmp_path / "metadata.jsonl").write_text('{"file_name": "a.png", "depth_file_name": "depth/c.png"}')
    assert len(read_images(tmp_path, 8)) == 1
    assert "1 images have no line in" in capsys.readouterr().out


def test_a_folder_without_images_is_described(tmp_path):
    with pytest.raises(FileNotFoundError, match=r"no has no images .*: there is no such folder"):
        read_images(tmp_path / "no", 8)
    (tmp_path / "a.heic").touch()
    with pytest.raises(FileNotFoundError, match=r"has no images \(.*\): passed over 1 .* not .png.*: a.heic"):
        read_images(tmp_path, 8)
