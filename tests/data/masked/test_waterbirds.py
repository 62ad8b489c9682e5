import json

import numpy as np
import pytest
import tensorflow_datasets as tfds
from PIL import Image

from gap_jax.data.__main__ import main
from gap_jax.data.encoding import as_arrays
from gap_jax.data.loader import Batches
from gap_jax.data.masked.dataset import Waterbirds
from gap_jax.data.masked.read import MaskedPaths
from gap_jax.data.masked.waterbirds import WaterbirdsLayout, biased_subset
from tests.data.depth_files import save, truncate
from tests.data.masked_files import Bird, draw, squeezed, waterbirds, write_waterbirds

WREN, GULL, AUK = "003.Wren", "001.Gull", "002.Auk"
BIRDS = [
    *[Bird(WREN, 0, 0) for _ in range(8)],
    *[Bird(WREN, 0, 1) for _ in range(2)],
    *[Bird(GULL, 1, 1) for _ in range(6)],
    *[Bird(AUK, 1, 0) for _ in range(2)],
    *[Bird(WREN, 0, place, split) for split in (1, 2) for place in (0, 1)],
    *[Bird(AUK, 1, place, split) for split in (1, 2) for place in (0, 1)],
]
EVERYTHING = WaterbirdsLayout(training="all")


@pytest.fixture
def root(tmp_path):
    write_waterbirds(tmp_path / "waterbirds_v1.0", BIRDS)
    return tmp_path / "waterbirds_v1.0"


def edit(root, old, new):
    text = (root / "metadata.csv").read_text()
    assert old in text
    (root / "metadata.csv").write_text(text.replace(old, new))


def test_rows_are_found_in_their_splits_and_groups(root):
    inventory = EVERYTHING.find(root)
    assert {split: len(examples) for split, examples in inventory.splits.items()} == {
        "train": 18,
        "validation": 4,
        "test": 4,
    }
    for i, files in enumerate(inventory.splits["train"]):
        bird, paths = BIRDS[i], waterbirds(root, BIRDS[i].species, i)
        assert (files.image, files.mask) == tuple(map(str, paths))
        assert files.id == f"{bird.species}/{paths[0].stem}" and files.row == f"{root}/metadata.csv:{i + 2}"
        assert files.label == bird.y and files.attributes == {"place": bird.place}
        assert files.group == {(0, 0): 0, (0, 1): 1, (1, 0): 2, (1, 1): 3}[bird.place, bird.y]
    assert inventory.classes == ("landbird", "waterbird") and not inventory.faults
    assert inventory.notes[0] == (
        "train: 8 landbird on land, 2 landbird on water, 2 waterbird on land, 6 waterbird on water"
    )


def test_the_papers_training_set_is_every_fourth_of_the_biased_groups():
    def paths(species, number, group):
        return MaskedPaths(f"{species}/{number}", "", None, group % 2, group, {})

    birds = [paths(WREN, i, 0) for i in range(11)] + [paths(GULL, i, 3) for i in range(9)]
    birds += [paths(AUK, i, group) for i in range(7) for group in (1, 2)]
    chosen = [bird.id for bird in biased_subset(birds)]
    assert chosen == [f"{GULL}/{i}" for i in (0, 4, 8)] + [f"{WREN}/{i}" for i in (3, 7)]
    assert chosen == [bird.id for bird in biased_subset(birds)]
    capped = [bird.id for bird in biased_subset(birds, per_species=5)]
    assert capped == [f"{GULL}/{i}" for i in (0, 4)] + [f"{WREN}/3"]
    many = biased_subset([paths(WREN, i, 0) for i in range(1100)])
    assert [bird.id for bird in many] == [f"{WREN}/{i}" for i in range(0, 1000, 4)]
    assert len(biased_subset(birds, every=1)) == 20


def test_the_papers_training_set_is_the_default_and_other_splits_keep_all_groups(root):
    inventory = WaterbirdsLayout().find(root)
    assert [files.row.rpartition(":")[2] for files in inventory.splits["train"]] == ["12", "16", "4", "8"]
    assert sorted(files.group for files in inventory.splits["test"]) == [0, 1, 2, 3]
    waterbirds(root, WREN, 0)[0].unlink()  # not in the training set
    assert WaterbirdsLayout().find(root) == inventory


def test_the_prepared_data_set_has_what_the_files_hold(root, tmp_path, capsys):
    builder = Waterbirds.prepared(EVERYTHING, root, tmp_path / "data", 16)
    assert "found 18 train, 4 validation, 4 test" in capsys.readouterr().out
    source = tfds.builder_from_directory(builder.data_dir).as_data_source("train")
    assert len(source) == 18
    for example in source:
        i = int(example["id"].decode().split("_")[-2])
        image, _ = waterbirds(root, BIRDS[i].species, i)
        assert root / example["file"].decode() == image
        expected = Image.open(image).resize((16, 16), Image.Resampling.BILINEAR)
        np.testing.assert_array_equal(example["image"], np.asarray(expected))
        np.testing.assert_array_equal(example["keep"][..., 0] == 255, squeezed(draw(i).mask, 16))
        bird = BIRDS[i]
        assert (example["label"], example["place"]) == (bird.y, bird.place)
        assert example["group"] == 2 * bird.place + bird.y
    batch = Batches(source, lambda e, _: as_arrays(e), size=4, seed=0).load(0, slice(0, 4))
    assert batch["keep"].shape == (4, 16, 16, 1) and batch["label"].dtype == np.int32
    lost = json.loads((builder.data_path / "metadata.json").read_text())
    assert lost == {"classes": ["landbird", "waterbird"], "left_out": []}


def test_errors_in_tables_name_row_and_column(root):
    (root / "metadata.csv").rename(root / "kept.csv")
    with pytest.raises(
        FileNotFoundError,
        match=r"metadata.csv is missing: it must be a CSV file with the columns img_filename",
    ):
        EVERYTHING.find(root)
    text = (root / "kept.csv").read_text()
    row = text.splitlines()[1]
    for changed, why in (
        (row.replace(",0,0,0,", ",7,0,0,"), r"have one of 0 \(landbird\), 1 .* as y, found 7"),
        (row.replace(",0,0,0,", ",0,3,0,"), r"have one of 0 \(train\).* as split, found 3"),
        (row.replace(",0,0,0,", ",0,0,-1,"), "have one of 0 .* as place, found -1"),
        (row.replace(",0,0,0,", ",land,0,0,"), "have an integer as y, found 'land'"),
        (row.split(",0,0,0,")[0] + ",0", "is empty in the columns split, place"),
    ):
        (root / "metadata.csv").write_text(text.replace(row, changed))
        with pytest.raises(ValueError, match=f"each (must )?{why}: .*metadata.csv:2"):
            EVERYTHING.find(root).check_faults(0.01)
    for changed, message in (
        (text.replace("img_filename,y,", "name,label,"), "lacks the columns img_filename, y; found img_id"),
        (text.splitlines()[0], "has a header but no rows"),
        ("", "lacks the columns img_filename, .*; found none"),
    ):
        (root / "metadata.csv").write_text(changed)
        with pytest.raises(ValueError, match=f"metadata.csv ?{message}"):
            EVERYTHING.find(root)


def test_missing_images_and_masks_are_named_with_their_row(root, tmp_path):
    waterbirds(root, WREN, 0)[1].unlink()
    waterbirds(root, WREN, 1)[0].unlink()
    assert [str(fault) for fault in EVERYTHING.find(root).faults] == [
        f"{waterbirds(root, WREN, 0)[0]} ({root}/metadata.csv:2) has no mask",
        f"{waterbirds(root, WREN, 1)[0]} ({root}/metadata.csv:3) is missing",
    ]
    with pytest.raises(ValueError, match=r"2 of 26 examples cannot be used(.|\n)*has no mask: .*csv:2\)"):
        Waterbirds.prepared(EVERYTHING, root, tmp_path / "data", 16)
    for path in root.glob("*/*_mask.png"):
        path.unlink()
    with pytest.raises(
        ValueError, match=r"none of the images in .*metadata.csv has its mask .* obtained separately"
    ):
        EVERYTHING.find(root).check_faults(0.01)
    for path in root.glob("*/*.jpg"):
        path.unlink()
    with pytest.raises(ValueError, match=r"none of the images in .* exists: .* holds 0 files \(.jpg, .png\)"):
        EVERYTHING.find(root).check_faults(0.01)


def test_a_class_without_examples_is_an_error(root):
    edit(root, ",1,0,1,", ",0,0,1,")  # no waterbirds on water
    with pytest.raises(
        ValueError,
        match=r"metadata.csv: each class needs examples to train on; found none of waterbird among \d",
    ):
        WaterbirdsLayout().find(root).check_faults(0.01)


def test_unusable_files_are_named_with_their_row(root, tmp_path):
    image, mask = waterbirds(root, WREN, 0)
    drawn = draw(0)
    for path, pixels, why in (
        (
            image,
            drawn.image[..., 0],
            "must be an RGB image of 8 bits a channel, found mode L, .*: convert it",
        ),
        (mask, drawn.mask[:8], "must be 36x24 pixels large, found 36x8"),
        (mask, drawn.mask & False, "keeps nothing: all its pixels are 0"),
        (mask, None, "cannot be read as an image: .*"),
    ):
        if pixels is None:
            truncate(path)
        else:
            save(path, pixels)
        row = rf"each {why}: {path} \({root}/metadata.csv:2\)"
        with pytest.raises(ValueError, match=rf"1 of 26 examples cannot be used(.|\n)*{row}"):
            Waterbirds.prepared(EVERYTHING, root, tmp_path / "data", 16)
        for good, drawn_there in zip((image, mask), drawn, strict=True):
            save(good, drawn_there)


def test_inverted_masks_are_reported_by_check_and_refused_by_prepare(root, tmp_path, capsys):
    for i, bird in enumerate(BIRDS):
        if i % 3:
            save(waterbirds(root, bird.species, i)[1], ~draw(i).mask)
    sheet = tmp_path / "sheet.png"
    arguments = ["waterbirds", "--root", str(root), "--size", "16"]
    with pytest.raises(SystemExit, match=r"error: half of the masks keep more than .*inverted.*255 - mask"):
        main(["check", *arguments, "--sheet", str(sheet)])
    assert (
        "share of an image that its mask keeps: 1st percentile" in capsys.readouterr().out and sheet.is_file()
    )
    data = str(tmp_path / "data")
    with pytest.raises(SystemExit, match=r"error: half of the masks keep more than .*inverted.*255 - mask"):
        main(["prepare", *arguments, "--data-dir", data])
    assert not list(tmp_path.glob("data/*/*/*/dataset_info.json"))
    main(["prepare", *arguments, "--data-dir", data, "--most-kept", "0.9"])


def test_check_prints_what_the_folder_holds_and_draws_it(root, tmp_path, capsys):
    sheet = tmp_path / "sheet.png"
    main(["check", "waterbirds", "--root", str(root), "--sheet", str(sheet), "--size", "16"])
    output = capsys.readouterr().out
    assert (
        "found 4 train, 4 validation, 4 test" in output and "read 12 of 12 examples; 12 can be used" in output
    )
    assert "train: 2 landbird on land, 2 waterbird on water" in output
    image, mask = waterbirds(root, GULL, 10)
    assert f"% kept\n  {image}\n  {mask}\n" in output
    first = np.asarray(Image.open(sheet))[:16].reshape(16, 3, 20, 3)[:, :, :16]
    expected = np.asarray(Image.open(image).resize((16, 16), Image.Resampling.BILINEAR))
    keep = squeezed(draw(10).mask, 16)[..., None]
    np.testing.assert_array_equal(first[:, 0], expected)
    np.testing.assert_array_equal(first[:, 1], expected * keep)
    np.testing.assert_array_equal(first[:, 2], np.broadcast_to(np.uint8(255) * keep, (16, 16, 3)))


def test_repeated_lines_and_names_of_other_systems(root):
    path = root / "metadata.csv"
    header, *lines = path.read_text().splitlines()
    lines[1] = lines[1].replace(f"{WREN}/", f"{WREN}\\")
    lines[2] = lines[2].replace(f"{WREN}/", f"waterbirds_v1.0/{WREN}/")
    path.write_text("\r\n".join([header, *lines, lines[0], ""]), encoding="utf-16")
    inventory = EVERYTHING.find(root)
    assert [len(examples) for examples in inventory.splits.values()] == [18, 4, 4]
    assert len({paths.id for paths in inventory.splits["train"]}) == 18
    (fault,) = inventory.faults
    assert str(fault) == f"{waterbirds(root, WREN, 0)[0]} ({path}:28) has the same name as another image"


def test_an_image_in_training_and_test_is_held_out(root):
    path = root / "metadata.csv"
    lines = path.read_text().splitlines()
    again = lines[1].replace(",0,0,0,", ",0,2,0,")
    path.write_text("\n".join([*lines, again]))
    inventory = EVERYTHING.find(root)
    assert [str(fault) for fault in inventory.faults] == [
        f"{waterbirds(root, WREN, 0)[0]} ({path}:2) is in the split test, too"
    ]
    assert [len(examples) for examples in inventory.splits.values()] == [17, 4, 5]
