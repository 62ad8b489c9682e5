import numpy as np
import pytest
import tensorflow_datasets as tfds

from gap_jax.data.depth.omnidata import Omnidata, OmnidataLayout
from gap_jax.data.depth.read import read
from gap_jax.data.files import Fault
from tests.data.depth_files import SIDE, draw, omnidata, save, truncate, write

BUILDINGS = ("apartment_2", "office_0")
POINTS = 2


@pytest.fixture
def root(tmp_path):
    for component in ("replica", "hypersim"):
        for i in range(len(BUILDINGS) * POINTS):
            write(omnidata(tmp_path, component, BUILDINGS[i // POINTS], i % POINTS), draw(i))
    return tmp_path


def test_a_component_s_buildings_are_found(root):
    found = OmnidataLayout("replica").find(root)
    assert [example.id for example in found.splits["train"]] == [
        f"{building}/{point}/0" for building in BUILDINGS for point in range(POINTS)
    ]
    assert all("replica" in path for path in found.splits["train"][0][1:])
    assert set(found.splits) == {"train"} and not found.faults and not found.notes


def test_a_split_file_splits_them(root):
    (root / "splits.csv").write_text("id,train,val,test\napartment_2,0,1,0\noffice_0,0,0,1\nroom_0,1,0,0\n")
    found = OmnidataLayout("replica", "splits.csv").find(root)
    assert {split: len(examples) for split, examples in found.splits.items()} == {"validation": 2, "test": 2}
    assert found.notes == ["left out 1 of 3 buildings, which have no images: room_0"]


@pytest.mark.parametrize("options, far", [({}, 65535), ({"far": 8000}, 8000)])
def test_depth_is_of_far_and_invalid_where_65535_or_masked(root, options, far):
    layout = OmnidataLayout("replica", **options)
    found, truth = read(layout.find(root).splits["train"][0], layout.decode, SIDE), draw(0)
    valid = truth.mask & (truth.depth != 65535)
    np.testing.assert_array_equal(found.mask[..., 0], valid)
    expected = np.where(valid, np.minimum(truth.depth / far, 1), 0)
    np.testing.assert_allclose(found.depth[..., 0], expected, atol=1e-7)


@pytest.mark.parametrize("component", ["hypersim", "blended_mvg"])
def test_where_sizes_differ_all_become_512x384_of_which_the_centre_is_kept(tmp_path, component):
    """Each part is brought to 512x384 by a whole number of pixels, so that the centre is known exactly."""
    paths = omnidata(tmp_path, component, "ai_001_001", 0)
    image = np.full((768, 1024, 3), 255, np.uint8)
    image[:, 128:-128] = np.arange(768).astype(np.uint8)[:, None, None] // 2
    depth = np.full((192, 256), 9, np.uint16)
    depth[:, 32:-32] = np.arange(192 * 192).reshape(192, 192)
    mask = np.zeros((384, 512), bool)
    mask[10:, 64:-64] = True
    for path, pixels in zip(paths, (image, depth, mask), strict=True):
        save(path, pixels)
    layout = OmnidataLayout(component)
    found = read(layout.find(tmp_path).splits["train"][0], layout.decode, 384, layout.frame)
    np.testing.assert_array_equal(found.mask[..., 0], mask[:, 64:-64])
    raw = np.repeat(np.repeat(depth[:, 32:-32], 2, 0), 2, 1)
    np.testing.assert_allclose(found.depth[..., 0], np.where(found.mask[..., 0], raw / 65535, 0), atol=1e-7)
    assert found.image[:, 2:-2].max() < 255 and np.ptp(found.image[:, 2:-2], axis=1).max() == 0


def test_elsewhere_sizes_must_be_equal(root):
    layout = OmnidataLayout("replica")
    paths = omnidata(root, "replica", *(BUILDINGS[0], 0))
    save(paths[2], draw(0, (SIDE, 12)).mask)
    with pytest.raises(Fault, match=f"{paths[2]} must be of 24x24 pixels, found 24x12"):
        read(layout.find(root).splits["train"][0], layout.decode, SIDE, layout.frame)


def test_prepared_it_is_what_the_files_hold(root, tmp_path):
    truncate(omnidata(root, "replica", *(BUILDINGS[1], 1))[0])
    layout = OmnidataLayout("replica")
    builder = Omnidata.prepared(layout, root, tmp_path / "data", 16, tolerance=0.3)
    source = tfds.builder_from_directory(builder.data_dir).as_data_source("train")
    truths = {files.id: files for files in layout.find(root).splits["train"]}
    assert len(source) == 3
    for example in source:
        truth = read(truths[example["id"].decode()], layout.decode, 16)
        np.testing.assert_array_equal(example["image"], truth.image)
        np.testing.assert_allclose(example["depth"] / 65535, truth.depth, atol=1e-5)


def test_a_component_that_is_not_there_is_named(root):
    with pytest.raises(FileNotFoundError, match=r"rgb/replica_gso is missing: it should hold replica_gso's"):
        OmnidataLayout("replica_gso").find(root)
