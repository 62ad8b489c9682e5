import json

import numpy as np
import pytest
from PIL import Image

from gap_jax.data.__main__ import main
from gap_jax.data.masked.boxes import read_boxes, write_masks
from tests.data.depth_files import save
from tests.data.masked_files import HEIGHT, WIDTH, draw

BOXES = [("cat/a.png", (3, 4, 10, 5)), ("cat/a.png", (20.5, -2, 4.2, 8)), ("dog/b.png", (30, 20, 100, 100))]


@pytest.fixture
def images(tmp_path):
    for i, name in enumerate(("cat/a.png", "dog/b.png", "dog/c.png")):
        save(tmp_path / "images" / name, draw(i).image)
    return tmp_path / "images"


def as_csv(path, boxes=BOXES):
    lines = [f"{name},{','.join(map(str, sides))}" for name, sides in boxes]
    path.write_text("\n".join(["file_name,x,y,width,height", *lines]))
    return path


def as_coco(path):
    names = ["cat/a.png", "dog/b.png", "dog/c.png"]
    document = {
        "images": [{"id": i, "file_name": name} for i, name in enumerate(names)],
        "annotations": [{"image_id": names.index(name), "bbox": sides} for name, sides in BOXES],
    }
    path.write_text(json.dumps(document))
    return path


def as_megadetector(path):
    """Shares of the sides by file, or by id for JPEG files; there are detections in a missing image, too."""
    images = {
        name: {"file": name, "detections": []}
        for name in ("cat/a.png", "dog/b.png", "dog/c.png", "dog/missing.png")
    }
    for name, (x, y, width, height) in [*BOXES, ("dog/missing.png", (0, 0, 1, 1))]:
        sides = [x / WIDTH, y / HEIGHT, width / WIDTH, height / HEIGHT]
        images[name]["detections"].append({"category": "1", "conf": 0.3, "bbox": sides})
    path.write_text(json.dumps({"images": list(images.values()), "detection_categories": {"1": "animal"}}))
    return path


def test_iwildcams_detections_name_images_by_id(tmp_path):
    path = tmp_path / "megadetector_results.json"
    detections = [{"category": "1", "bbox": [0.5, 0.25, 0.1, 0.5], "conf": 0.9}]
    path.write_text(json.dumps({"images": [{"id": "8d28747a", "detections": detections}]}))
    (box,) = read_boxes(path)
    assert box.image == "8d28747a.jpg"
    assert box.in_pixels(200, 100) == pytest.approx((100, 25, 120, 75))


@pytest.mark.parametrize(
    "write, name",
    [(as_csv, "boxes.csv"), (as_coco, "boxes.json"), (as_megadetector, "megadetector.json")],
)
def test_masks_are_255_where_a_box_is(images, tmp_path, write, name):
    files = ("--boxes", write(tmp_path / name), "--images", images, "--masks", tmp_path / "masks")
    main(["masks", *map(str, files), "--sheet", str(tmp_path / "sheet.png")])
    assert sorted(path.name for path in tmp_path.glob("masks/*/*")) == ["a.png", "b.png"]
    expected = np.zeros((HEIGHT, WIDTH), np.uint8)
    expected[4:9, 3:13] = expected[:6, 20:25] = 255
    np.testing.assert_array_equal(np.asarray(Image.open(tmp_path / "masks/cat/a.png")), expected)
    corner = np.asarray(Image.open(tmp_path / "masks/dog/b.png"))
    assert corner.shape == (HEIGHT, WIDTH) and corner[20:, 30:].all() and corner.sum() == 4 * 6 * 255


def test_the_suffix_gives_masks_waterbirds_names(images, tmp_path):
    written, faults = write_masks(as_csv(tmp_path / "boxes.csv"), images, images, "_mask")
    names = ("cat/a", "dog/b")
    assert written == {images / f"{name}.png": images / f"{name}_mask.png" for name in names} and not faults
    assert (images / "cat/a_mask.png").is_file()


def test_bad_boxes_are_named_with_their_row(images, tmp_path):
    path = tmp_path / "boxes.csv"
    for sides, why in (
        (
            (40, 0, 5, 5),
            r"boxes.csv:3: the box \(40.0, 0.0, 5.0, 5.0\) has no pixel in .*a.png, .* 36x24 pixels",
        ),
        ((3, 3, 0, 5), r"boxes.csv:3: the box .* has no pixel"),
        ((3, 3, "wide", 5), r"boxes.csv:3: a box must be four numbers x, y, width, height, found .*wide"),
    ):
        as_csv(path, [BOXES[0], ("cat/a.png", sides)])
        with pytest.raises(ValueError, match=why):
            write_masks(path, images, tmp_path / "masks")
    with pytest.raises(ValueError, match=r"1 of 1 (.|\n)*cannot be read as an image(.|\n)*cat/z.png"):
        write_masks(as_csv(path, [("cat/z.png", (1, 1, 2, 2))]), images, tmp_path / "masks")
    path.write_text("file,x,y,width,height\na.png,1,1,1,1")
    with pytest.raises(ValueError, match=r"boxes.csv lacks the columns file_name; found file, x, y"):
        read_boxes(path)


def test_json_of_another_form_is_an_error(tmp_path):
    path = tmp_path / "boxes.json"
    for text, why in (
        ("[]", r"boxes.json must be JSON with images \(id, file_name\) and annotations"),
        ("{", r"boxes.json must be JSON with images"),
        (
            '{"images": [], "annotations": [{"image_id": 7, "bbox": [0, 0, 1, 1]}]}',
            "annotation 0 has the image_id 7",
        ),
    ):
        path.write_text(text)
        with pytest.raises(ValueError, match=why):
            read_boxes(path)
