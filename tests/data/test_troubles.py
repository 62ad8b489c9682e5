"""All troubles of a folder are named in one run of `python -m gap_jax.data check`."""

import re

import numpy as np
import pytest
from PIL import Image

from gap_jax.data.__main__ import main
from tests.data import depth_files, masked_files
from tests.data.depth_files import save, truncate
from tests.data.masked_files import Bird, write_waterbirds
from tests.data.test_files import bomb, save_turned, write_animation, write_text


def check(capsys, layout, root, *more):
    """Return all that a check prints, with its error, which must be a message."""
    with pytest.raises(SystemExit) as error:
        main(["check", layout, "--root", str(root), "--sheet", str(root.parent / "sheet.png"), *more])
    assert str(error.value).startswith("error: ")
    return capsys.readouterr().out + str(error.value)


def named(output, name, why):
    """Return True if a line of the output has the name and the reason."""
    pattern = re.compile(re.escape(name) + r"(?!\d)")
    return any(why in line and pattern.search(line) for line in output.splitlines())


def rgba(pixels):
    return np.dstack([pixels, np.zeros_like(pixels[..., 0])])


def test_twenty_troubles_of_images_with_masks_at_once(tmp_path, capsys):
    root = tmp_path / "mine"
    image, mask = root / "images/cat", root / "masks/cat"
    for i in range(22):
        for path, pixels in zip((image, mask), masked_files.draw(i), strict=True):
            save(path / f"{i:02d}.png", pixels)
    grey = masked_files.draw(4).image[..., 0]
    truncate(image / "00.png")
    bomb(image / "01.png")
    write_text(image / "02.png")
    save(image / "03.png", rgba(masked_files.draw(3).image))
    save(image / "04.png", grey.astype(np.uint16) * 257)
    save(image / "05.png", grey)
    save_turned(image / "06.png", masked_files.draw(6).image, 6)
    (image / "07.png").write_bytes(b"")
    (image / "08.png").write_text("version https://git-lfs.github.com/spec/v1\n")
    write_animation(image / "09.png")
    (mask / "10.png").unlink()
    save(mask / "11.png", masked_files.draw(11).mask & False)
    save(mask / "12.png", masked_files.draw(12).image)
    (image / "13.png").unlink()
    (image / "14.png").rename(image / "14.heic")
    save(image / "15.jpg", masked_files.draw(15).image)
    save(image / "._16.png", masked_files.draw(16).image)
    save(root / "images/.ipynb_checkpoints/17.png", masked_files.draw(17).image)
    save(root / "images/18.png", masked_files.draw(18).image)
    (root / "images/dog").mkdir()
    (image / "19.png").unlink()
    (image / "19.png").symlink_to(tmp_path / "nowhere.png")
    output = check(capsys, "masked-folder", root)
    for name, why in (
        ("cat/00.png", "damaged or incomplete"),
        ("cat/01.png", "more than 178,956,970 pixels"),
        ("cat/02.png", "text of more than a megabyte"),
        ("cat/03.png", "found mode RGBA, 4 channel"),
        ("cat/04.png", "found 16 bits a channel"),
        ("cat/05.png", "found mode L, 1 channel"),
        ("masks/cat/06.png", "EXIF data of its image"),
        ("cat/07.png", "is empty"),
        ("cat/08.png", "pointer of git-lfs"),
        ("cat/09.png", "animation of 3 pictures"),
        ("cat/10.png", "has no mask"),
        ("masks/cat/11.png", "keeps nothing"),
        ("masks/cat/12.png", "mask of one channel, found mode RGB"),
        ("cat/13", "belong to no image"),
        ("cat/14.heic", "each not .png"),
        ("cat/15.png", "has the same name as another image"),
        ("cat/._16.png", "each hidden"),
        (".ipynb_checkpoints", "each hidden"),
        ("images/18.png", "is in no class's folder"),
        ("dog", "each class needs examples to train on; found none of dog"),
        ("cat/19.png", "is missing"),
    ):
        assert named(output, name, why), (name, why)


def test_fifteen_troubles_of_images_with_depth_at_once(tmp_path, capsys):
    root = tmp_path / "mine"
    for i in range(16):
        drawn = depth_files.draw(i)
        for folder, pixels in zip(("rgb", "depth", "mask"), drawn, strict=True):
            save(root / folder / f"{i:02d}.png", pixels)
    truncate(root / "rgb/00.png")
    bomb(root / "rgb/01.png")
    write_text(root / "rgb/02.png")
    save(root / "rgb/03.png", rgba(depth_files.draw(3).image))
    write_animation(root / "rgb/04.png")
    save(root / "depth/05.png", depth_files.draw(5).depth.astype(np.uint8))
    save(root / "depth/06.png", depth_files.draw(6).depth * 0)
    save(root / "depth/07.png", depth_files.draw(7).depth[:9])
    (root / "depth/08.png").rename(root / "depth/08.npy")
    (root / "depth/09.png").unlink()
    (root / "rgb/10.png").unlink()
    (root / "mask/11.png").unlink()
    save(root / "rgb/12.jpg", depth_files.draw(12).image)
    save(root / "rgb/._13.png", depth_files.draw(13).image)
    (root / "rgb/14.png").rename(root / "rgb/14.tif")
    output = check(capsys, "folder", root)
    for name, why in (
        ("rgb/00.png", "damaged or incomplete"),
        ("rgb/01.png", "more than 178,956,970 pixels"),
        ("rgb/02.png", "text of more than a megabyte"),
        ("rgb/03.png", "has transparent pixels"),
        ("rgb/04.png", "animation of 3 pictures"),
        ("depth/05.png", "must be a 16-bit PNG"),
        ("depth/06.png", "has no valid pixel"),
        ("depth/07.png", "of 24x24 pixels, found 24x9"),
        ("depth/08.npy", "cannot be read as an NPY file of numbers"),
        ("rgb/09.png", "has no depth"),
        ("depth/10.png", "has no image"),
        ("rgb/11.png", "has no mask"),
        ("rgb/12.png", "has the same name as another file"),
        ("._13.png", "each hidden"),
        ("14.tif", "each not .png"),
    ):
        assert named(output, name, why), (name, why)


def test_eleven_troubles_of_a_table_at_once(tmp_path, capsys):
    root = tmp_path / "waterbirds"
    birds = [Bird("001.Gull", i % 2, i % 2, i % 3) for i in range(24)]
    write_waterbirds(root, birds)
    path = root / "metadata.csv"
    lines = path.read_text().splitlines()
    lines[1] = lines[1].replace(",0,0,0,", ",landbird,0,0,")
    lines[2] = lines[2].replace(",1,1,1,", ",1,7,1,")
    lines[3] = lines[3].replace(",0,2,0,", ",0,2,,")
    lines[4] = lines[4].replace(",1,0,1,", ",2,0,1,")
    names = [line.split(",")[1] for line in lines]
    (root / names[5]).unlink()
    (root / names[6].replace(".jpg", "_mask.png")).unlink()
    truncate(root / names[7])
    Image.fromarray(masked_files.draw(8).image).convert("L").save(root / names[8])
    save((root / names[9]).with_name(f"{(root / names[9]).stem}_mask.png"), masked_files.draw(9).mask[:9])
    (root / names[10]).write_bytes((root / names[11]).read_bytes())  # of the splits train and validation
    path.write_text("\r\n".join([*lines, lines[12]]), encoding="utf-8-sig")
    output = check(capsys, "waterbirds", root, "--training", "all")
    for place, why in (
        ("metadata.csv:2", "an integer as y, found 'landbird'"),
        ("metadata.csv:3", "must have one of 0 (train), 1 (validation), 2 (test) as split, found 7"),
        ("metadata.csv:4", "is empty in the columns place"),
        ("metadata.csv:5", "must have one of 0 (landbird), 1 (waterbird) as y, found 2"),
        ("metadata.csv:6", "is missing"),
        ("metadata.csv:7", "has no mask"),
        ("metadata.csv:8", "damaged or incomplete"),
        ("metadata.csv:9", "found mode L"),
        ("metadata.csv:10", "must be 36x24 pixels large, found 36x9"),
        ("metadata.csv:11", "is in the split validation, too"),
        ("metadata.csv:26", "has the same name as another image"),
    ):
        assert named(output, place, why), (place, why)
