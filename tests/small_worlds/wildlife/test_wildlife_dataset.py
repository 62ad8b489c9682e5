from collections import Counter

import numpy as np
import pytest

from gap_jax.data.encoding import as_arrays
from gap_jax.small_worlds import wildlife
from gap_jax.small_worlds.wildlife.dataset import WildlifeDataset


@pytest.fixture(scope="module")
def built(tmp_path_factory):
    folder = tmp_path_factory.mktemp("data")
    builder = WildlifeDataset(config="iwildcam_few", data_dir=folder, file_format="array_record")
    builder.download_and_prepare()
    return builder


def test_its_examples_are_the_pictures(built):
    source = built.as_data_source("test")
    assert len(source) == 60
    images = {example["image"].tobytes(): example for example in source}
    seed = wildlife.SPLITS["test"]
    for i in range(20):
        kind = wildlife.IWILDCAM["test"][i % 2]
        words = wildlife.draw_words(seed, i, kind.allowed)
        truth = wildlife.render(seed, [i], [words], camera=kind.camera)
        example = images[truth.image[0].tobytes()]
        np.testing.assert_array_equal(example["keep"] > 0, truth.keep[0])
        assert example["label"] == truth.label[0]
        assert example["location"] == example["group"] == kind.camera
        assert example["hour"] == wildlife.hour(seed, i, words.light)
        assert example["caption"].decode() == wildlife.caption(words)
        assert wildlife.Words(*(names[example[axis]] for axis, names in wildlife.AXES.items())) == words


def test_its_splits_have_their_cameras_equally(built):
    for split, each in (("train", 14), ("validation", 12), ("test", 30)):
        cameras = {kind.camera: each for kind in wildlife.IWILDCAM[split]}
        assert Counter(int(example["location"]) for example in built.as_data_source(split)) == cameras


def test_its_splits_have_their_own_animals(built):
    examples = [example for split in wildlife.SPLITS for example in built.as_data_source(split)]
    seen = [example["keep"].tobytes() for example in examples if example["label"] > 0]
    assert len(seen) == len(set(seen)) > 180


def test_it_is_read_as_other_images_with_masks_are(built):
    arrays = as_arrays(built.as_data_source("train")[0])
    assert arrays["image"].shape == (64, 64, 3) and arrays["keep"].shape == (64, 64, 1)
    assert arrays["image"].max() <= 1 and arrays["label"] in range(7)
