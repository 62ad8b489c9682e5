"""Masks are written to their own folder only, and never over a file of the user's."""

import json

import numpy as np
import pytest
from PIL import Image

from gap_jax.data.__main__ import main
from tests.data.depth_files import save
from tests.data.masked_files import HEIGHT, WIDTH, draw
from tests.data.test_files import bomb


@pytest.fixture
def images(tmp_path, tmp_path_factory, monkeypatch):
    monkeypatch.chdir(tmp_path_factory.mktemp("elsewhere"))  # the contact sheet is drawn here
    for i, name in enumerate(("cat/a.png", "cat/b.png", "dog/c.jpg")):
        save(tmp_path / "images" / name, draw(i).image)
    return tmp_path / "images"


def make(root, names, *more, masks="masks", images="images"):
    lines = ["file_name,x,y,width,height", *(f"{name},3,4,10,5" for name in names)]
    (root / "boxes.csv").write_text("\n".join(lines))
    files = ("--boxes", root / "boxes.csv", "--images", root / images, "--masks", root / masks)
    main(["masks", *map(str, files), *more])


def contents(root):
    return {path: path.read_bytes() for path in root.rglob("*") if path.is_file() and path.suffix != ".csv"}


def refused(root, names, *more, **folders):
    """Return the error of a command that must leave every file as it is."""
    before = contents(root)
    with pytest.raises(SystemExit) as error:
        make(root, names, *more, **folders)
    assert contents(root) == before
    assert len(str(error.value)) < 500
    return str(error.value)


def test_absolute_names_are_taken_only_below_the_images(images, tmp_path):
    photo = tmp_path / "photos/a.png"
    save(photo, draw(7).image)
    error = refused(tmp_path, ["cat/a.png", photo])
    assert f"boxes.csv:3: {photo} is not below {images}" in error
    make(tmp_path, [images / "cat/a.png"])
    assert (tmp_path / "masks/cat/a.png").is_file()


@pytest.mark.parametrize("name", ["../photos/a.png", "cat/../../photos/a.png", r"..\photos\a.png"])
def test_names_that_lead_out_of_the_images_are_refused(name, images, tmp_path):
    save(tmp_path / "photos/a.png", draw(7).image)
    assert f"boxes.csv:2: {name} is not below" in refused(tmp_path, [name])


def test_names_that_come_back_are_taken(images, tmp_path):
    make(tmp_path, ["cat/../dog/c.jpg"])
    assert [path.name for path in tmp_path.glob("masks/*/*")] == ["c.png"]
    assert (tmp_path / "masks/dog/c.png").is_file()


def test_masks_beside_their_images_need_a_suffix(images, tmp_path):
    assert "need a --suffix, such as _mask" in refused(tmp_path, ["cat/a.png"], masks="images")
    assert "need a --suffix" in refused(tmp_path, ["dog/c.jpg"], masks="images/../images")
    (tmp_path / "link").symlink_to(images)
    assert "need a --suffix" in refused(tmp_path, ["cat/a.png"], masks="link")
    make(tmp_path, ["cat/a.png"], "--suffix", "_mask", masks="images")
    assert (images / "cat/a_mask.png").is_file()


def test_a_file_of_the_users_is_never_replaced_and_an_own_mask_is(images, tmp_path):
    save(tmp_path / "masks/cat/b.png", draw(5).mask)
    error = refused(tmp_path, ["cat/a.png", "cat/b.png"])
    assert f"{tmp_path / 'masks/cat/b.png'} exists and is no mask that this command wrote" in error
    make(tmp_path, ["cat/a.png"])
    (tmp_path / "masks/cat/a.png").chmod(0o600)
    make(tmp_path, ["cat/a.png"])
    assert np.asarray(Image.open(tmp_path / "masks/cat/a.png")).sum() == 50 * 255


def test_a_link_out_of_the_folder_of_the_masks_is_refused(images, tmp_path):
    (tmp_path / "masks").mkdir()
    (tmp_path / "photos").mkdir()
    (tmp_path / "masks/cat").symlink_to(tmp_path / "photos")
    assert "leads out of" in refused(tmp_path, ["cat/a.png"])


def test_two_images_with_one_mask_are_refused(images, tmp_path):
    save(images / "cat/a.jpg", draw(9).image)
    error = refused(tmp_path, ["cat/a.png", "cat/a.jpg"])
    assert "cat/a.jpg and " in error and "would have the same mask" in error


def test_an_image_that_cannot_be_read_is_left_out_within_the_tolerance(images, tmp_path, capsys):
    bomb(images / "cat/b.png")
    names = ["cat/a.png", "cat/b.png", "dog/c.jpg"]
    assert "1 of 3 examples cannot be used" in refused_after(tmp_path, names)
    make(tmp_path, names, "--tolerance", "0.5")
    output = capsys.readouterr().out
    assert "wrote 2 masks" in output and f"pixels: make it smaller: {images / 'cat/b.png'}" in output


def refused_after(root, names):
    with pytest.raises(SystemExit) as error:
        make(root, names)
    return str(error.value)


def test_detections_of_none_of_the_images_are_an_error(images, tmp_path):
    image = {"file": "train/cat/a.png", "detections": [{"bbox": [0.1, 0.1, 0.5, 0.5]}]}
    failed = {"file": "cat/b.png", "failure": "Failure image access"}
    path = tmp_path / "boxes.json"
    path.write_text(json.dumps({"images": [image, failed]}))
    files = ("--boxes", path, "--images", images, "--masks", tmp_path / "masks")
    why = r"none of the 1 images with boxes .* such as train/cat/a.png, is in .*images holds 3 files"
    with pytest.raises(SystemExit, match=why):
        main(["masks", *map(str, files)])


def test_boxes_are_in_the_pixels_of_the_image_as_it_is_shown(images, tmp_path):
    image = Image.fromarray(draw(0).image)
    image.getexif()[0x0112] = 6
    image.save(images / "cat/a.png", exif=image.getexif())
    make(tmp_path, ["cat/a.png"])
    mask = np.asarray(Image.open(tmp_path / "masks/cat/a.png"))
    assert mask.shape == (WIDTH, HEIGHT) and mask[4:9, 3:13].all() and mask.sum() == 50 * 255
