"""The experiment in docs/cub.md runs as written on a small CUB, and names files that are missing."""

import json
import math
import runpy
import shlex
from pathlib import Path

import jax
import numpy as np
import pytest
from PIL import Image

from gap_jax.models.resnet import ResNet
from gap_jax.report.results import AVERAGE, WORST, load
from gap_jax.weights.classifier import save_classifier
from tests.documents.blocks import ROOT, code_blocks

BLOCKS = [block.lstrip("\n") for block in code_blocks(ROOT / "docs" / "cub.md")]
SPECIES = ("Black_footed_Albatross", "Laysan_Albatross", "Cardinal")
NUMBERS = range(1, 25)  # ids of images
PLACES = ("snow", "night")
SHORT = shlex.split(
    "--optimizing.prompts 1 --optimizing.steps 2 --optimizing.batch 2 --optimizing.micro-batch 2 "
    "--optimizing.denoising-steps 2 --optimizing.adversarial-start 1 --generating.images 8 "
    "--generating.batch 4 --generating.denoising-steps 2 --finetuning.steps 4 --finetuning.batch 4 "
    "--sampling.size 64 --evaluating.images 8 --evaluating.severities --evaluating.efficiency "
    "--world.size 64 --world.pixels 64 "
    "--world.target-images 2 --arms control written guided-adversarial copy-paste"
)


def name(number):
    """Return the class and the stem of an image's file."""
    label = (number - 1) * len(SPECIES) // len(NUMBERS)
    return f"{label + 1:03d}.{SPECIES[label]}/{SPECIES[label]}_{number:04d}_{796000 + number}"


def write(path, text):
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("".join(f"{line}\n" for line in text))


def save(path, pixels):
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(pixels).save(path)


@pytest.fixture
def cub(tmp_path, monkeypatch):
    """A folder in Caltech's layout with 24 images of 3 species; every other one is to train on."""
    root, random = tmp_path / "CUB_200_2011", np.random.default_rng(0)
    write(root / "classes.txt", (f"{i} {i:03d}.{species}" for i, species in enumerate(SPECIES, 1)))
    write(root / "images.txt", (f"{i} {name(i)}.jpg" for i in NUMBERS))
    write(root / "image_class_labels.txt", (f"{i} {int(name(i)[:3])}" for i in NUMBERS))
    write(root / "train_test_split.txt", (f"{i} {(i + 1) % 2}" for i in NUMBERS))
    for i in NUMBERS:
        save(root / "images" / f"{name(i)}.jpg", random.integers(0, 256, (48, 64, 3), np.uint8))
        mask = np.zeros((48, 64), np.uint8)
        mask[8:32, 16:40], mask[12:28, 20:36] = 51, 255  # seen by one annotator and by all
        save(root / "segmentations" / f"{name(i)}.png", mask)
    for brightness, place in enumerate(PLACES):
        for i in range(4):
            save(
                tmp_path / "photos" / place / f"{i}.jpg", np.full((80, 64, 3), 100 * brightness + i, np.uint8)
            )
    monkeypatch.chdir(tmp_path)
    return root


@pytest.fixture
def cub_py(tmp_path):
    """The path of the file that the document shows."""
    (tmp_path / "cub.py").write_text(BLOCKS[0])
    return str(tmp_path / "cub.py")


@pytest.fixture
def run(cub_py, monkeypatch, one_process):
    """`run(option, …)` runs `python cub.py` with two places in this process."""

    def run(*options):
        places = [word for place in PLACES for word in (place, f"photos/{place}")]
        monkeypatch.setattr("sys.argv", [cub_py, *SHORT, "--world.places", *places, *options])
        runpy.run_path(cub_py, run_name="__main__")

    return run


def test_it_is_one_short_file():
    assert len(BLOCKS) == 1
    assert len(BLOCKS[0].splitlines()) < 150


def test_all_stages_run_as_written(cub, run, inpaint, clip):
    model = ResNet(4, (8, 16), (1, 1), num_labels=len(SPECIES))
    params = jax.device_get(jax.jit(model.init)(jax.random.key(0), *model.example_inputs())["params"])
    save_classifier(model, params, "resnet")
    models = ["--world.model", "resnet", "--world.pipeline", inpaint.folder, "--world.clip", clip.folder]
    run(*map(str, models))

    results, work = load("runs/cub/results.json"), Path("runs/cub/seed-0")
    scores = {column.name: column.scores for column in results.columns}
    assert set(scores) == {"clean", *PLACES, AVERAGE, WORST}
    for arm in ("control", "written", "guided-adversarial", "copy-paste"):
        assert all(math.isfinite(column[arm]["macro_recall"][0]) for column in scores.values())
        assert scores[WORST][arm]["accuracy"][0] == min(scores[name][arm]["accuracy"][0] for name in PLACES)
    assert {prompt.name for prompt in results.prompts if prompt.arm == "written"} == {
        f"a photo of a bird, {place}" for place in PLACES
    }
    assert {prompt.target for prompt in results.prompts if prompt.target} == set(PLACES)
    train = work / "guided-adversarial" / "generate" / "images" / "train"
    lines = [json.loads(line) for line in (train / "metadata.jsonl").read_text().splitlines()]
    assert len(lines) == 8
    assert {Path(line["file_name"]).parent.name for line in lines} <= {s.replace("_", " ") for s in SPECIES}
    for line in lines:
        kept = np.asarray(Image.open(train / line["keep_file_name"])) > 0
        assert kept.sum() == 24 * 24 * 64 // 48  # everything that any annotator saw
        assert np.asarray(Image.open(train / line["file_name"])).std() > 1
    assert Path("runs/cub/report/index.html").stat().st_size > 50_000


def test_birds_are_cut_out_and_put_before_the_place(cub_py):
    put_before = runpy.run_path(cub_py)["put_before"]
    keep = np.arange(3 * 4).reshape(3, 2, 2, 1) % 2 == 0
    birds = {"image": np.ones((3, 2, 2, 3), np.float32), "keep": keep, "label": np.arange(3)}
    place = np.stack([np.full((2, 2, 3), value, np.float32) for value in (0.25, 0.5)])
    shown = put_before(place, birds)
    assert shown["label"] is birds["label"]
    for image, kept, behind in zip(shown["image"], keep[..., 0], (0.25, 0.5, 0.25), strict=True):
        assert (image[kept] == 1).all() and (image[~kept] == behind).all()


def test_every_tenth_training_image_is_for_validation(cub, cub_py):
    inventory = runpy.run_path(cub_py)["CubLayout"]().find(cub)
    numbers = {split: [int(paths.id) for paths in examples] for split, examples in inventory.splits.items()}
    assert numbers["validation"] == [10, 20]
    assert numbers["test"] == [i for i in NUMBERS if i % 2]
    assert numbers["train"] == [i for i in NUMBERS if i % 2 == 0 and i % 10]
    assert inventory.classes == ("Black footed Albatross", "Laysan Albatross", "Cardinal")
    assert not inventory.faults
    for paths in inventory.splits["test"]:
        assert Path(paths.image).parent.name == f"{paths.label + 1:03d}.{SPECIES[paths.label]}"


@pytest.mark.parametrize(
    "path, content, message",
    [
        (
            "images.txt",
            None,
            r"images.txt is missing: it must be a table without a header, with the columns id, path",
        ),
        ("train_test_split.txt", "", r"train_test_split.txt has no rows"),
        ("image_class_labels.txt", "1\n", r"image_class_labels.txt:1 is empty in the columns class"),
        ("image_class_labels.txt", "1 1\n", r"image_class_labels.txt, .* must list the same images"),
        ("classes.txt", "1 001.Cardinal\n", r"classes.txt lacks the classes 2, 3"),
        ("segmentations", None, r"segmentations is missing: unpack segmentations.tgz in CUB_200_2011"),
        (f"images/{name(2)}.jpg", None, rf"1 of 24 examples cannot .*\n.* is missing: .*{name(2)}.jpg"),
        (
            f"segmentations/{name(3)}.png",
            None,
            rf"1 of 24 .*\n.* has no mask: .*{name(3)}.jpg .*s.txt:3",
        ),
        (".", None, r"CUB_200_2011 is missing or empty"),
        ("../photos/night", None, r"photos/night has no images"),
    ],
)
def test_missing_files_are_named(cub, run, path, content, message):
    if content is None:
        (cub / path).rename(cub.parent / "elsewhere")
    else:
        (cub / path).write_text(content)
    with pytest.raises(SystemExit, match=f"^error: {message}" if path == "." else message):
        run()


def test_a_place_needs_images_for_the_target_and_for_the_test(cub, run):
    for i in range(1, 4):
        (cub.parent / "photos" / "snow" / f"{i}.jpg").unlink()
    with pytest.raises(SystemExit, match="photos/snow must have two or more images"):
        run()
