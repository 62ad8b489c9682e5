import shutil

import numpy as np
import pytest
import tensorflow_datasets as tfds

from gap_jax.data.depth.dataset import Omnidata
from gap_jax.data.depth.omnidata import OmnidataLayout
from gap_jax.data.depth.read import read_depth_example
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


def test_a_components_buildings_are_found(root):
    inventory = OmnidataLayout("replica").find(root)
    assert [example.id for example in inventory.splits["train"]] == [
        f"{building}/{point}/0" for building in BUILDINGS for point in range(POINTS)
    ]
    assert all("replica" in path for path in inventory.splits["train"][0][1:])
    assert set(inventory.splits) == {"train"} and not inventory.faults and not inventory.notes


def test_a_split_file_splits_them(root):
    (root / "splits.csv").write_text("id,train,val,test\napartment_2,0,1,0\noffice_0,0,0,1\nroom_0,1,0,0\n")
    inventory = OmnidataLayout("replica", "splits.csv").find(root)
    assert {split: len(examples) for split, examples in inventory.splits.items()} == {
        "validation": 2,
        "test": 2,
    }
    assert inventory.notes == ["left out 1 of 3 buildings, which have no images: room_0"]


@pytest.mark.parametrize("options, far", [({}, 65535), ({"far": 8000}, 8000)])
def test_depth_is_divided_by_far_and_invalid_where_65535_or_masked(root, options, far):
    layout = OmnidataLayout("replica", **options)
    example, truth = read_depth_example(layout.find(root).splits["train"][0], layout.decode, SIDE), draw(0)
    valid = truth.mask & (truth.depth != 65535)
    np.testing.assert_array_equal(example.mask[..., 0], valid)
    expected = np.where(valid, np.minimum(truth.depth / far, 1), 0)
    np.testing.assert_allclose(example.depth[..., 0], expected, atol=1e-7)


@pytest.mark.parametrize("component", ["hypersim", "blended_mvg"])
def test_files_of_different_sizes_become_512x384_and_are_cropped(tmp_path, component):
    """Sizes are multiples or fractions of 512x384, so that the centre is known exactly."""
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
    example = read_depth_example(layout.find(tmp_path).splits["train"][0], layout.decode, 384, layout.frame)
    np.testing.assert_array_equal(example.mask[..., 0], mask[:, 64:-64])
    raw = np.repeat(np.repeat(depth[:, 32:-32], 2, 0), 2, 1)
    np.testing.assert_allclose(
        example.depth[..., 0], np.where(example.mask[..., 0], raw / 65535, 0), atol=1e-7
    )
    assert example.image[:, 2:-2].max() < 255 and np.ptp(example.image[:, 2:-2], axis=1).max() == 0


def test_sizes_of_other_components_must_be_equal(root):
    layout = OmnidataLayout("replica")
    paths = omnidata(root, "replica", *(BUILDINGS[0], 0))
    save(paths[2], draw(0, (SIDE, 12)).mask)
    with pytest.raises(Fault, match=f"{paths[2]} must be 24x24 pixels large, found 24x12"):
        read_depth_example(layout.find(root).splits["train"][0], layout.decode, SIDE, layout.frame)


def test_the_prepared_data_set_has_what_the_files_hold(root, tmp_path):
    truncate(omnidata(root, "replica", *(BUILDINGS[1], 1))[0])
    layout = OmnidataLayout("replica")
    builder = Omnidata.prepared(layout, root, tmp_path / "data", 16, tolerance=0.3)
    source = tfds.builder_from_directory(builder.data_dir).as_data_source("train")
    truths = {files.id: files for files in layout.find(root).splits["train"]}
    assert len(source) == 3
    for example in source:
        truth = read_depth_example(truths[example["id"].decode()], layout.decode, 16)
        np.testing.assert_array_equal(example["image"], truth.image)
        np.testing.assert_allclose(example["depth"] / 65535, truth.depth, atol=1e-5)


def test_a_missing_component_is_named(root):
    with pytest.raises(
        FileNotFoundError, match=r"rgb/replica_gso is missing: it must hold the buildings of replica_gso"
    ):
        OmnidataLayout("replica_gso").find(root)


def test_the_official_split_files_may_have_trailing_blanks(root):
    (root / "splits.csv").write_text("id,train,val,test\napartment_2,1,0,0 \noffice_0,0,1,0\n \n")
    inventory = OmnidataLayout("replica", "splits.csv").find(root)
    assert {split: len(examples) for split, examples in inventory.splits.items()} == {
        "train": 2,
        "validation": 2,
    }


def test_the_buildings_that_omnidata_excludes_are_left_out_and_named(tmp_path):
    names = ("brinnon", "darnestown", "hanson", "mosquito", "rough", "tansboro", "tomkins")
    for i, building in enumerate((*names, ".ipynb_checkpoints")):
        write(omnidata(tmp_path, "taskonomy", building, 0), draw(i))
    inventory = OmnidataLayout("taskonomy").find(tmp_path)
    assert [paths.id for paths in inventory.splits["train"]] == ["hanson/0/0"]
    assert inventory.notes == [
        "left out the buildings that the data set's authors exclude: brinnon, darnestown, mosquito, rough, "
        "tansboro, tomkins"
    ]


def test_without_masks_depth_alone_tells_what_is_valid(root):
    shutil.rmtree(root / "mask_valid")
    layout = OmnidataLayout("replica")
    inventory = layout.find(root)
    example = read_depth_example(inventory.splits["train"][0], layout.decode, SIDE)
    np.testing.assert_array_equal(example.mask[..., 0], draw(0).depth != 65535)
    assert inventory.notes == [
        f"without masks ({root / 'mask_valid/replica'}): depth is valid where it is not 65535"
    ]
