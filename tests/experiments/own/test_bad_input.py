"""Wrong folders, networks and settings of one's own are told before work begins, cheap checks first."""

import json
import shutil

import numpy as np
import pytest
import torch

from gap_jax.experiments.own.__main__ import main
from tests.data.depth_files import save
from tests.experiments.own.drawn import CLASSES, QUICK, SHORT, save_resnet


def remove(root, name):
    (root / name).unlink()


@pytest.mark.parametrize(
    ("kind", "break_it", "options", "message"),
    [
        (
            "masks",
            lambda root: root.rename(root.parent / "x"),
            "",
            "there is no folder mine: give that of your images by --data",
        ),
        (
            "masks",
            lambda root: (root / "masks").rename(root / "mask"),
            "",
            "mine must hold files of one kind.*Found the folders images, mask: rename them",
        ),
        (
            "classes",
            lambda root: [(root / "images" / name).rename(root.parent / name) for name in ("cat", "dog")],
            "",
            "mine must have a folder for each of two classes or more, found fox alone",
        ),
        ("masks", lambda root: remove(root, "masks/cat/03.png"), "", r"1 of 30 (.|\n)*has no mask: .*cat/03"),
        ("masks", lambda root: (root / "images/owl").mkdir(), "", r"examples to train on; found none of owl"),
        (
            "masks",
            lambda root: [remove(root, f"images/fox/{i:02d}.png") for i in range(2, 26, 3)],
            "",
            r"mine: too few examples to draw validation and test: fox has 2, but 3 or more are needed",
        ),
        ("masks", lambda root: None, "--classes cat dog fox owl", "found none of owl"),
        ("masks", lambda root: None, "--targets night photos/night", "photos/night looks like a path"),
        ("masks", lambda root: None, "--pixels 0", "pixels must be 1 or more; found 0"),
        ("masks", lambda root: None, "", "the model to improve is missing: give it by --model"),
    ],
)
def test_what_is_wrong_is_told_before_a_network_is_loaded_and_an_image_read(
    folder, tmp_path, kind, break_it, options, message, no_images_read
):
    root = folder(kind)
    break_it(root)
    model = [] if "by --model" in message else ["--model", __file__]
    with pytest.raises(SystemExit, match=f"error: .*{message}") as error:
        main(
            ["--data", "mine", *model, *SHORT, "--far", "10000"][: None if kind == "depth" else -2]
            + options.split()
        )
    assert len(str(error.value)) < 500


@pytest.fixture
def no_images_read(monkeypatch):
    """Fails a test that reads one's own images, which may take minutes."""

    def refuse(*args, **options):
        raise AssertionError("images were read")

    monkeypatch.setattr("gap_jax.data.folder_dataset.FolderDataset.prepared", refuse)


@pytest.mark.parametrize(
    ("kind", "options", "message"),
    [
        ("masks", "--pipeline missing/sd", "missing/sd"),
        ("depth", "--pipeline missing/sd --controlnet depth", "missing/sd"),
        ("class-maps", "--pipeline missing/sd --first 1", "missing/sd"),
        ("masks", "--clip missing/clip", "missing/clip"),
        ("masks", "--pipeline broken", "broken/unet/config.json: act_fn must be 'silu'"),
        ("masks", "--model missing/model", "missing/model"),
        ("depth", "--model missing.pth", "missing.pth"),
        ("masks", "--classes cat dog fox owl --domains other mine", "found none of owl"),
        ("masks", "--domains dark missing", "missing"),
        ("classes", "--classes cat dog", "must hold only folders of the classes cat, dog, but has fox"),
        ("masks", "--targets night photos/night", "photos/night looks like a path"),
        ("masks", "--critic two_classes", "the critic must have 3 classes like the data; found 2"),
    ],
)
def test_networks_and_folders_that_cannot_be_used_are_told_before_an_image_is_read(
    folder, networks, inpaint, tmp_path, kind, options, message, no_images_read
):
    save_resnet(tmp_path / "two_classes", CLASSES[:2])
    broken = shutil.copytree(inpaint.folder, tmp_path / "broken") / "unet" / "config.json"
    broken.write_text(json.dumps(json.loads(broken.read_text()) | {"act_fn": "relu"}))
    given = [] if kind in ("depth", "class-maps") else networks
    given = given or ["--model", "small", "--pipeline", "small"]
    with pytest.raises(SystemExit, match=f"error: .*{message}") as error:
        main(["--data", str(folder(kind)), *given, *QUICK, *options.split()])
    assert len(str(error.value)) < 500


@pytest.mark.parametrize(
    ("kind", "break_it", "options", "message"),
    [
        (
            "masks",
            lambda root: save(root / "masks/cat/03.png", np.ones((9, 9), bool)),
            "",
            r"1 of 30 (.|\n)*must be 36x24 pixels large, found 9x9: .*masks/cat/03.png",
        ),
        (
            "depth",
            lambda root: save(root / "depth/00.png", np.ones((64, 64), np.uint8)),
            "",
            r"1 of 30 (.|\n)*must be a 16-bit PNG of 64x64 pixels, found 64x64, mode L: .*depth/00.png",
        ),
        ("depth", lambda root: None, "--validation-share 0", "has no examples in the split 'validation'"),
    ],
)
def test_what_images_show_to_be_wrong_is_told_before_the_generators_weights_are_loaded(
    folder, networks, kind, break_it, options, message, no_weights
):
    break_it(folder(kind))
    given = ["--model", "small", "--far", "10000"] if kind == "depth" else networks
    with pytest.raises(SystemExit, match=f"error: .*{message}") as error:
        main(["--data", "mine", *given, *SHORT, *options.split()])
    assert len(str(error.value)) < 500


def test_settings_and_models_that_do_not_fit_the_data_are_refused_before_the_generator_is_loaded(
    folder, networks, tmp_path, no_weights
):
    root = folder("classes")
    with pytest.raises(SystemExit, match=r"sampling.strength below 1, such as 0.6; found 1"):
        main(["--data", str(root), *networks, *SHORT, "--sampling.strength", "1"])
    with pytest.raises(SystemExit, match=r"at 128x128 pixels \(sampling.size\), but the original .* 64x64"):
        main(["--data", str(root), *networks, *SHORT, "--sampling.size", "128", "--work", "larger"])
    assert not (tmp_path / "larger" / "config.json").exists()
    (root / "images" / "dog").rename(tmp_path / "dog")
    with pytest.raises(SystemExit, match=r"the model must have 2 classes like the data; found 3"):
        main(["--data", str(root), *networks, *SHORT, "--work", "other"])


def test_a_generator_that_does_not_fit_is_refused_before_its_weights_are_read(
    folder, networks, inpaint, sd15, tmp_path
):
    bare = {
        made.folder: str(shutil.copytree(made.folder, to, ignore=shutil.ignore_patterns("*.safetensors")))
        for made, to in ((inpaint, tmp_path / "inpaint"), (sd15, tmp_path / "sd15"))
    }
    networks[networks.index(str(inpaint.folder))] = bare[inpaint.folder]
    torch.save({"mean": torch.ones(1024)}, tmp_path / "features.pt")
    command = ["--data", str(folder("masks")), *networks, *SHORT]
    for options, message in (
        ("--sampling.size 63", "multiples of 4, the factor of the VAE; found 63x63"),
        (f"--pipeline {bare[sd15.folder]}", "sd15 has a ControlNet, which images with classes have no condi"),
        ("--targets night features.pt", r"target domain night: the mean .* found \[1024\]: this CLIP gives"),
        ("", "inpaint/text_encoder has no weights"),
    ):
        with pytest.raises(SystemExit, match=f"error: .*{message}"):
            main([*command, *options.split()])
    assert not (tmp_path / "runs" / "own" / "config.json").exists()
