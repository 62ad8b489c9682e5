"""Copies of Waterbirds in Parquet files, as `datasets` writes them to the hub."""

import datasets
import pyarrow.parquet
import pytest
from PIL import Image

from gap_jax.data.__main__ import main
from gap_jax.data.masked.waterbirds import WaterbirdsLayout
from tests.data.depth_files import save
from tests.data.masked_files import draw

ROWS = {  # name, label and place, by split
    "train": [("Sooty_Gull_0001_5.jpg", 1, 1), ("House_Wren_0002_6.jpg", 0, 0)],
    "validation": [("House_Wren_0003_7.jpg", 0, 1)],
    "test": [("Sooty_Gull_0004_8.jpg", 1, 0), ("House_Wren_0005_9.jpg", 0, 1)],
}


@pytest.fixture
def copy(tmp_path):
    number = 0
    for split, rows in ROWS.items():
        columns = {"image": [], "label": [], "place": []}
        for name, label, place in rows:
            path = tmp_path / "original" / name
            save(path, draw(number).image)
            number += 1
            image = {"bytes": path.read_bytes(), "path": name}
            for column, value in zip(columns, (image, label, place), strict=True):
                columns[column].append(value)
        features = datasets.Features(
            image=datasets.Image(),
            label=datasets.ClassLabel(names=["landbird", "waterbird"]),
            place=datasets.ClassLabel(names=["land", "water"]),
        )
        table = datasets.Dataset.from_dict(columns, features)
        table.to_parquet(tmp_path / f"copy/data/{split}-00000-of-00001.parquet")
    return tmp_path / "copy"


def unpack(copy, root):
    main(["unpack", "--parquet", str(copy), "--root", str(root)])


def test_a_copy_becomes_the_originals_layout(copy, tmp_path, capsys):
    root = tmp_path / "waterbirds"
    unpack(copy, root)
    assert "wrote 5 images and metadata.csv" in capsys.readouterr().out
    for image in root.glob("*/*.jpg"):
        assert image.read_bytes() == (tmp_path / "original" / image.name).read_bytes()
        mask = Image.new("L", Image.open(image).size)
        mask.paste(255, (0, 0, 9, 9))
        mask.save(image.with_name(f"{image.stem}_mask.png"))
    inventory = WaterbirdsLayout(training="all").find(root)
    inventory.check_faults(0)
    found = {
        split: {
            (f"{paths.id.split('/')[1]}.jpg", paths.label, paths.attributes["place"]) for paths in examples
        }
        for split, examples in inventory.splits.items()
    }
    assert found == {split: set(rows) for split, rows in ROWS.items()}
    assert {paths.id.split("/")[0] for paths in inventory.splits["test"]} == {"Sooty_Gull", "House_Wren"}


def test_nothing_is_replaced_and_other_files_are_named(copy, tmp_path):
    (tmp_path / "full").mkdir()
    (tmp_path / "full/mine.txt").touch()
    with pytest.raises(SystemExit, match="full is not empty: name a new folder"):
        unpack(copy, tmp_path / "full")
    with pytest.raises(SystemExit, match=r"full must hold the Parquet files of a copy: .* holds 0 files"):
        unpack(tmp_path / "full", tmp_path / "new")
    links = pyarrow.table({"image": [{"bytes": None, "path": "a.jpg"}], "label": [0], "place": [0]})
    pyarrow.parquet.write_table(links, copy / "data/test-00000-of-00001.parquet")
    with pytest.raises(SystemExit, match=r"test-.*parquet: row 0 holds no image, only the path 'a.jpg'"):
        unpack(copy, tmp_path / "new")
    (copy / "data/test-00000-of-00001.parquet").write_bytes(b"no table")
    with pytest.raises(
        SystemExit, match=r"test-00000-of-00001.parquet must be a Parquet file with the columns"
    ):
        unpack(copy, tmp_path / "new")


@pytest.mark.parametrize("name", [".._0001_5.jpg", "a/b\0_0001_5.jpg", "/", "..", "con_0001_5.jpg"])
def test_nothing_is_written_outside_the_folder(tmp_path, name):
    rows = {"image": [{"bytes": b"x", "path": name}], "label": [0], "place": [0]}
    (tmp_path / "copy").mkdir()
    pyarrow.parquet.write_table(pyarrow.table(rows), tmp_path / "copy" / "test.parquet")
    with pytest.raises(
        SystemExit, match=r"test\.parquet: row 0 has the path .* must each be the name of a file"
    ):
        unpack(tmp_path / "copy", tmp_path / "below" / "root")
    assert not [path for path in tmp_path.rglob("*") if path.is_file() and path.name != "test.parquet"]
