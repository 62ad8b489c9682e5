"""One's own class maps: numbers of grey and of palettes are kept, everything else is a fault."""

import numpy as np
import pytest
from PIL import Image

from gap_jax.data.files import Fault
from gap_jax.data.prepared import Prepared
from gap_jax.data.segmented.dataset import SegmentedFolder
from gap_jax.data.segmented.folder import SegmentedFolderLayout
from gap_jax.data.segmented.read import SegmentedPaths, read_segmented_example

SIDE = 32
RANDOM = np.random.default_rng(0)
IMAGE = RANDOM.integers(0, 256, (SIDE, SIDE, 3), np.uint8)
CLASSES = RANDOM.choice(np.array([0, 1, 2, 7, 255], np.uint8), (SIDE, SIDE))


def save(path, pixels, mode=None):
    path.parent.mkdir(parents=True, exist_ok=True)
    image = Image.fromarray(pixels)
    if mode == "P":  # as Pascal VOC's: the index is the class, the palette's colour is for the eye
        image.putpalette(RANDOM.permutation(256).astype(np.uint8).repeat(3).tobytes())
    image.save(path)
    return path


@pytest.fixture
def root(tmp_path):
    """Two images to train on, one for validation, one to test."""
    for i, name in enumerate(("train/{}/a", "train/{}/more/b", "validation/{}/c", "test/{}/d")):
        save(tmp_path / "mine" / f"{name.format('rgb')}.jpg", np.roll(IMAGE, i, 0))
        save(tmp_path / "mine" / f"{name.format('classes')}.png", np.roll(CLASSES, i, 0))
    return tmp_path / "mine"


def test_prepared_examples_have_their_class_maps_in_three_splits(root, tmp_path):
    layout = SegmentedFolderLayout(first=1)
    folder = SegmentedFolder.prepared(layout, root, tmp_path / "data", SIDE).data_path
    for split, rolls in {"train": (0, 1), "validation": (2,), "test": (3,)}.items():
        source = Prepared(folder, split, fields=("image", "classes"))
        assert sorted(source.column("largest_class")) == [6] * len(rolls)
        expected = [np.roll(CLASSES, i, 0).astype(int) for i in rolls]
        expected = {np.where((x == 0) | (x == 255), 255, x - 1).tobytes() for x in expected}
        examples = [source[i] for i in range(len(source))]
        assert {example["classes"][..., 0].astype(int).tobytes() for example in examples} == expected
        assert examples[0]["classes"].dtype == np.int32 and examples[0]["image"].shape == (SIDE, SIDE, 3)


@pytest.mark.parametrize(
    ("pixels", "mode"), [(CLASSES, None), (CLASSES, "P"), (CLASSES.astype(np.uint16), None)]
)
def test_grey_values_and_indices_of_palettes_are_the_classes(tmp_path, pixels, mode):
    image, classes = save(tmp_path / "a.png", IMAGE), save(tmp_path / "b.png", pixels, mode)
    example = read_segmented_example(SegmentedPaths("a", str(image), str(classes)), SIDE)
    np.testing.assert_array_equal(example.classes[..., 0], CLASSES)
    np.testing.assert_array_equal(example.image, IMAGE)


@pytest.mark.parametrize(
    ("pixels", "message"),
    [
        (IMAGE, "must be a class map of one channel, .*; found mode RGB: convert its colours to numbers"),
        (CLASSES[:, :20], "must be as large as its image, 32x32 pixels, found 20x32"),
        (CLASSES > 1, "must be a class map, found a mask of black and white: save classes as grey values"),
        (np.full_like(CLASSES, 255), "has no pixel of a class"),
        (CLASSES.astype(np.uint16) * 100, "must have at most 255 classes, found class 25500"),
    ],
)
def test_files_that_are_no_class_maps_are_faults(tmp_path, pixels, message):
    image, classes = save(tmp_path / "a.png", IMAGE), save(tmp_path / "b.png", pixels)
    with pytest.raises(Fault, match=message):
        read_segmented_example(SegmentedPaths("a", str(image), str(classes)), SIDE)


def test_images_without_a_class_map_and_maps_without_an_image_are_told(root):
    save(root / "train/rgb/e.png", IMAGE), save(root / "train/classes/f.png", CLASSES)
    inventory = SegmentedFolderLayout().find(root)
    assert [str(fault) for fault in inventory.faults] == [f"{root / 'train/rgb/e.png'} has no class map"]
    assert "1 class maps belong to no image: f" in inventory.notes
    (root / "test/classes/d.png").unlink()
    assert "test: no image has its class map" in SegmentedFolderLayout().find(root).problems[0]
    (root / "test/classes").rmdir()
    with pytest.raises(FileNotFoundError, match=r"test/classes is missing: .* must hold the folders rgb and"):
        SegmentedFolderLayout().find(root)
