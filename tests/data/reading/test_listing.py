"""Folders as systems, editors and people leave them."""

from gap_jax.data.reading.listing import list_files, list_folders, unpacked


def touch(root, *names):
    for name in names:
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).touch()


def test_files_are_found_in_nested_and_linked_folders_once(tmp_path):
    touch(tmp_path, "here/b/deep/1.PNG", "here/a/2.png", "elsewhere/3.png", "elsewhere/more/4.png")
    (tmp_path / "here/c").symlink_to(tmp_path / "elsewhere")
    (tmp_path / "here/b/deep/up").symlink_to(tmp_path / "here")
    (tmp_path / "here/5.png").symlink_to(tmp_path / "elsewhere/3.png")
    listing = list_files(tmp_path / "here", (".png",))
    assert list(listing.files) == ["5.png", "a/2.png", "b/deep/1.PNG", "c/3.png", "c/more/4.png"]
    assert listing.notes() == []


def test_hidden_and_other_files_are_passed_over_and_named(tmp_path):
    touch(tmp_path, "a.png", "._a.png", ".ipynb_checkpoints/a.png", "__MACOSX/a.png", "b.heic", "Thumbs.db")
    listing = list_files(tmp_path, (".png", ".jpg"))
    assert list(listing.files) == ["a.png"]
    assert listing.notes() == [
        f"passed over 4 in {tmp_path}, each hidden: ._a.png, .ipynb_checkpoints, Thumbs.db, __MACOSX",
        f"passed over 1 in {tmp_path}, each not .png, .jpg: b.heic",
    ]
    assert list_folders(tmp_path) == []


def test_what_was_found_is_told(tmp_path):
    touch(tmp_path, "x/a.png")
    assert list_files(tmp_path, (".png",)).describe() == f"{tmp_path} holds 1 files (.png), such as x/a.png"
    assert list_files(tmp_path / "no", (".png",)).describe() == f"{tmp_path / 'no'} holds 0 files (.png)"


def test_a_folder_of_the_same_name_is_the_unpacked_one(tmp_path):
    touch(tmp_path, "train/train/a.jpg")
    assert unpacked(tmp_path / "train") == tmp_path / "train/train" == unpacked(tmp_path / "train/train")
