"""Image files as cameras, phones and programs write them."""

import struct
import zlib

import numpy as np
import pytest
from PIL import Image
from PIL.PngImagePlugin import PngInfo

from gap_jax.data.depth.read import DepthPaths, decode_distance, read_depth_example
from gap_jax.data.files import Fault, open_colour, open_image, read_mask
from gap_jax.data.image_folder import ImageFolder, read_images
from gap_jax.data.masked.read import MaskedPaths, read_masked_example
from tests.data.depth_files import draw, save

ORIENTATION = 0x0112
UPRIGHT = {  # from the stored to the shown picture, by orientation (Exif 2.3, 4.6.4, tag 274)
    1: lambda a: a,
    2: lambda a: a[:, ::-1],
    3: lambda a: a[::-1, ::-1],
    4: lambda a: a[::-1],
    5: lambda a: a.swapaxes(0, 1),
    6: lambda a: np.rot90(a, -1),
    7: lambda a: a[::-1, ::-1].swapaxes(0, 1),
    8: lambda a: np.rot90(a),
}


def save_turned(path, pixels, orientation):
    """Write an image with an EXIF orientation."""
    image = Image.fromarray(pixels)
    image.getexif()[ORIENTATION] = orientation
    image.save(path, exif=image.getexif())


def picture(width=12, height=8):
    return draw(3, (width, height)).image


def bomb(path):
    """Write a small PNG file that says it has 40,000 x 40,000 pixels."""

    def chunk(kind, data):
        return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))

    header = struct.pack(">IIBBBBB", 40_000, 40_000, 8, 2, 0, 0, 0)
    path.write_bytes(
        b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", b"") + chunk(b"IEND", b"")
    )


@pytest.mark.parametrize("orientation", UPRIGHT)
def test_images_are_turned_as_exif_says(orientation, tmp_path):
    path = tmp_path / "a.png"
    save_turned(path, picture(), orientation)
    np.testing.assert_array_equal(np.asarray(open_image(path)), UPRIGHT[orientation](picture()))


def test_every_reader_turns_a_photograph_so_that_it_agrees_with_its_label(tmp_path):
    shown = picture(8, 8)
    photo, depth, mask = tmp_path / "a.png", tmp_path / "a_depth.png", tmp_path / "a_mask.png"
    save_turned(photo, np.rot90(shown), 6)
    save(depth, np.full((8, 8), 9, np.uint16))
    save(mask, np.ones((8, 8), bool))
    example = read_depth_example(DepthPaths("a", str(photo), str(depth)), decode_distance, 8)
    masked = read_masked_example(MaskedPaths("a", str(photo), str(mask), 0, 0, {}), 8)
    (tmp_path / "metadata.jsonl").write_text('{"file_name": "a.png", "text": "a"}')
    for image in (example.image, masked.image, ImageFolder(tmp_path, 8)[0]["image"]):
        np.testing.assert_array_equal(image, shown)
    np.testing.assert_allclose(read_images(tmp_path, 8)[0] * 255, shown, atol=1e-4)


def test_a_label_of_the_stored_picture_is_refused_with_the_reason(tmp_path):
    save_turned(tmp_path / "a.png", picture(), 6)  # shown 8 wide, 12 high
    save(tmp_path / "d.png", np.full((8, 12), 9, np.uint16))
    paths = DepthPaths("a", str(tmp_path / "a.png"), str(tmp_path / "d.png"))
    with pytest.raises(
        Fault, match=r"of 8x12 pixels, found 12x8, .*EXIF data of its image may say to turn it"
    ):
        read_depth_example(paths, decode_distance, 4)
    with pytest.raises(Fault, match="must be 8x12 pixels large, found 12x8; the EXIF"):
        read_mask(tmp_path / "d.png", (8, 12))


def test_damaged_exif_data_turn_nothing(tmp_path):
    Image.fromarray(picture()).save(tmp_path / "a.png", exif=b"Exif\x00\x00II*\x00\xff\xff\xff")
    np.testing.assert_array_equal(np.asarray(open_image(tmp_path / "a.png")), picture())


def test_16_bit_grey_is_divided_by_257(tmp_path):
    values = np.array([[0, 128, 129, 257, 32768, 65534, 65535, 1000]], np.uint16)
    save(tmp_path / "a.png", values)
    grey = np.asarray(open_colour(tmp_path / "a.png"))
    np.testing.assert_array_equal(grey, np.round(values / 257)[..., None].repeat(3, -1))


@pytest.mark.parametrize("mode", ["RGBA", "LA", "P"])
def test_transparent_pixels_are_refused_and_opaque_ones_are_not(mode, tmp_path):
    path = tmp_path / "a.png"
    image = Image.fromarray(picture()).convert("RGBA")
    image.convert(mode).save(path)
    assert open_colour(path).mode == "RGB"
    if mode == "P":
        image.convert("P").save(path, transparency=image.convert("P").getpixel((0, 0)))
    else:
        image.putalpha(
            Image.fromarray(np.where(np.arange(12) < 3, 0, 255).astype(np.uint8)[None].repeat(8, 0))
        )
        image.convert(mode).save(path)
    with pytest.raises(Fault, match=r"a.png has transparent pixels: draw it on a background"):
        open_colour(path)


def test_masks_with_a_palette_are_read_by_their_colours(tmp_path):
    mask = draw(0).mask
    image = Image.fromarray(np.where(mask, 0, 1).astype(np.uint8), "P")
    image.putpalette([255, 255, 255, 0, 0, 0])  # number 0 is white
    image.save(tmp_path / "mask.png")
    np.testing.assert_array_equal(read_mask(tmp_path / "mask.png", None), mask)


def write_text(path):
    """Write a PNG file with two megabytes of text, as programs keep their settings in."""
    text = PngInfo()
    text.add_text("workflow", "x" * 2**21, zip=True)
    Image.fromarray(picture()).save(path, pnginfo=text)


def write_animation(path):
    frames = [Image.fromarray(draw(i).image) for i in range(3)]
    frames[0].save(path, save_all=True, append_images=frames[1:])


def write_damaged(path):
    """Write a PNG file whose pixels are not compressed data."""
    save(path, picture())
    content = path.read_bytes()
    start = content.index(b"IDAT") + 4
    path.write_bytes(content[:start] + b"\xff" * 40 + content[start + 40 :])


BROKEN = {
    "has more than 178,956,970 pixels": bomb,
    "holds text of more than a megabyte: save it without metadata": write_text,
    "is empty": lambda path: path.write_bytes(b""),
    "is a pointer of git-lfs: fetch the file by `git lfs pull`": lambda path: path.write_text(
        "version https://git-lfs.github.com/spec/v1\noid sha256:00\nsize 7\n"
    ),
    "is of no known format": lambda path: path.write_text("<html>404</html>"),
    "is damaged or incomplete": write_damaged,
    "is an animation of 3 pictures": write_animation,
    "No such file or directory": lambda path: None,
    "Is a directory": lambda path: path.mkdir(),
}


@pytest.mark.parametrize("why", BROKEN)
def test_files_that_are_no_image_are_named_with_the_reason(why, tmp_path):
    BROKEN[why](tmp_path / "a.png")
    with pytest.raises(Fault) as error:
        open_image(tmp_path / "a.png")
    assert error.value.path == str(tmp_path / "a.png")
    assert why in error.value.reason and str(tmp_path) not in error.value.reason


def test_bad_images_are_left_out_and_equal_faults_share_a_line(tmp_path, capsys):
    for i in range(9):
        save(tmp_path / f"{i}.png", picture())
    for i in range(2):
        bomb(tmp_path / f"bomb{i}.png")
        write_damaged(tmp_path / f"damaged{i}.png")
    assert read_images(tmp_path, 8).shape == (9, 8, 8, 3)
    output = capsys.readouterr().out
    assert f"178,956,970 pixels: make it smaller: {tmp_path}/bomb0.png, {tmp_path}/bomb1.png\n" in output
    assert f"damaged or incomplete: {tmp_path}/damaged0.png, {tmp_path}/damaged1.png\n" in output
