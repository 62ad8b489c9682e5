import numpy as np
import pytest
from PIL import Image

from gap_jax.data.__main__ import main
from gap_jax.data.folder_dataset import FolderDataset
from tests.data.depth_files import SIDE, draw, omnidata, save, taskonomy, truncate, write, write_taskonomy


def run(*args):
    main(["check", *map(str, args)])


@pytest.fixture
def root(tmp_path):
    write_taskonomy(tmp_path / "taskonomy", {"hanson": "train", "ihlen": "test"}, points=3)
    return tmp_path / "taskonomy"


def test_it_prints_what_the_folder_holds_and_draws_it(root, tmp_path, capsys):
    sheet = tmp_path / "out" / "sheet.png"
    run("taskonomy", "--root", root, "--sheet", sheet, "--size", SIDE)
    output = capsys.readouterr().out
    assert "found 3 train, 3 test" in output and "read 6 of 6 examples; 6 can be used" in output
    assert "hanson/0/0: depth 0.0" in output
    for path in taskonomy(root, "hanson", 0):
        assert f"  {path}\n" in output
    drawn = np.asarray(Image.open(sheet)).reshape(6, SIDE + 4, 3, SIDE + 4, 3)[:, :SIDE, :, :SIDE]
    for i in range(6):
        truth = draw(i)
        np.testing.assert_array_equal(drawn[i, :, 0], truth.image)
        valid = truth.mask & (truth.depth != 65535)
        np.testing.assert_array_equal(drawn[i, :, 2], np.where(valid[..., None], 255, [0, 0, 0]))
        np.testing.assert_array_equal(drawn[i, :, 1].any(-1), valid)


def test_it_reads_a_sample(root, tmp_path, capsys):
    run("taskonomy", "--root", root, "--sheet", tmp_path / "sheet.png", "--sample", 2, "--size", SIDE)
    assert "read 2 of 6 examples; 2 can be used" in capsys.readouterr().out


def test_errors_come_after_everything_else(root, tmp_path, capsys):
    truncate(taskonomy(root, "hanson", 1)[0])
    taskonomy(root, "ihlen", 1)[2].unlink()
    arguments = ("taskonomy", "--root", root, "--sheet", tmp_path / "sheet.png", "--sample", 0)
    with pytest.raises(
        SystemExit, match=r"error: 1 of 6 examples cannot be used(.|\n)*has no mask: .*ihlen_rgb"
    ):
        run(*arguments)
    output = capsys.readouterr().out
    assert "found 3 train, 2 test" in output and "left out 1, each has no mask: " in output
    assert "read 5 of 5 examples; 4 can be used" in output and "left out 1, each cannot be read" in output
    assert (tmp_path / "sheet.png").is_file()
    run(*arguments, "--tolerance", 0.2)
    with pytest.raises(SystemExit, match=r"error: 1 of 5 examples cannot be used(.|\n)*hanson_rgb"):
        run(*arguments, "--tolerance", 0.18)


def test_a_folder_with_another_layout_is_an_error(tmp_path):
    with pytest.raises(SystemExit, match=r"error: .*splits.csv is missing"):
        run("taskonomy", "--root", tmp_path)
    with pytest.raises(SystemExit, match=r"error: .*rgb/hypersim is missing"):
        run("omnidata", "--root", tmp_path, "--component", "hypersim")
    with pytest.raises(SystemExit, match=r"error: .*rgb is missing"):
        run("folder", "--root", tmp_path)


def test_it_checks_omnidata_and_folders(tmp_path, capsys):
    write(omnidata(tmp_path / "omnidata", "replica", "office_0", 0), draw(0))
    run("omnidata", "--root", tmp_path / "omnidata", "--sheet", tmp_path / "a.png")
    save(tmp_path / "mine/rgb/one.png", draw(0).image)
    np.save(tmp_path / "mine/depth_one.npy", draw(0).depth)
    (tmp_path / "mine/depth").mkdir()
    (tmp_path / "mine/depth_one.npy").rename(tmp_path / "mine/depth/one.npy")
    sheet = ("--sheet", tmp_path / "b.png")
    run("folder", "--root", tmp_path / "mine", *sheet, "--far", 20_000, "--validation", 0, "--test", 0)
    assert capsys.readouterr().out.count("found 1 train") == 2


def test_without_masks_it_draws_the_images_alone(tmp_path, capsys):
    for seed, name in enumerate(("cat", "dog")):
        save(tmp_path / "mine" / name / "one.png", draw(seed).image)
    sheet = tmp_path / "sheet.png"
    given = ("--sheet", sheet, "--size", SIDE, "--validation", 0, "--test", 0)
    run("class-folder", "--root", tmp_path / "mine", *given)
    output = capsys.readouterr().out
    assert "cat/one: whole image" in output and "kept" not in output and "belong together" not in output
    drawn = np.asarray(Image.open(sheet)).reshape(2, SIDE + 4, SIDE + 4, 3)[:, :SIDE, :SIDE]
    np.testing.assert_array_equal(drawn, [draw(seed).image for seed in range(2)])


def test_prepare_writes_what_tfds_reads(root, tmp_path, capsys):
    main(["prepare", "taskonomy", "--root", str(root), "--data-dir", str(tmp_path / "data"), "--size", "8"])
    printed = capsys.readouterr()
    folder = printed.out.splitlines()[-1].split(" is complete")[0]
    assert printed.out.startswith(f"preparing {folder}\nfound 3 train")
    assert "ownload" not in printed.out and "WARNING" not in printed.err
    import tensorflow_datasets as tfds

    assert len(tfds.builder_from_directory(folder).as_data_source("train")) == 3


@pytest.mark.parametrize(
    ("layout", "size"),
    [
        ("taskonomy", 384),
        ("omnidata", 384),
        ("folder", 384),
        ("waterbirds", 384),
        ("iwildcam", 448),
        ("masked-folder", 384),
    ],
)
def test_each_data_set_is_prepared_at_the_papers_size_by_default(layout, size, tmp_path, monkeypatch):
    sizes = []

    def prepared(layout, root, data_dir, size, tolerance):
        sizes.append(size)
        raise ValueError("enough")

    monkeypatch.setattr(FolderDataset, "prepared", prepared)
    for more in ([], ["--size", "64"]):
        with pytest.raises(SystemExit, match="enough"):
            main(["prepare", layout, "--root", str(tmp_path), "--data-dir", str(tmp_path), *more])
    assert sizes == [size, 64]
