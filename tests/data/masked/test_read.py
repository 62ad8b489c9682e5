import cv2
import numpy as np
import pytest
from PIL import Image

from gap_jax.data.files import Fault
from gap_jax.data.masked.read import (
    MaskedPaths,
    check_classes,
    check_kept_share,
    keep_existing,
    read_masked_example,
)
from tests.data.depth_files import save, truncate
from tests.data.masked_files import HEIGHT, WIDTH, draw, squeezed

ROW = "metadata.csv:2"


@pytest.fixture
def paths(tmp_path):
    paths = MaskedPaths("one", str(tmp_path / "a.png"), str(tmp_path / "a_mask.png"), 1, 3, {}, ROW)
    save(tmp_path / "a.png", draw(0).image)
    save(tmp_path / "a_mask.png", draw(0).mask)
    return paths


def test_an_image_at_its_own_width_is_squeezed_whole(paths):
    example, drawn = read_masked_example(paths, WIDTH), draw(0)
    expected = Image.fromarray(drawn.image).resize((WIDTH, WIDTH), Image.Resampling.BILINEAR)
    np.testing.assert_array_equal(example.image, np.asarray(expected))
    assert example.image.dtype == np.uint8 and example.keep.dtype == bool
    assert example.keep.shape == (WIDTH, WIDTH, 1)
    assert example.keep.mean() == pytest.approx(drawn.mask.mean(), abs=0.02)


@pytest.mark.parametrize("size", [8, 16, 40])
def test_masks_are_by_nearest_neighbour(paths, size):
    np.testing.assert_array_equal(read_masked_example(paths, size).keep[..., 0], squeezed(draw(0).mask, size))


def test_foreground_at_the_edges_is_not_cut_off(paths, tmp_path):
    mask = np.zeros((HEIGHT, WIDTH), bool)
    mask[:, :3] = mask[:, -3:] = True
    save(tmp_path / "a_mask.png", mask)
    assert read_masked_example(paths, 12).keep[:, [0, -1]].all()


def test_without_a_mask_nothing_is_kept(paths):
    assert not read_masked_example(paths._replace(mask=None), 8).keep.any()


def test_any_value_but_0_is_kept(paths, tmp_path):
    save(tmp_path / "a_mask.png", draw(0).mask.astype(np.uint8))
    np.testing.assert_array_equal(read_masked_example(paths, 16).keep[..., 0], squeezed(draw(0).mask, 16))


def test_scaled_masks_have_their_images_shape(paths, tmp_path):
    with pytest.raises(Fault, match=r"a_mask.png \(metadata.csv:2\) must be 36x24 pixels large, found 72x47"):
        save(tmp_path / "a_mask.png", draw(0).mask.repeat(2, 0)[1:].repeat(2, 1))
        read_masked_example(paths, 16)
    assert read_masked_example(paths, 16, scaled_masks=True).keep.any()
    save(tmp_path / "a_mask.png", draw(0).mask.repeat(2, 0))
    with pytest.raises(Fault, match=r"must have the aspect ratio of its image, 36x24, found 36x48"):
        read_masked_example(paths, 16, scaled_masks=True)


def test_images_of_other_channels_or_depth_are_named_with_their_row(paths, tmp_path):
    path, drawn = tmp_path / "a.png", draw(0)
    grey = drawn.image[..., 0]
    for pixels, kind in (
        (grey, "mode L, 1 channel"),
        (grey.astype(np.uint16) * 256, "16 bits a channel"),
        (np.dstack([drawn.image, grey]), "mode RGBA, 4 channel"),
    ):
        save(path, pixels)
        with pytest.raises(Fault, match=rf"a.png \({ROW}\) must be an RGB image of 8 bits .*found {kind}"):
            read_masked_example(paths, 16)
    cv2.imwrite(str(path), drawn.image.astype(np.uint16) * 256)
    with pytest.raises(Fault, match=rf"a.png \({ROW}\) must be an RGB image .*found 16 bits a channel"):
        read_masked_example(paths, 16)


def test_bad_masks_are_named_with_their_row(paths, tmp_path):
    path, drawn = tmp_path / "a_mask.png", draw(0)
    for pixels, why in (
        (np.zeros_like(drawn.mask), "keeps nothing: all its pixels are 0"),
        (drawn.image, "must be a mask of one channel, found mode RGB"),
        (drawn.mask[:8], "must be 36x24 pixels large, found 36x8"),
    ):
        save(path, pixels)
        with pytest.raises(Fault, match=rf"a_mask.png \({ROW}\) {why}"):
            read_masked_example(paths, 16)
    for broken in ("a_mask.png", "a.png"):
        truncate(tmp_path / broken)
        with pytest.raises(Fault, match=rf"{broken} \({ROW}\) cannot be read as an image"):
            read_masked_example(paths, 16)


def test_missing_and_repeated_files_are_faults(paths, tmp_path):
    others = [
        paths,
        paths,
        paths._replace(id="two", image=str(tmp_path / "b.png"), row="metadata.csv:4"),
        paths._replace(id="three", mask=str(tmp_path / "b_mask.png"), row=""),
        paths._replace(id="four", mask=None),
    ]
    examples, faults = keep_existing(others)
    assert [example.id for example in examples] == ["one", "four"]
    assert [str(fault) for fault in faults] == [
        f"{tmp_path / 'a.png'} ({ROW}) has the same name as another image",
        f"{tmp_path / 'b.png'} (metadata.csv:4) is missing",
        f"{tmp_path / 'a.png'} has no mask",
    ]


def test_a_class_without_examples_is_named(paths):
    with pytest.raises(
        ValueError, match=r"table.csv: each class needs examples to train on; found none of land, sea among 1"
    ):
        check_classes("table.csv", [paths], ("land", "water", "sea"))
    check_classes("table.csv", [paths, paths._replace(label=0)], ("land", "water"))


def test_masks_that_keep_most_look_inverted():
    check_kept_share(0.5, 0.5)
    with pytest.raises(
        ValueError, match=r"more than 80% of their image: they look inverted(.|\n)*255 - mask"
    ):
        check_kept_share(0.8, 0.5)
    check_kept_share(0.8, 0.9)
