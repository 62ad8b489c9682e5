import json
import shutil

import numpy as np
import pytest
import tensorflow_datasets as tfds

from gap_jax.data.depth.dataset import Taskonomy
from gap_jax.data.depth.read import DepthPaths, read_depth_example
from gap_jax.data.depth.taskonomy import TaskonomyLayout
from gap_jax.data.files import Fault
from gap_jax.data.loader import Batches
from tests.data.depth_files import SIDE, draw, save, taskonomy, truncate, write, write_taskonomy

SPLITS = {"hanson": "train", "merom": "train", "corozal": "val", "ihlen": "test"}
POINTS = 3


@pytest.fixture
def root(tmp_path):
    write_taskonomy(tmp_path / "taskonomy", SPLITS, POINTS)
    return tmp_path / "taskonomy"


def read_one(paths, size=SIDE):
    return read_depth_example(DepthPaths("one", *map(str, paths)), TaskonomyLayout().decode, size)


def test_buildings_are_found_in_their_splits(root):
    inventory = TaskonomyLayout().find(root)
    assert {split: len(examples) for split, examples in inventory.splits.items()} == {
        "train": 2 * POINTS,
        "validation": POINTS,
        "test": POINTS,
    }
    assert [example.id for example in inventory.splits["test"]] == [f"ihlen/{i}/0" for i in range(POINTS)]
    assert not inventory.faults and not inventory.notes
    assert inventory.summary() == "found 6 train, 3 validation, 3 test"


def test_depth_is_divided_by_8000_and_invalid_where_65535_or_masked(root):
    truth = draw(0)
    example = read_one(taskonomy(root, "hanson", 0))
    np.testing.assert_array_equal(example.image, truth.image)
    valid = truth.mask & (truth.depth != 65535)
    np.testing.assert_array_equal(example.mask[..., 0], valid)
    expected = np.where(valid, np.minimum(truth.depth / 8000, 1), 0)
    np.testing.assert_allclose(example.depth[..., 0], expected, atol=1e-7)
    assert (truth.depth[valid] > 8000).any()


def test_images_are_averaged_and_depth_is_not(root):
    paths = taskonomy(root, "hanson", 0)
    stripes = np.zeros((SIDE, SIDE, 3), np.uint8)
    stripes[:, ::2] = 200
    save(paths[0], stripes)
    example, truth = read_one(paths, SIDE // 4), draw(0)
    assert np.abs(example.image.astype(int) - 100).max() <= 20
    assert np.isin(np.round(example.depth * 8000), [0, 8000, *truth.depth.flat]).all()
    np.testing.assert_array_equal(example.mask[..., 0], (truth.mask & (truth.depth != 65535))[2::4, 2::4])


def test_the_prepared_data_set_has_what_the_files_hold(root, tmp_path, capsys):
    builder = Taskonomy.prepared(TaskonomyLayout(), root, tmp_path / "data", SIDE)
    assert "found 6 train, 3 validation, 3 test" in capsys.readouterr().out
    source = tfds.builder_from_directory(builder.data_dir).as_data_source("train")
    assert len(source) == 2 * POINTS
    for example in source:
        building, point, _ = example["id"].decode().split("/")
        paths = taskonomy(root, building, int(point))
        truth = read_one(paths)
        assert (root / example["file"].decode()) == paths[0]
        np.testing.assert_array_equal(example["image"], truth.image)
        np.testing.assert_array_equal(example["mask"] > 0, truth.mask)
        np.testing.assert_allclose(example["depth"] / 65535, truth.depth, atol=1e-5)
    batch = Batches(source, lambda e, _: {"depth": e["depth"]}, size=4, seed=0).load(0, slice(0, 4))
    assert batch["depth"].shape == (4, SIDE, SIDE, 1) and batch["depth"].dtype == np.uint16
    again = Taskonomy.prepared(TaskonomyLayout(), root, tmp_path / "data", SIDE)
    assert again.data_dir == builder.data_dir and "found" not in capsys.readouterr().out


def test_a_tfds_user_gives_the_folder_as_manual(root, tmp_path):
    builder = Taskonomy(config="256", data_dir=tmp_path / "data", file_format="array_record")
    builder.download_and_prepare(download_config=tfds.download.DownloadConfig(manual_dir=root))
    assert builder.as_data_source("test")[0]["image"].shape == (256, 256, 3)


def test_other_options_are_another_data_set(root, tmp_path):
    (root / "few.txt").write_text("\n".join(str(taskonomy(root, "hanson", i)[1]) for i in (0, 2)))
    made = [
        Taskonomy.prepared(layout, root, tmp_path / "data", size)
        for layout, size in (
            (TaskonomyLayout(selection="few.txt"), 16),
            (TaskonomyLayout(selection="few.txt"), 8),
            (TaskonomyLayout(selection=root / "few.txt"), 8),
        )
    ]
    assert len({builder.data_dir for builder in made}) == 3
    for builder in made:
        assert {name: split.num_examples for name, split in builder.info.splits.items()} == {"train": 2}


def test_unreadable_images_among_many_are_left_out_counted_and_listed(tmp_path, capsys):
    root = tmp_path / "taskonomy"
    write_taskonomy(root, {"hanson": "train"}, points=120)
    broken = taskonomy(root, "hanson", 7)
    truncate(broken[0])
    taskonomy(root, "hanson", 8)[2].unlink()
    builder = Taskonomy.prepared(TaskonomyLayout(), root, tmp_path / "data", 8)
    assert builder.info.splits["train"].num_examples == 118
    output = capsys.readouterr().out
    assert f"left out 1, each has no mask: {taskonomy(root, 'hanson', 8)[0]}" in output
    assert "train: left out 1, each cannot be read as an image" in output and str(broken[0]) in output
    lost = json.loads((builder.data_path / "metadata.json").read_text())["left_out"]
    assert len(lost) == 2 and any(str(broken[0]) in line for line in lost)


def test_too_many_faults_are_an_error_that_lists_them(root, tmp_path):
    truncate(taskonomy(root, "hanson", 1)[1])
    with pytest.raises(
        ValueError, match=r"1 of 12 examples cannot be used, but the tolerance is 0.01(.|\n)*hanson_depth"
    ):
        Taskonomy.prepared(TaskonomyLayout(), root, tmp_path / "data", SIDE)
    builder = Taskonomy.prepared(TaskonomyLayout(), root, tmp_path / "data", SIDE, tolerance=0.2)
    assert builder.info.splits["train"].num_examples == 5


@pytest.mark.parametrize("part, lack", [(0, "has no image"), (1, "has no depth"), (2, "has no mask")])
def test_a_missing_part_is_named(root, part, lack):
    paths = taskonomy(root, "merom", 1)
    paths[part].unlink()
    inventory = TaskonomyLayout().find(root)
    assert [str(fault) for fault in inventory.faults] == [f"{paths[1 if part == 0 else 0]} {lack}"]
    assert len(inventory.splits["train"]) == 2 * POINTS - 1
    with pytest.raises(ValueError, match=lack):
        inventory.check_faults(0.01)


def test_buildings_without_masks_or_images_are_left_out_and_named(root):
    for i in range(POINTS):
        taskonomy(root, "merom", i)[2].unlink()
        write(taskonomy(root, "tomkins", i), draw(i))
    lines = (root / "splits.csv").read_text() + "\ntomkins,1,0,0\nallensville,1,0,0\n"
    (root / "splits.csv").write_text(lines)
    inventory = TaskonomyLayout().find(root)
    assert len(inventory.splits["train"]) == POINTS
    assert inventory.notes == [
        "left out 1 of 5 buildings, which have no images: allensville",
        "left out 1 of 5 buildings, which have no masks: merom",
        "left out the buildings that the data set's authors exclude: tomkins",
    ]
    (root / "elsewhere").mkdir()
    why = r"none of 5 buildings .* 4 of 5 buildings, which have no masks(.|\n)*elsewhere/hanson_mask_valid"
    with pytest.raises(ValueError, match=why):
        TaskonomyLayout(masks=root / "elsewhere").find(root).check_faults(0.01)


def test_a_selection_lists_depth_paths(root):
    lines = ["/somewhere/else/hanson_depth_zbuffer/depth_zbuffer/point_2_view_0_domain_depth_zbuffer.png"]
    lines += [str(taskonomy(root, "ihlen", 0)[1]), "", str(taskonomy(root, "ihlen", 9)[1])]
    (root / "list.txt").write_text("\n".join(lines))
    inventory = TaskonomyLayout(selection="list.txt").find(root)
    ids = {split: [example.id for example in examples] for split, examples in inventory.splits.items()}
    assert ids == {"train": ["hanson/2/0"], "test": ["ihlen/0/0"]}
    assert [str(fault) for fault in inventory.faults] == [f"{lines[-1]} is selected but missing"]
    (root / "list.txt").write_text("hanson/2.png")
    with pytest.raises(ValueError, match=r"list.txt:1 must be {building}_depth_zbuffer.*'hanson/2.png'"):
        TaskonomyLayout(selection="list.txt").find(root)
    with pytest.raises(FileNotFoundError, match=r"none.txt is missing"):
        TaskonomyLayout(selection="none.txt").find(root)


def test_bad_split_files_are_named(root):
    path = root / "splits.csv"
    for text, message in (
        ("id,train,val\nhanson,1,0", r"splits.csv lacks the columns test; found id, train, val"),
        ("", "splits.csv lacks the columns id, train, val, test"),
        (
            "id,train,val,test\nhanson,1,0,0\nmerom,1,1,0",
            "splits.csv:3: merom must have a single 1, and 0 in the other columns",
        ),
        ("id,train,val,test\nhanson,yes,0,0", "splits.csv:2: hanson must have a single 1"),
    ):
        path.write_text(text)
        with pytest.raises(ValueError, match=message):
            TaskonomyLayout().find(root)
    path.unlink()
    with pytest.raises(
        FileNotFoundError,
        match=r"splits.csv is missing: it must be a CSV file with the columns id, train, val, test",
    ):
        TaskonomyLayout().find(root)


def test_bad_files_are_named(root):
    paths, truth = taskonomy(root, "hanson", 0), draw(0)
    depth, mask = (str(path) for path in paths[1:])
    for path, pixels, message in (
        (depth, truth.depth.astype(np.uint8), f"{depth} must be a 16-bit PNG of 24x24 pixels, .* mode L"),
        (depth, truth.image, f"{depth} must be a 16-bit PNG of 24x24 pixels, found 24x24, mode RGB"),
        (depth, truth.depth[:8], f"{depth} must be a 16-bit PNG of 24x24 pixels, found 24x8"),
        (depth, np.full_like(truth.depth, 65535), f"{depth} has no valid pixel"),
        (mask, np.zeros_like(truth.mask), f"{depth} has no valid pixel"),
        (mask, truth.mask[:8], f"{mask} must be 24x24 pixels large, found 24x8"),
        (mask, truth.image, f"{mask} must be a mask of one channel, found mode RGB"),
    ):
        save(type(paths[0])(path), pixels)
        with pytest.raises(Fault, match=message):
            read_one(paths)
        write(paths, truth)
    for path in paths:
        truncate(path)
        with pytest.raises(Fault, match=f"{path} cannot be read as an image"):
            read_one(paths)
        write(paths, truth)
        path.unlink()
        with pytest.raises(Fault, match=f"{path} cannot be read as an image: .*No such file"):
            read_one(paths)
        write(paths, truth)


def test_without_masks_depth_alone_tells_what_is_valid(root, tmp_path, capsys):
    shutil.rmtree(root / "masks")
    builder = Taskonomy.prepared(TaskonomyLayout(), root, tmp_path / "data", SIDE)
    assert (
        f"without masks ({root / 'masks'}): depth is valid where it is not 65535" in capsys.readouterr().out
    )
    example = builder.as_data_source("train")[0]
    point = int(example["id"].decode().split("/")[1]) + POINTS * (b"merom" in example["id"])
    np.testing.assert_array_equal(example["mask"][..., 0] > 0, draw(point).depth != 65535)
    with pytest.raises(FileNotFoundError, match=r"elsewhere is missing: it must hold {building}_mask_valid"):
        TaskonomyLayout(masks="elsewhere").find(root)


def test_a_repeated_building_is_read_once_and_one_in_two_splits_refused(root, tmp_path):
    path = root / "splits.csv"
    lines = path.read_text().splitlines()
    path.write_text("\n".join([*lines, lines[1]]))
    builder = Taskonomy.prepared(TaskonomyLayout(), root, tmp_path / "data", 8)
    assert builder.info.splits["train"].num_examples == 2 * POINTS
    path.write_text("\n".join([*lines, "hanson,0,0,1"]))
    with pytest.raises(ValueError, match=r"splits.csv:6: hanson has another split than in .*splits.csv:2"):
        TaskonomyLayout().find(root)


def test_nothing_found_tells_what_was_looked_for(root):
    layout = TaskonomyLayout(selection="list.txt")
    (root / "list.txt").write_text(str(taskonomy(root, "nowhere", 0)[1]))
    with pytest.raises(ValueError, match="no building to look for: the splits name 4, and a selection"):
        layout.find(root).check_faults(0)
    for building in SPLITS:
        shutil.rmtree(root / f"{building}_rgb")
    with pytest.raises(
        ValueError, match=r"none of 4 buildings has an example: left out 12, each has no image"
    ):
        TaskonomyLayout().find(root).check_faults(0)


def test_files_that_systems_leave_behind_are_no_images(root):
    for path in taskonomy(root, "hanson", 0):
        path.with_name(f"._{path.name}").touch()
    inventory = TaskonomyLayout().find(root)
    assert len(inventory.splits["train"]) == 2 * POINTS and not inventory.faults
