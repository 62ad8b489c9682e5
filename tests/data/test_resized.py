"""Examples at another size, and mirrored ones: image, depth and masks keep belonging together."""

import numpy as np
from PIL import Image

from gap_jax.data.resized import Resized, mirrored

RANDOM = np.random.default_rng(0)
IMAGE = RANDOM.integers(0, 256, (6, 6, 3), np.uint8)
DEPTH = RANDOM.random((6, 6, 1), np.float32)
EXAMPLE = {"image": IMAGE / np.float32(255), "depth": DEPTH, "mask": DEPTH > 0.3, "label": np.int32(4)}


def test_images_are_resized_as_pillow_does_and_labels_by_nearest_neighbour():
    source = Resized([EXAMPLE], 3)
    assert len(source) == 1
    found = source[0]
    expected = np.asarray(Image.fromarray(IMAGE).resize((3, 3), Image.Resampling.BILINEAR))
    np.testing.assert_array_equal(np.round(found["image"] * 255), expected)
    assert found["image"].dtype == found["depth"].dtype == np.float32 and found["mask"].dtype == bool
    np.testing.assert_array_equal(found["depth"], DEPTH[1::2, 1::2])
    np.testing.assert_array_equal(found["mask"], found["depth"] > 0.3)
    assert found["label"] == 4


def test_examples_of_the_right_size_stay_as_they_are():
    for name, value in Resized([EXAMPLE], 6)[0].items():
        assert value is EXAMPLE[name]


def test_image_depth_and_mask_are_mirrored_together():
    batch = {name: np.stack([value] * 2) for name, value in EXAMPLE.items()}
    found = mirrored(batch, np.array([False, True]))
    for name in ("image", "depth", "mask"):
        np.testing.assert_array_equal(found[name][0], EXAMPLE[name])
        np.testing.assert_array_equal(found[name][1], np.fliplr(EXAMPLE[name]))
    assert found["label"] is batch["label"]
