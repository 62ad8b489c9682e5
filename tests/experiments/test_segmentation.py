"""The segmentation experiment: its worlds and its pictures; shortened, all its stages (slow)."""

import dataclasses
import math
import subprocess
import sys
from types import SimpleNamespace

import jax
import numpy as np
import pytest
import torch
import transformers
from PIL import Image
from sklearn.metrics import jaccard_score

from gap_jax.closed_loop.command import parse
from gap_jax.closed_loop.world import as_batch
from gap_jax.data.prepared import Prepared
from gap_jax.data.segmented.dataset import SegmentedFolder
from gap_jax.data.segmented.folder import SegmentedFolderLayout
from gap_jax.experiments.segmentation import files, world
from gap_jax.experiments.segmentation.__main__ import EXPERIMENT
from gap_jax.experiments.segmentation.network import load_network
from gap_jax.experiments.segmentation.settings import SegmentationFiles, SegmentedRooms
from gap_jax.report import pictures
from gap_jax.report.results import CONSTANT, load
from gap_jax.small_worlds import rooms
from gap_jax.weights.torch_models.segmentation import load_segmentation
from tests.experiments.processes import environment
from tests.torch_references.modules import build

FACTORY = """
import torch

def segmenter(classes=6):
    return torch.nn.Conv2d(3, classes, 4, 4)

def of_other_classes():
    return segmenter(5)
"""


@pytest.fixture
def factories(tmp_path, monkeypatch):
    (tmp_path / "my_segmenters.py").write_text(FACTORY)
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.delitem(sys.modules, "my_segmenters", raising=False)


def test_the_rooms_have_class_maps_in_every_set(no_weights):
    built = world.build(SegmentedRooms(original=3, target_images=2), held_out=2)
    sets = [as_batch(built.data.original), built.data.test, *built.data.domains.values()]
    sets += [*built.data.validation.values(), as_batch(built.baselines["oracle"]().added)]
    for batch in sets:
        assert set(batch) == {"image", "depth", "mask", "classes"}
        built.task.check(batch)
    truth = rooms.render(rooms.SPLITS["test"], range(2), [rooms.Style(light="dark")] * 2)
    np.testing.assert_array_equal(built.data.domains["dark"]["classes"], truth.classes)
    np.testing.assert_array_equal(built.data.domains["dark"]["image"], truth.image / np.float32(255))
    assert {target.images.shape for target in built.targets.values()} == {(2, 64, 64, 3)}
    control = built.task.align(1.0).start
    assert control is not None and set(built.targets) == {"fog", "blur"}


def test_pictures_show_each_class_in_its_colour_and_errors_in_white():
    task = world.segmentation_task(rooms.CLASSES, rooms.condition)
    classes = np.arange(16).reshape(4, 4, 1) % 6
    classes[0, 0] = 255
    picture = task.pictures.label({"classes": classes})
    colours = list(pictures.CLASS_COLOURS.values())
    for (row, column, _), number in np.ndenumerate(classes):
        expected = (232, 232, 232) if number == 255 else colours[number]
        assert tuple(picture[row, column]) == expected
    logits = np.eye(6, dtype=np.float32)[np.where(classes == 255, 0, classes)[..., 0]]
    logits[3, 3] = np.eye(6)[0]  # class 3 is taken for class 0
    predicted, wrong = task.pictures.prediction(logits, {"classes": classes})
    assert tuple(predicted[3, 3]) == colours[0] and tuple(predicted[1, 1]) == colours[classes[1, 1, 0]]
    assert (wrong > 0).all(-1).sum() == 1 and (wrong[3, 3] == 255).all()
    assert "floor in blue, wall in orange" in task.pictures.note
    many = world.segmentation_task(list(map(str, range(150))), rooms.condition)
    sky = many.pictures.label({"classes": np.full((1, 1, 1), 2)})
    assert sky.tolist() == [[[6, 230, 230]]]  # ADE20K's


def test_a_torch_module_is_a_segmentation_model(factories):
    network = load_network("my_segmenters:segmenter", count=6)
    images = np.random.default_rng(0).random((2, 64, 64, 3), np.float32)
    module = torch.nn.Conv2d(3, 6, 4, 4)
    module.load_state_dict({k: torch.tensor(np.asarray(v)) for k, v in network.params["parameters"].items()})
    with torch.no_grad():
        expected = module(torch.from_numpy(images).permute(0, 3, 1, 2)).permute(0, 2, 3, 1)
    np.testing.assert_allclose(network.predict(network.params, images), expected, rtol=1e-4, atol=1e-5)


def test_a_model_of_other_classes_is_refused_before_anything_is_rendered(factories, monkeypatch):
    monkeypatch.delattr(rooms, "render")
    with pytest.raises(ValueError, match=r"of_other_classes must tell 6 classes, .*; found 5: give a model"):
        world.build(SegmentedRooms(original=2, model="my_segmenters:of_other_classes"), held_out=2)


@pytest.fixture
def prepared(tmp_path):
    """`prepared(number)`: a data set of the user's, an image in each split, of classes up to this."""

    def make(number):
        root, random = tmp_path / f"mine-{number}", np.random.default_rng(number)
        for split in ("train", "validation", "test"):
            for name, pixels in (
                ("rgb", random.integers(0, 256, (64, 64, 3), np.uint8)),
                ("classes", random.integers(0, number + 1, (64, 64)).astype(np.uint8)),
            ):
                (root / split / name).mkdir(parents=True)
                Image.fromarray(pixels).save(root / split / name / "a.png")
        builder = SegmentedFolder.prepared(SegmentedFolderLayout(), root, tmp_path / "data", 64)
        return builder.data_path

    return make


def test_ones_own_images_make_a_world(prepared, factories, monkeypatch, no_weights):
    load, asked = files.load_generator, []
    monkeypatch.setattr(files, "load_generator", lambda *given: asked.append(given) or load(*given))
    config = SegmentationFiles(data=prepared(5), model="my_segmenters:segmenter", ade20k=(3, 0, 5, 7, 19, 8))
    built = files.build(config, held_out=4)
    assert asked == [(config, "lllyasviel/sd-controlnet-seg")]
    other = dataclasses.replace(config, controlnet="lllyasviel/sd-controlnet-depth")
    with pytest.raises(ValueError, match="must be one for class maps, but its name tells of depth"):
        files.build(other, held_out=4)
    assert set(built.data.test) == {"image", "classes"} and len(built.data.test["image"]) == 1
    built.task.check(built.data.test)
    seen = (
        built.task.align(1.0)
        .start(
            SimpleNamespace(downscale=8, vae=SimpleNamespace(latent_channels=4)),
            {},
            built.data.test,
            jax.random.split(jax.random.key(0), 1),
            None,
        )
        .control
    )
    floor = seen[built.data.test["classes"][..., 0] == 0] * 255
    np.testing.assert_allclose(floor, np.broadcast_to([80, 50, 50], floor.shape))  # ADE20K's 3, floor
    assert set(built.data.domains) == set(built.targets) == {"fog", "blur"}


@pytest.mark.parametrize(
    ("number", "change", "message"),
    [
        (6, {}, r"train/rgb/a.png has the class 6, but my_segmenters:segmenter tells the classes 0 to 5"),
        (0, {}, "the split train has the class 0 alone; found masks of 0 and 255"),
        (5, {"ade20k": (1, 2)}, "ade20k must have a value for each of the 6 classes .*, found 2"),
        (5, {"classes": ("a",)}, "classes must have a value for each of the 6 classes .*, found 1"),
    ],
)
def test_data_that_do_not_fit_the_model_are_refused_first(
    prepared, factories, no_weights, number, change, message
):
    config = SegmentationFiles(data=prepared(number), model="my_segmenters:segmenter", **change)
    with pytest.raises(ValueError, match=message) as error:
        files.build(config, held_out=1)
    assert len(str(error.value)) < 500


def test_presets_have_their_settings():
    own = parse(EXPERIMENT, ["--preset", "files", "--world.ade20k", "3", "0"])
    assert own.world == SegmentationFiles(ade20k=(3, 0)) and own.settings.optimizing.threshold is None
    assert parse(EXPERIMENT, []).settings.arms[-1] == "oracle"


def save_segformer(folder):
    """Write a random SegFormer that tells six classes, in transformers' layout."""
    module, _ = build("segformer")
    module.decode_head.classifier = torch.nn.Conv2d(8, 6, 1)
    module.config.num_labels = 6
    module.save_pretrained(folder)
    transformers.SegformerImageProcessor(size={"height": 64, "width": 64}).save_pretrained(folder)
    return str(folder)


@pytest.mark.slow
def test_it_runs_from_start_to_report_also_against_a_segformer(tmp_path):
    work, segformer = tmp_path / "work", save_segformer(tmp_path / "segformer")
    given = (
        "--arms control guided-adversarial --world.original 4 --optimizing.prompts 1 --optimizing.steps 2 "
    )
    given += "--optimizing.batch 2 --optimizing.denoising-steps 2 --generating.images 4 --generating.batch 2 "
    given += "--generating.denoising-steps 2 --finetuning.steps 4 --finetuning.batch 2 --evaluating.images 2 "
    given += "--evaluating.severities 1 --evaluating.efficiency 2"
    command = [sys.executable, "-m", "gap_jax.experiments.segmentation", "--work", str(work), *given.split()]
    command += ["--world.models", segformer]
    run = subprocess.run(command, env=environment(), capture_output=True, text=True)
    assert run.returncode == 0, run.stderr
    assert (work / "report" / "index.html").stat().st_size > 100_000
    results = load(work / "results.json")
    assert list(results.metrics) == ["miou", "accuracy", "cross_entropy"]
    assert [row.name for row in results.models][1:] == ["prompts against f", "prompts against segformer"]
    assert set(results.models[0].scores) == {"f", "segformer"}
    for column in results.columns:
        assert set(column.scores) == {"control", "guided-adversarial", CONSTANT}
        assert all(math.isfinite(v) for s in column.scores.values() for vs in s.values() for v in vs)

    module, params = load_segmentation(work / "seed-0" / "control" / "finetune" / "model")
    test = world.build(SegmentedRooms(original=1), held_out=2).data.test
    found = jax.jit(module.apply)({"params": params}, test["image"]).argmax(-1)
    expected = jaccard_score(test["classes"].ravel(), np.ravel(found), average="macro")
    clean = next(column for column in results.columns if column.kind == "clean")
    assert clean.scores["control"]["miou"][0] == pytest.approx(expected, rel=1e-4)

    generated = Prepared(
        work / "seed-0/guided-adversarial/generate/tfds",
        "train",
        fields=("image", "classes", "depth", "mask"),
    )
    critic = load_network("small")
    batch = as_batch(generated)
    found = jax.jit(critic.predict)(critic.params, batch["image"]).argmax(-1)
    fidelity = jaccard_score(batch["classes"].ravel(), np.ravel(found), average="macro")
    assert results.generated["guided-adversarial"].critic[0] == pytest.approx(fidelity, abs=0.02)
    originals = world.build(SegmentedRooms(original=4), held_out=1).data.original
    assert {x.tobytes() for x in batch["classes"]} <= {example["classes"].tobytes() for example in originals}
