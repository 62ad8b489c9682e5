import shutil
from pathlib import Path

import numpy as np
import pytest
import tensorflow_datasets as tfds

from gap_jax.data.__main__ import main
from gap_jax.data.masked.dataset import IWildCam
from gap_jax.data.masked.iwildcam import CLASSES, IWildCamLayout, time_of_day
from gap_jax.data.prepared import Prepared
from tests.data.depth_files import save
from tests.data.masked_files import Shot, draw, iwildcam, squeezed, write_iwildcam

YS = (0, 24, 32, 36, 48, 49, 52)
TABLES = {
    "train": [Shot(y, location, hour) for y in YS for location, hour in ((1, 12), (78, 23))],
    "train_extra": [Shot(24, 1), Shot(48, 6)],
    "val": [Shot(0, 6), Shot(52, 8)],
    "test": [Shot(y, location, hour) for location in (287, 288) for y, hour in ((0, 9), (24, 7), (48, 20))],
}


@pytest.fixture
def root(tmp_path):
    write_iwildcam(tmp_path / "iwildcam_v2.0", TABLES)
    return tmp_path / "iwildcam_v2.0"


def edit(root, table, line, old, new):
    path = root / f"{table}_subset.csv"
    lines = path.read_text().splitlines()
    assert old in lines[line - 1]
    lines[line - 1] = lines[line - 1].replace(old, new)
    path.write_text("\n".join(lines))


def test_rows_are_found_with_labels_locations_and_hours(root):
    inventory = IWildCamLayout().find(root)
    assert list(inventory.splits) == ["train", "train_extra", "validation", "test"] and not inventory.faults
    for table, examples in zip(TABLES, inventory.splits.values(), strict=True):
        for i, (shot, files) in enumerate(zip(TABLES[table], examples, strict=True)):
            image, mask = iwildcam(root, f"{table}-{i}")
            assert (files.id, files.image) == (f"{table}-{i}", str(image))
            assert files.mask == (str(mask) if shot.y else None)
            assert files.label == YS.index(shot.y) and files.group == shot.location
            assert files.attributes == {"location": shot.location, "hour": shot.hour}
            assert files.row == f"{root / table}_subset.csv:{i + 2}"
    assert CLASSES == ("background", "cattle", "elephants", "impalas", "zebras", "giraffes", "dik-diks")
    assert inventory.classes == CLASSES


def test_notes_tell_numbers_of_masks_and_of_rows_unlike_the_papers(root):
    notes = IWildCamLayout().find(root).notes
    assert "train_subset.csv has 14 rows; the paper's has 6,052" in notes
    assert "test_subset.csv has 6 rows; the paper's has 8,483" in notes
    assert "test: 2 background, 2 cattle, 2 zebras" in notes
    assert "test: 4 of 6 images have a mask; nothing is kept of the others" in notes


def test_day_is_9_to_17_h_and_night_20_to_5_h():
    assert [hour for hour in range(24) if time_of_day(hour) == "day"] == list(range(9, 18))
    assert [hour for hour in range(24) if time_of_day(hour) == "night"] == [*range(6), *range(20, 24)]


def test_locations_and_times_are_chosen(root):
    inventory = IWildCamLayout(locations=(287,)).find(root)
    assert [files.id for files in inventory.splits["test"]] == ["test-0", "test-1", "test-2"]
    assert list(inventory.splits) == ["test"]
    night = IWildCamLayout(locations=(288,), time="night").find(root)
    assert [files.id for files in night.splits["test"]] == ["test-5"]
    day = IWildCamLayout(time="day").find(root)
    assert {files.attributes["location"] for files in day.splits["train"]} == {1}
    assert [files.id for files in day.splits["test"]] == ["test-0", "test-3"]


def test_prepared_masks_are_scaled_and_images_without_one_keep_nothing(root, tmp_path):
    builder = IWildCam.prepared(IWildCamLayout(), root, tmp_path / "data", 16)
    source = tfds.builder_from_directory(builder.data_dir).as_data_source("test")
    for example in source:
        i = int(example["id"].decode().split("-")[1])
        shot = TABLES["test"][i]
        keep = squeezed(draw(i).mask, 16) if shot.y else np.zeros((16, 16), bool)
        np.testing.assert_array_equal(example["keep"][..., 0] > 0, keep)
        assert (example["location"], example["hour"]) == (shot.location, shot.hour)
        assert (example["group"], example["label"]) == (shot.location, YS.index(shot.y))
        assert example["file"].decode() == f"train/test-{i}.jpg"
    prepared = Prepared(builder.data_dir, "test", fields=("image", "hour"))
    assert prepared.column("location").tolist() == [int(example["location"]) for example in source]
    hours = [int(prepared[i]["hour"]) for i in range(len(prepared))]
    np.testing.assert_array_equal(prepared.select(np.array([2, 0])).column("hour"), [hours[2], hours[0]])


def test_errors_in_tables_name_row_and_column(root):
    edit(root, "val", 1, ",datetime,", ",time,")
    with pytest.raises(
        ValueError, match=r"val_subset.csv lacks the columns datetime; found , Unnamed: 0, split"
    ):
        IWildCamLayout().find(root)
    edit(root, "val", 1, ",time,", ",datetime,")
    edit(root, "val", 3, "2013-02-04", "04.02.13")
    with pytest.raises(ValueError, match=r"ISO date .* as datetime, found '04.02.13 .*val_subset.csv:3"):
        IWildCamLayout().find(root).check_faults(0.01)
    edit(root, "val", 3, "04.02.13", "2013-02-04")
    edit(root, "val", 3, ",52,", ",53,")
    with pytest.raises(
        ValueError, match=r"one of 0 \(background\), 24 .* as y, found 53: .*val_subset.csv:3"
    ):
        IWildCamLayout().find(root).check_faults(0.01)
    (root / "val_subset.csv").unlink()
    with pytest.raises(FileNotFoundError, match=r"val_subset.csv is missing"):
        IWildCamLayout().find(root)
    with pytest.raises(FileNotFoundError, match=r"elsewhere is missing: it must hold masks {image_id}.png"):
        IWildCamLayout(masks=root / "elsewhere").find(root)


def test_images_that_are_not_unpacked_are_reported_with_their_folder(root):
    shutil.rmtree(root / "train")
    why = r"all \d+ selected images are missing: unpack the images in .*/train"
    with pytest.raises(ValueError, match=why):
        IWildCamLayout(time="day").find(root).check_faults(0.01)


def test_a_location_without_images_is_named_with_its_row(root):
    with pytest.raises(ValueError, match=r"no row has location 290; found 1, 6, 8, 78, 287 and 1 more"):
        IWildCamLayout(locations=(287, 290)).find(root).check_faults(0.01)
    for i in (3, 4, 5):
        iwildcam(root, f"test-{i}")[0].unlink()
    why = r"test_subset.csv:5: all 3 images of location 288 are missing; the first is .*test-3.jpg"
    for layout in (IWildCamLayout(), IWildCamLayout(locations=(288,))):
        with pytest.raises(ValueError, match=why):
            layout.find(root).check_faults(0.01)
    path = root / "test_subset.csv"
    path.write_text("\n".join(path.read_text().splitlines()[:4]))
    with pytest.raises(ValueError, match=r"test_subset.csv: no row has location 288; found 287"):
        IWildCamLayout().find(root).check_faults(0.01)


def test_a_class_without_examples_is_an_error(root):
    for i in (10, 11):
        iwildcam(root, f"train-{i}")[0].unlink()
    with pytest.raises(
        ValueError,
        match=r"train_subset.csv: each class needs examples to train on; found none of giraffes among 12",
    ):
        IWildCamLayout().find(root).check_faults(0.01)


def test_masks_of_another_shape_and_missing_images_are_named_with_their_row(root, tmp_path, capsys):
    mask = iwildcam(root, "train-2")[1]
    save(mask, draw(0).mask[:12])
    iwildcam(root, "train-3")[0].unlink()
    arguments = ["iwildcam", "--root", str(root), "--sheet", str(tmp_path / "sheet.png")]
    with pytest.raises(SystemExit, match=r"1 of 24 examples cannot be used(.|\n)*train-3.jpg \(.*csv:5\)"):
        main(["check", *arguments])
    assert (
        "left out 1, each must have the aspect ratio of its image, 36x24, found 36x12: "
        f"{mask} ({root}/train_subset.csv:4)"
    ) in capsys.readouterr().out
    main(["check", *arguments, "--tolerance", "0.1"])
    main(["check", *arguments, "--locations", "287", "288", "--time", "day"])
    assert "found 2 test" in capsys.readouterr().out


def test_no_mask_at_all_is_an_error_that_tells_where_masks_are(root, tmp_path):
    (root / "instance_masks").rename(root / "deep")
    (root / "instance_masks").mkdir()
    (root / "deep").rename(root / "instance_masks/unzipped")
    why = (
        r"none of the 19 images of animals has a mask {image_id}.png in .*instance_masks; "
        r".*instance_masks holds 19 files \(.png\), such as unzipped/test-1.png: name .* by --masks"
    )
    with pytest.raises(SystemExit, match=why):
        main(["check", "iwildcam", "--root", str(root), "--sheet", str(tmp_path / "sheet.png")])
    with pytest.raises(SystemExit, match=why):
        main(["prepare", "iwildcam", "--root", str(root), "--data-dir", str(tmp_path), "--size", "16"])
    IWildCamLayout(masks=root / "instance_masks/unzipped").find(root).check_faults(0)


def test_few_masks_are_a_warning_with_numbers(root):
    masks = sorted((root / "instance_masks").iterdir())
    for path in masks[:9]:
        path.unlink()
    assert not [note for note in IWildCamLayout().find(root).notes if "warning" in note]
    masks[9].unlink()
    (warning,) = (note for note in IWildCamLayout().find(root).notes if "warning" in note)
    assert warning.startswith("warning: only 9 of the 19 images of animals have a mask in ")


def test_images_and_masks_may_be_where_archives_put_them(root):
    as_described = IWildCamLayout().find(root)
    for name in ("train", "instance_masks"):
        (root / name).rename(root / "moved")
        (root / name).mkdir()
        (root / "moved").rename(root / name / name)
    unpacked = IWildCamLayout().find(root)
    unpacked.check_faults(0)
    for split, examples in as_described.splits.items():
        for paths, other in zip(examples, unpacked.splits[split], strict=True):
            assert other.image == paths.image.replace("/train/", "/train/train/")
            assert other.mask == (paths.mask and paths.mask.replace("_masks/", "_masks/instance_masks/"))


def test_names_may_have_their_folders_prefix_or_backslashes(root):
    path = root / "test_subset.csv"
    path.write_text(
        path.read_text().replace(",test-1.jpg", ",train/test-1.jpg").replace(",test-2", ",train\\test-2")
    )
    assert [Path(paths.image).name for paths in IWildCamLayout().find(root).splits["test"]] == [
        f"test-{i}.jpg" for i in range(6)
    ]


def test_an_image_of_a_later_split_is_left_out_of_earlier_ones(root):
    train, test = (iwildcam(root, name)[0] for name in ("train-4", "test-1"))
    train.write_bytes(test.read_bytes())
    inventory = IWildCamLayout().find(root)
    assert [str(fault) for fault in inventory.faults] == [
        f"{train} ({root}/train_subset.csv:6) is in the split test, too"
    ]
    assert "train-4" not in [paths.id for paths in inventory.splits["train"]]
    assert "test-1" in [paths.id for paths in inventory.splits["test"]]
