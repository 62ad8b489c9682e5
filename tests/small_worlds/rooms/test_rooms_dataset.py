import json

import numpy as np
import pytest

from gap_jax.data.encoding import as_arrays
from gap_jax.small_worlds import rooms
from gap_jax.small_worlds.rooms.dataset import RoomsDataset


@pytest.fixture(scope="module")
def built(tmp_path_factory):
    builder = RoomsDataset(
        config="narrow_few", data_dir=tmp_path_factory.mktemp("data"), file_format="array_record"
    )
    builder.download_and_prepare()
    return builder


def test_its_examples_are_the_rooms(built):
    source = built.as_data_source("validation")
    assert len(source) == 64
    images = {example["image"].tobytes(): example for example in source}
    seed = rooms.SPLITS["validation"]
    styles = [rooms.draw_style(seed, i, rooms.NARROW) for i in range(40)]
    truth = rooms.render(seed, range(40), styles)
    for i, style in enumerate(styles):
        example = images[truth.image[i].tobytes()]
        np.testing.assert_array_equal(example["mask"] > 0, truth.mask[i])
        np.testing.assert_array_equal(as_arrays(example)["classes"], truth.classes[i])
        np.testing.assert_allclose(example["depth"] / 65535, truth.depth[i], atol=1e-5)
        assert example["caption"].decode() == rooms.caption(style)
        words = rooms.Style(*(names[example[axis]] for axis, names in rooms.AXES.items()))
        assert words == style


def test_its_splits_have_their_own_rooms(built):
    seen = [example["depth"].tobytes() for split in rooms.SPLITS for example in built.as_data_source(split)]
    assert len(seen) == len(set(seen)) == 128 + 64 + 64


def test_it_is_a_folder_in_the_standard_layout(built):
    names = {path.name for path in built.data_path.iterdir()}
    assert {"dataset_info.json", "features.json"} <= names
    assert any(".array_record-" in name for name in names)
    splits = json.loads((built.data_path / "dataset_info.json").read_text())["splits"]
    assert {split["name"] for split in splits} == set(rooms.SPLITS)
