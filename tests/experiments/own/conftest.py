"""Fixtures of the experiment on one's own folder: a folder of each kind, and networks for it."""

import pytest

from tests.data import depth_files, masked_files
from tests.data.depth_files import save
from tests.experiments.own.drawn import CLASSES, class_map, save_resnet


@pytest.fixture
def folder(tmp_path, monkeypatch, one_process):
    """`folder(kind)`: the folder `mine` of that kind; the work folder is below the same folder."""
    monkeypatch.chdir(tmp_path)

    def make(kind):
        root = tmp_path / "mine"
        for i in range(30):
            flat = kind in ("depth", "class-maps")
            if kind == "depth":
                drawn = zip(("rgb", "depth"), depth_files.draw(i, (64, 64)), strict=False)
            elif kind == "class-maps":
                drawn = {"rgb": depth_files.draw(i, (64, 64)).image, "classes": class_map(i)}.items()
            else:
                drawn = zip(("images", "masks"), masked_files.draw(i), strict=True)
            for name, pixels in drawn:
                save(root / name / ("" if flat else CLASSES[i % 3]) / f"{i:02d}.png", pixels)
        if kind == "classes":
            (root / "masks").rename(tmp_path / "unused")
        return root

    return make


@pytest.fixture
def networks(inpaint, clip, tmp_path):
    """The arguments that name a random classifier of three classes, the pipeline and CLIP."""
    save_resnet(tmp_path / "resnet", CLASSES[::-1])
    return ["--model", "resnet", "--pipeline", str(inpaint.folder), "--clip", str(clip.folder)]
