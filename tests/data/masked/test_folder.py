from functools import partial

import numpy as np
import pytest
import tensorflow_datasets as tfds

from gap_jax.data.__main__ import main
from gap_jax.data.masked.dataset import MaskedFolder
from gap_jax.data.masked.folder import MaskedFolderLayout
from tests.data.depth_files import save
from tests.data.masked_files import draw, squeezed

undivided = partial(MaskedFolderLayout, validation=0.0, test=0.0)
NAMES = [("cat", "a"), ("cat", "b"), ("dog", "a")]


@pytest.fixture
def root(tmp_path):
    for i, (label, name) in enumerate(NAMES):
        for folder, pixels in zip(("images", "masks"), draw(i), strict=True):
            save(tmp_path / "mine" / folder / label / f"{name}.png", pixels)
    return tmp_path / "mine"


def test_folders_are_classes(root):
    inventory = undivided().find(root)
    assert [(files.id, files.label, files.group) for files in inventory.splits["train"]] == [
        ("cat/a", 0, 0),
        ("cat/b", 0, 0),
        ("dog/a", 1, 1),
    ]
    assert inventory.classes == ("cat", "dog")
    assert inventory.notes == [f"{root / 'images'}: 2 cat, 1 dog"]  # before any of them is drawn for the test
    assert [files.label for files in undivided(("dog", "cat")).find(root).splits["train"]] == [
        0,
        1,
        1,
    ]


def test_the_prepared_data_set_has_what_the_files_hold(root, tmp_path, capsys):
    arguments = ["masked-folder", "--root", str(root), "--data-dir", str(tmp_path / "data"), "--size", "16"]
    arguments += ["--validation", "0", "--test", "0"]
    main(["prepare", *arguments])
    folder = capsys.readouterr().out.splitlines()[-1].split(" is complete")[0]
    source = tfds.builder_from_directory(folder).as_data_source("train")
    assert len(source) == len(NAMES)
    for example in source:
        i = NAMES.index(tuple(example["id"].decode().split("/")))
        np.testing.assert_array_equal(example["keep"][..., 0] > 0, squeezed(draw(i).mask, 16))
        assert example["label"] == example["group"] == (i == 2)
        assert set(example) == {"image", "keep", "label", "group", "id", "file"}
    builder = MaskedFolder.prepared(undivided(), root, tmp_path / "data", 16)
    assert str(builder.data_dir) == folder and builder.info.metadata["classes"] == ["cat", "dog"]


def test_missing_masks_are_named(root):
    (root / "masks/cat/b.png").unlink()
    assert [str(fault) for fault in undivided().find(root).faults] == [
        f"{root / 'images/cat/b.png'} has no mask"
    ]


def test_two_images_of_one_name_are_named(root):
    save(root / "images/cat/a.jpg", draw(0).image)
    faults = undivided().find(root).faults
    assert [str(fault) for fault in faults] == [
        f"{root / 'images/cat/a.png'} has the same name as another image"
    ]


def test_classes_without_images_and_images_without_class_are_an_error(root):
    (root / "images/fox").mkdir()
    with pytest.raises(
        ValueError, match=r"images: each class needs examples to train on; found none of fox among 3"
    ):
        undivided().find(root).check_faults(0.01)
    with pytest.raises(
        ValueError, match=r"images must hold only folders of the classes cat, dog, but has fox"
    ):
        undivided(("cat", "dog")).find(root).check_faults(0.01)


def test_a_misspelt_class_is_told_with_its_images_that_have_no_mask(root):
    (root / "images/cat").rename(root / "images/kat")
    with pytest.raises(ValueError, match=r"none of kat among 1 (.|\n)*left out 2, each has no mask: .*kat/a"):
        undivided().find(root).check_faults(0.01)


def test_folders_with_another_layout_are_an_error(root):
    with pytest.raises(FileNotFoundError, match=r"nowhere/images is missing: .* must hold images/{class}"):
        undivided().find(root / "nowhere")
    (root / "masks").rename(root / "mask")
    with pytest.raises(FileNotFoundError, match=r"mine/masks is missing"):
        undivided().find(root)
    (root / "flat/images").mkdir(parents=True)
    (root / "flat/masks").mkdir()
    with pytest.raises(ValueError, match=r"flat/images must hold a folder for each class, found none"):
        undivided().find(root / "flat")


def test_what_systems_leave_behind_is_no_class_and_no_image(root):
    copy = root / "images/.ipynb_checkpoints/a-checkpoint.png"
    for path in (copy, root / "images/cat/._a.png", root / "images/__MACOSX/cat/._a.png"):
        save(path, draw(5).image)
    inventory = undivided().find(root)
    inventory.check_faults(0)
    assert inventory.classes == ("cat", "dog") and inventory.num_examples == 3
    names = ".ipynb_checkpoints, __MACOSX, cat/._a.png"
    assert f"passed over 3 in {root / 'images'}, each hidden: {names}" in inventory.notes


def test_nested_and_linked_folders_are_read(root, tmp_path):
    for folder, pixels in zip(("images", "masks"), draw(4), strict=True):
        save(root / folder / "cat/2024/may/a.png", pixels)
        (root / folder / "dog").rename(tmp_path / f"dog_{folder}")
        (root / folder / "dog").symlink_to(tmp_path / f"dog_{folder}")
    inventory = undivided().find(root)
    inventory.check_faults(0)
    assert [(paths.id, paths.label) for paths in inventory.splits["train"]] == [
        ("cat/2024/may/a", 0),
        ("cat/a", 0),
        ("cat/b", 0),
        ("dog/a", 1),
    ]


def test_masks_may_have_upper_case_suffixes(root):
    (root / "masks/cat/a.png").rename(root / "masks/cat/a.PNG")
    inventory = undivided().find(root)
    inventory.check_faults(0)
    assert inventory.splits["train"][0].mask == str(root / "masks/cat/a.PNG")


def test_masks_of_nothing_and_masks_elsewhere_are_told(root):
    save(root / "masks/cat/old.png", draw(5).mask)
    assert "1 masks belong to no image: cat/old" in undivided().find(root).notes
    (root / "masks").rename(root / "deep")
    (root / "masks").mkdir()
    (root / "deep").rename(root / "masks/masks")
    with pytest.raises(ValueError, match=r"no image .* has its mask masks/{class}/{name}.png") as error:
        undivided().find(root).check_faults(0)
    assert "images holds 3 files (.png, .jpg, .jpeg, .webp), such as cat/a.png" in str(error.value)
    assert "masks holds 4 files (.png), such as masks/cat/a.png" in str(error.value)
