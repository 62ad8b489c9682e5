"""Tests that other programs read all of an exported data set, and that bad requests write nothing."""

import io
import json
import shutil
import tarfile

import numpy as np
import pytest
import tensorflow_datasets as tfds
import yaml
from PIL import Image

from gap_jax.data import generated
from gap_jax.data.__main__ import main
from gap_jax.data.writing import export as export_module
from gap_jax.prompts import save

COUNT, SIDE = 5, 16
DRAW = np.random.default_rng(0)
CLASSES = ("cat", "dog", "a bird")
FIELDS = {
    "image": DRAW.integers(0, 256, (COUNT, SIDE, 24, 3), np.uint8),
    "depth": DRAW.random((COUNT, SIDE, 24, 1), np.float32),
    "keep": DRAW.random((COUNT, SIDE, 24, 1)) > 0.6,
    "parts": DRAW.integers(-1, 3, (COUNT, SIDE, 24, 1)).astype(np.int32),
    "far": DRAW.integers(0, 60000, (COUNT, SIDE, 24, 1)).astype(np.int32),
    "normals": DRAW.normal(0, 1, (COUNT, SIDE, 24, 3)).astype(np.float32),
    "boxes": np.sort(DRAW.integers(0, SIDE, (COUNT, 2, 2, 2)), 2).reshape(COUNT, 2, 4).astype(np.float32),
    "box_labels": DRAW.integers(0, 3, (COUNT, 2)).astype(np.int32),
    "score": np.array([0.1, 2, np.nan, 4, -np.inf], np.float32),
    "loss": DRAW.random(COUNT, np.float32),
    "label": np.array([2, 0, 1, 1, 2]),
    "day": DRAW.random(COUNT) > 0.5,
    "text": np.array(["a <gap> room", "a <gap> room", "a | pipe", "é", "x"]),
    "prompt_id": np.array([0, 0, 1, 2, 3]),
}
MAPS_FOR_COCO = ("depth", "normals", "score", "far")


@pytest.fixture(scope="module")
def stage(tmp_path_factory):
    """The folder of a stage `generate`, with every kind of label."""
    folder = tmp_path_factory.mktemp("stage") / "generate"
    generated.write_chunk(folder / "chunks", "a", FIELDS | {"dropped": np.array([""] * COUNT)})
    generated.write_tfds(folder / "chunks", folder / "tfds", CLASSES)
    shutil.rmtree(folder / "chunks")
    (folder / "config.json").write_text(json.dumps({"steps": 7, "world": {"root": "/home/me/secret/rooms"}}))
    (folder / "summary.json").write_text("{}")
    save(folder.parent / "optimize" / "0" / "learned_embeds.safetensors", np.ones((2, 4)))
    return folder


def export(stage, target, form, *options):
    main(["export", "--data", str(stage), "--target", str(target), "--format", form, *map(str, options)])
    return target


def head(folder):
    """The YAML head of the card, and the text below it."""
    _, yaml_text, body = (folder / "README.md").read_text(encoding="utf-8").split("---\n", 2)
    return yaml.safe_load(yaml_text), body


def as_pixels(picture, name):
    """The field's values in a decoded PNG file."""
    pixels = np.asarray(picture)[..., None] if name != "image" else np.asarray(picture)
    return pixels > 0 if name == "keep" else pixels


def assert_equal_field(name, found, number):
    expected = FIELDS[name][number]
    if name == "depth":
        np.testing.assert_allclose(np.asarray(found) / 65535, expected, atol=0.5001 / 65535)
    elif FIELDS[name].dtype.kind == "f":
        np.testing.assert_array_equal(np.asarray(found, np.float32), expected)
    else:
        np.testing.assert_array_equal(found, expected)


def test_datasets_and_torch_read_the_image_folder(stage, tmp_path, monkeypatch):
    datasets = pytest.importorskip("datasets")
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    folder = export(stage, tmp_path / "rooms", "image-folder", "--license", "openrail")
    rows = datasets.load_dataset(str(folder), split="train", cache_dir=str(tmp_path / "cache"))
    assert len(rows) == COUNT and rows.features["label"].names == list(CLASSES)
    declared = datasets.Features._from_yaml_list(head(folder)[0]["dataset_info"]["features"])
    assert declared == rows.features
    for number, row in enumerate(rows):
        for name in FIELDS:
            if f"{name}_npy" in row:
                found = np.load(folder / "train" / row[f"{name}_npy"])
                assert found.dtype == FIELDS[name].dtype
            else:
                found = as_pixels(row[name], name) if isinstance(row[name], Image.Image) else row[name]
            assert_equal_field(name, found, number)
    # torchvision's ImageFolder: the classes are the folders, sorted, and nothing else is among the images
    root = folder / "train" / "images"
    assert sorted(path.name for path in root.iterdir()) == sorted(CLASSES)
    for path in root.rglob("*.*"):
        number = int(path.stem)
        assert path.parent.name == CLASSES[FIELDS["label"][number]]
        assert_equal_field("image", np.asarray(Image.open(path)), number)
    assert (folder / "export.json").is_file() and (folder / "contact_sheet.png").is_file()


def test_datasets_reads_the_shards_of_webdataset(stage, tmp_path, monkeypatch):
    datasets = pytest.importorskip("datasets")
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    folder = export(stage, tmp_path / "rooms", "webdataset", "--images-per-shard", 2)
    shards = sorted(folder.glob("*.tar"))
    assert [path.name for path in shards] == [f"train-{i:06d}.tar" for i in range(3)]
    samples: dict = {}
    for path in shards:
        with tarfile.open(path) as tar:
            for member in tar:
                key, _, extension = member.name.partition(".")
                samples.setdefault(key, {})[extension] = tar.extractfile(member).read()
    assert list(samples) == [f"{i:06d}" for i in range(COUNT)]
    for number, files in enumerate(samples.values()):
        values = json.loads(files["json"])
        assert int(files["cls"]) == FIELDS["label"][number]
        for name in FIELDS:
            if (extension := f"{name}.npy") in files:
                found = np.load(io.BytesIO(files[extension]))
            elif (extension := "png" if name == "image" else f"{name}.png") in files:
                found = as_pixels(Image.open(io.BytesIO(files[extension])), name)
            else:
                found = values[name]
            assert_equal_field(name, found, number)
    rows = datasets.load_dataset(str(folder), split="train", cache_dir=str(tmp_path / "cache"))
    assert rows["__key__"] == [f"{i:06d}" for i in range(COUNT)]
    assert_equal_field("image", np.asarray(rows[3]["png"]), 3)
    assert rows[3]["json"]["text"] == "é" and rows.features["cls"].names == list(CLASSES)


def decode(region):
    """The mask of run lengths: of columns, beginning with zeros."""
    values = np.arange(len(region["counts"])) % 2
    return np.repeat(values, region["counts"]).reshape(region["size"][::-1]).T.astype(bool)


def test_coco_has_all_masks_class_maps_and_boxes(stage, tmp_path):
    options = ("--boxes", "boxes", "--box-format", "xyxy", "--box-classes", "box_labels")
    folder = export(stage, tmp_path / "rooms", "coco", "--leave-out", *MAPS_FOR_COCO, *options)
    found = json.loads((folder / "annotations" / "instances_train.json").read_text())
    categories = {entry["id"]: entry for entry in found["categories"]}
    assert [entry["id"] for entry in found["annotations"]] == list(range(1, len(found["annotations"]) + 1))
    names = {
        field: {entry["name"] for entry in categories.values() if entry["supercategory"] == field}
        for field in ("keep", "parts", "boxes")
    }
    assert names == {
        "keep": set(CLASSES),
        "parts": {f"parts {value}" for value in range(-1, 3)},
        "boxes": {f"boxes {value}" for value in np.unique(FIELDS["box_labels"])},
    }
    for number, image in enumerate(found["images"]):
        assert_equal_field("image", np.asarray(Image.open(folder / "train" / image["file_name"])), number)
        assert (image["width"], image["height"]) == (24, SIDE)
        for name in ("loss", "label", "day", "text", "boxes"):
            assert_equal_field(name, image["fields"][name], number)
        mine = [entry for entry in found["annotations"] if entry["image_id"] == image["id"]]
        parts, keep, boxes = np.full((SIDE, 24), 99), np.zeros((SIDE, 24), bool), []
        for entry in mine:
            category = categories[entry["category_id"]]
            assert entry["iscrowd"] == 0
            if category["supercategory"] == "boxes":
                x, y, width, height = entry["bbox"]
                boxes.append([x, y, x + width, y + height])
                assert entry["area"] == width * height
                continue
            mask = decode(entry["segmentation"])
            x, y, width, height = entry["bbox"]
            assert entry["area"] == mask.sum() == mask[y : y + height, x : x + width].sum()
            assert (
                mask[y].any()
                and mask[y + height - 1].any()
                and mask[:, x].any()
                and mask[:, x + width - 1].any()
            )
            if category["supercategory"] == "keep":
                keep |= mask
                assert category["name"] == CLASSES[FIELDS["label"][number]]
            else:
                parts[mask] = category["value"]
        np.testing.assert_array_equal(keep[..., None], FIELDS["keep"][number])
        np.testing.assert_array_equal(parts[..., None], FIELDS["parts"][number])
        real = (FIELDS["boxes"][number][:, 2:] > FIELDS["boxes"][number][:, :2]).any(1)
        np.testing.assert_array_equal(boxes, FIELDS["boxes"][number][real])


def test_pycocotools_decodes_the_same_masks(stage, tmp_path):
    reader = pytest.importorskip("pycocotools.coco", reason="pycocotools is not installed")
    options = ("--boxes", "boxes", "--box-format", "xyxy")
    folder = export(stage, tmp_path / "rooms", "coco", "--leave-out", *MAPS_FOR_COCO, *options)
    coco = reader.COCO(str(folder / "annotations" / "instances_train.json"))
    for number, image in enumerate(sorted(coco.imgs)):
        keep, parts = np.zeros((SIDE, 24, 1), bool), np.full((SIDE, 24, 1), 99)
        for entry in coco.loadAnns(coco.getAnnIds([image])):
            category = coco.cats[entry["category_id"]]
            if category["supercategory"] == "keep":
                keep |= coco.annToMask(entry)[..., None] > 0
            elif category["supercategory"] == "parts":
                parts[coco.annToMask(entry) > 0] = category["value"]
        np.testing.assert_array_equal(keep, FIELDS["keep"][number])
        np.testing.assert_array_equal(parts, FIELDS["parts"][number])


def test_tfds_opens_the_copy_whose_card_has_recipe_prompts_and_licence(stage, tmp_path):
    folder = export(stage, tmp_path / "rooms", "tfds", "--prompts", stage.parent / "optimize")
    builder = tfds.builder_from_directory(folder / "generated" / "1.0.0")
    for number, example in enumerate(builder.as_data_source("train")):
        for name in set(FIELDS) - {"text", "keep"}:
            assert_equal_field(name, example[name], number)
        assert example["text"].decode() == FIELDS["text"][number]
    yaml_head, body = head(folder)
    assert yaml_head["viewer"] is False and yaml_head["license"] == "unknown"
    assert '"steps": 7' in body and '"root": "rooms"' in body and "secret" not in body
    assert "| `a <gap> room` | 2 |" in body and "| `a \\| pipe` | 1 |" in body
    assert "`prompts/0/learned_embeds.safetensors`" in body and "OpenRAIL" in body
    assert (folder / "prompts" / "0" / "learned_embeds.safetensors").is_file()
    sheet = np.asarray(Image.open(folder / "contact_sheet.png"))
    assert sheet.std() > 20


@pytest.mark.parametrize(
    "form, options, message",
    [
        ("coco", (), r"no place for depth, normals, score: leave .*--leave-out depth normals score"),
        ("coco", ("--leave-out", *MAPS_FOR_COCO, "keep", "parts"), "name the field with boxes"),
        ("coco", ("--leave-out", *MAPS_FOR_COCO, "--boxes", "loss"), r"shape \[n, 4\], found loss: value"),
        ("coco", ("--leave-out", *MAPS_FOR_COCO, "--boxes", "boxes"), "is not inside its .*--box-format"),
        ("coco", ("--leave-out", "depth", "normals", "score"), "far has values from .* too many"),
        ("image-folder", ("--classes", "cat"), r"labels must be in 0\.\.0, .*found 0 to 2.*--classes"),
        ("image-folder", ("--classes", "a", "b", "../c"), r"the class '../c' must be renamed"),
        ("webdataset", ("--leave-out", "nothing"), "has no field nothing to leave out"),
        ("webdataset", ("--images-per-shard", 0), "images_per_shard must be 1 or more"),
        ("tfds", ("--leave-out", "depth"), "copies a data set with all its fields"),
        ("tfds", ("--prompts", "tests/data"), "has no prompt files"),
    ],
)
def test_what_a_format_cannot_hold_is_refused_before_anything_is_written(
    stage, tmp_path, form, options, message
):
    with pytest.raises(SystemExit, match=message) as caught:
        export(stage, tmp_path / "rooms", form, *options)
    assert len(str(caught.value)) < 600 and not list(tmp_path.iterdir())


def test_a_folder_that_is_missing_and_one_without_a_data_set_are_told_apart(tmp_path):
    (tmp_path / "empty").mkdir()
    found = {"missing": "there is no folder .*missing: make", "empty": "empty has no prepared data set"}
    for name, message in found.items():
        with pytest.raises(SystemExit, match=message):
            export(tmp_path / name, tmp_path / "rooms", "tfds")


def test_a_folder_appears_when_it_is_complete_and_only_ours_is_replaced(stage, tmp_path, monkeypatch):
    target = tmp_path / "rooms"

    def is_killed(*_):
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(export_module, "write_card", is_killed)
        with pytest.raises(SystemExit, match=r"^130$"):  # as after Ctrl-C
            export(stage, target, "tfds")
    assert [path.name for path in tmp_path.iterdir()] == [".rooms.unfinished"]
    export(stage, target, "tfds")
    assert [path.name for path in tmp_path.iterdir()] == ["rooms"]
    before = {path: path.stat().st_mtime_ns for path in target.rglob("*")}
    export(stage, target, "tfds")  # complete already
    assert before == {path: path.stat().st_mtime_ns for path in target.rglob("*")}
    with pytest.raises(SystemExit, match=r"is another export \(license differ\): choose another folder"):
        export(stage, target, "tfds", "--license", "mit")
    for folder in (tmp_path / "theirs", tmp_path / ".other.unfinished"):
        folder.mkdir()
        (folder / "thesis.txt").write_text("mine")
    for name, message in (("theirs", "no export of gap_jax"), ("other", "no unfinished export of gap_jax")):
        with pytest.raises(SystemExit, match=message):
            export(stage, tmp_path / name, "tfds")
    assert (tmp_path / "theirs" / "thesis.txt").read_text() == "mine"
    assert before == {path: path.stat().st_mtime_ns for path in target.rglob("*")}
