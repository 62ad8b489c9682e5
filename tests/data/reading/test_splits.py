"""Splits of one's own folder: in folders, drawn and written down, and the troubles of both."""

import re

import numpy as np
import pytest

from gap_jax.data.__main__ import main
from gap_jax.data.depth.folder import DepthFolderLayout
from gap_jax.data.masked.folder import MaskedFolderLayout, WholeFolderLayout
from gap_jax.data.prepared import Prepared
from gap_jax.data.reading.splits import write_splits
from tests.data import depth_files, masked_files
from tests.data.depth_files import save


@pytest.fixture
def root(tmp_path):
    """Write 20 images of cats and 10 of dogs, all different."""
    for i in range(30):
        add(tmp_path / "mine", ("cat", "cat", "dog")[i % 3], i)
    return tmp_path / "mine"


def add(root, label, i):
    for folder, pixels in zip(("images", "masks"), masked_files.draw(i), strict=True):
        save(root / folder / label / f"{i:02d}.png", pixels)


def ids(inventory):
    return {split: [paths.id for paths in examples] for split, examples in inventory.splits.items()}


def test_every_class_is_drawn_by_its_share_and_every_image_once(root):
    inventory = MaskedFolderLayout(validation=0.2, test=0.1).find(root)
    inventory.check_faults(0)
    labels = {s: [paths.label for paths in examples] for s, examples in inventory.splits.items()}
    counts = {split: np.bincount(values).tolist() for split, values in labels.items()}
    assert counts == {"train": [14, 7], "validation": [4, 2], "test": [2, 1]}
    everything = [name for names in ids(inventory).values() for name in names]
    assert len(everything) == len(set(everything)) == 30
    assert "divided by chance: 6 for validation, 3 for test" in inventory.notes


def test_a_draw_depends_on_its_seed_alone(root):
    drawn = ids(MaskedFolderLayout().find(root))
    assert ids(MaskedFolderLayout().find(root)) == drawn
    moved = root.rename(root.parent / "moved")
    assert ids(MaskedFolderLayout().find(moved)) == drawn
    assert ids(MaskedFolderLayout(seed=1).find(moved)) != drawn


def test_a_split_that_was_written_is_used_again_and_images_without_one_are_named(root, tmp_path):
    first, file = MaskedFolderLayout().find(root), tmp_path / "out" / "splits.csv"
    write_splits(file, root, first.splits)
    assert len(file.read_text().splitlines()) == 31
    again = MaskedFolderLayout(seed=5, splits=file).find(root)
    assert ids(again) == ids(first) and not again.faults
    add(root, "dog", 90)
    (fault,) = MaskedFolderLayout(splits=file).find(root).faults
    assert str(fault).startswith(
        f"{root / 'images/dog/90.png'} has no split of train, validation, test in {file}: add a line"
    )
    file.write_text("name,split\n")
    with pytest.raises(ValueError, match=r"splits.csv lacks the columns file"):
        MaskedFolderLayout(splits=file).find(root)


def test_folders_of_splits_are_taken_and_what_they_lack_is_drawn(tmp_path):
    for i, split in enumerate(["train"] * 10 + ["val"] * 2 + ["test"] * 3):
        drawn = depth_files.draw(i)
        for folder, pixels in zip(("rgb", "depth"), drawn, strict=False):
            save(tmp_path / split / folder / f"{i}.png", pixels)
    names = ids(DepthFolderLayout().find(tmp_path))
    assert {split: len(found) for split, found in names.items()} == {"train": 10, "validation": 2, "test": 3}
    assert names["validation"] == ["10", "11"]
    (tmp_path / "val").rename(tmp_path / "other")
    names = ids(DepthFolderLayout().find(tmp_path))
    assert {split: len(found) for split, found in names.items()} == {"train": 9, "validation": 1, "test": 3}
    (tmp_path / "train").rename(tmp_path / "more")
    with pytest.raises(FileNotFoundError, match=r"train is missing, but .*/test is there: add it, or put"):
        DepthFolderLayout().find(tmp_path)


def test_an_image_in_two_splits_is_left_in_the_last(root):
    split = root.parent / "split"
    split.mkdir()
    root.rename(split / "train")
    add(split / "test", "cat", 0)
    found = MaskedFolderLayout().find(split)
    assert [re.sub(".*/split/", "", str(fault)) for fault in found.faults] == [
        "train/images/cat/00.png is in the split test, too"
    ]
    assert ids(found)["test"] == ["cat/00"] and "cat/00" not in ids(found)["train"]


def test_groups_that_are_too_small_for_a_draw_are_named(root, tmp_path):
    for i in (70, 71):
        add(root, "fox", i)
    message = r"mine: too few examples to draw validation and test: fox has 2, but 3 or more are needed; add"
    with pytest.raises(ValueError, match=message):
        MaskedFolderLayout().find(root).check_faults(0)
    MaskedFolderLayout(validation=0).find(root).check_faults(0)
    for share in ({"validation": 1.5}, {"validation": 0.6, "test": 0.5}):
        with pytest.raises(
            ValueError, match=r"validation (must be between 0 and 1|and test must be at most)"
        ):
            MaskedFolderLayout(**share)


def test_classes_of_held_out_folders_are_those_of_training(root):
    """A class may be missing there, but an unknown one has no label."""
    folder = root.parent / "mine2" / "train"
    folder.parent.mkdir()
    root.rename(folder)
    add(folder.parent / "test", "dog", 60)
    found = MaskedFolderLayout().find(folder.parent)
    found.check_faults(0)
    assert [paths.label for paths in found.splits["test"]] == [1]
    add(folder.parent / "test", "fox", 61)
    with pytest.raises(ValueError, match="only folders of the classes cat, dog, but has fox"):
        MaskedFolderLayout().find(folder.parent).check_faults(0)


def test_images_without_masks_keep_nothing(root, tmp_path):
    for folder in (root, root / "images"):  # with and without the folder images
        assert ids(WholeFolderLayout().find(folder)) == ids(MaskedFolderLayout().find(root)) or folder != root
        assert all(paths.mask is None for paths in WholeFolderLayout().find(folder).splits["train"])
    given = ["--root", str(root / "images"), "--data-dir", str(tmp_path / "data"), "--size", "16"]
    main(["prepare", "class-folder", *given])
    sizes = {split: Prepared(tmp_path / "data", split, fields=("keep",)) for split in ("train", "test")}
    assert {split: len(source) for split, source in sizes.items()} == {"train": 24, "test": 3}
    assert not sizes["test"][0]["keep"].any()
    with pytest.raises(
        FileNotFoundError, match="nowhere is missing: it must hold a folder of images for each"
    ):
        WholeFolderLayout().find(root / "nowhere")
    with pytest.raises(ValueError, match="cat must hold a folder for each class, found none"):
        WholeFolderLayout().find(root / "images/cat")
