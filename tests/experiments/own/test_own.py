"""The experiment on one's own folder, from files to the report."""

import dataclasses
from pathlib import Path
from types import SimpleNamespace

import jax
import numpy as np
import pytest
import torch

from gap_jax.closed_loop.arms import ARMS
from gap_jax.closed_loop.command import parse, shortened
from gap_jax.data.masked.dataset import MaskedFolder
from gap_jax.data.masked.folder import MaskedFolderLayout
from gap_jax.data.prepared import Prepared
from gap_jax.experiments.depth.settings import SMALL as ROOMS
from gap_jax.experiments.own.__main__ import experiment, main
from gap_jax.experiments.own.folders import divide, prepare
from gap_jax.experiments.own.kinds import KINDS, kind_of, presets
from gap_jax.experiments.own.settings import OwnMasked
from gap_jax.report.results import CONSTANT, load
from gap_jax.small_worlds import rooms
from tests.data import depth_files, masked_files
from tests.data.depth_files import save
from tests.experiments.own.drawn import CLASSES, QUICK, SEGMENTER, SHORT, class_map
from tests.models.test_depth_unet import TorchUNet


def test_classes_with_masks_run_from_files_to_the_report(folder, networks, tmp_path, capsys):
    for i in range(2):
        save(tmp_path / "photos" / f"{i}.png", masked_files.draw(90 + i).image)
    command = ["--data", str(folder("masks")), *networks, *SHORT, "--targets", "night", "photos"]
    main([*command, "--arms", "control", "guided-adversarial", "copy-paste"])
    assert "classes, named as the model's labels: fox, dog, cat" in capsys.readouterr().out
    work = tmp_path / "runs" / "own"
    assert (work / "report" / "index.html").stat().st_size > 50_000
    results = load(work / "results.json")
    assert "fine-tuned on 24 images of mine and tested on 3 others" in results.summary.replace(
        f"{tmp_path}/", ""
    )
    assert results.title == "mine" and {prompt.target for prompt in results.prompts if prompt.target} == {
        "night"
    }
    (scores,) = (column.scores for column in results.columns if column.name == "clean")
    assert set(scores) >= {"control", "guided-adversarial", "copy-paste"}
    source = Prepared(work / "data", "test", fields=("label",))
    names = [name.split("/")[1] for name in source.files()]
    assert [CLASSES[::-1][int(source[i]["label"])] for i in range(len(source))] == names
    listed = dict(line.split(",") for line in (work / "data" / "splits.csv").read_text().splitlines()[1:])
    assert {name for name, split in listed.items() if split == "test"} == set(source.files())


def test_depth_runs_from_files_to_the_report(folder, sd15, clip, tmp_path):
    torch.manual_seed(0)
    torch.save(TorchUNet(2, 8).state_dict(), tmp_path / "unet.pth")
    save(tmp_path / "night" / "rgb" / "0.png", depth_files.draw(99, (64, 64)).image)
    for i in range(9):
        for name, pixels in zip(("rgb", "depth"), depth_files.draw(50 + i, (64, 64)), strict=False):
            save(tmp_path / "night" / name / f"{i}.png", pixels)
    networks = ["--model", "unet.pth", "--pipeline", str(sd15.folder), "--clip", str(clip.folder)]
    networks += ["--controlnet", str(sd15.folder / "controlnet")]
    shift = ["--domains", "night", "night", "--targets", "night", "night", "a storm", "rooms in a storm"]
    main(["--data", str(folder("depth")), "--far", "10000", *networks, *shift, *SHORT])
    results = load(tmp_path / "runs" / "own" / "results.json")
    assert {column.name for column in results.columns} == {"clean", "night"}
    guided = {(prompt.arm, prompt.target) for prompt in results.prompts if prompt.target}
    assert guided == {("guided-adversarial", "night"), ("guided-adversarial-text", "a storm")}
    assert {prompt.name for prompt in results.prompts if prompt.arm == "agnostic"} == {"a photo"}


@pytest.mark.slow
def test_class_maps_run_from_files_to_the_report(folder, sd15, clip, tmp_path, monkeypatch):
    (tmp_path / "own_segmenter.py").write_text(SEGMENTER)
    monkeypatch.syspath_prepend(tmp_path)
    for i in range(9):
        save(tmp_path / "night" / "rgb" / f"{i}.png", depth_files.draw(50 + i, (64, 64)).image // 4)
        save(tmp_path / "night" / "classes" / f"{i}.png", class_map(50 + i))
    networks = ["--model", "own_segmenter:segmenter", "--pipeline", str(sd15.folder)]
    networks += ["--controlnet", str(sd15.folder / "controlnet"), "--clip", str(clip.folder)]
    shift = ["--first", "1", "--domains", "night", "night", "--targets", "night", "night"]
    main(["--data", str(folder("class-maps")), *networks, *shift, *QUICK])
    results = load(tmp_path / "runs" / "own" / "results.json")
    assert {column.name for column in results.columns} == {"clean", "night"}
    assert list(results.metrics) == ["miou", "accuracy", "cross_entropy"]
    assert {prompt.target for prompt in results.prompts if prompt.target} == {"night"}


def test_class_maps_are_prepared_with_their_domains(folder, tmp_path, monkeypatch, no_weights):
    (tmp_path / "own_segmenter.py").write_text(SEGMENTER)
    monkeypatch.syspath_prepend(tmp_path)
    root = folder("class-maps")
    root.rename(tmp_path / "night")
    given = ["--model", "own_segmenter:segmenter", "--pixels", "32", "--first", "1", "--domains", "night"]
    own = experiment(
        args := ["--data", str(folder("class-maps")), *given, "night", "--targets", "night", "night"]
    )
    options = parse(own, args)
    assert options.settings.optimizing.threshold is None and own.adversarial_sign(options.world) == -1
    world = own.build_world(options.world, 2)
    assert world.title == "mine" and world.prompts.agnostic == "a photo"
    assert len(world.data.original) == 24 and len(world.data.domains["night"]["image"]) == 2
    assert world.targets["night"].images.shape == (8, 32, 32, 3)
    number = int(Path(world.data.original.files()[0]).stem)
    labels = class_map(number).astype(int)[1::2, 1::2, None]
    np.testing.assert_array_equal(world.data.original[0]["classes"], np.where(labels, labels - 1, 255))


@pytest.mark.slow
def test_whole_images_run_from_files_to_the_report(folder, networks, tmp_path):
    main(["--data", str(folder("classes")), *networks, *SHORT, "--generating.denoising-steps", "4"])
    results = load(tmp_path / "runs" / "own" / "results.json")
    assert {column.name for column in results.columns} == {"clean", "fog", "blur"}


def test_the_kind_of_a_folder_chooses_the_preset_and_the_targets_choose_the_arms(folder, tmp_path):
    for kind in KINDS:
        root = folder(kind)
        assert kind_of(root) == kind
        own = experiment(["--data", str(root)])
        assert next(iter(own.presets)) == kind
        assert type(own.presets[kind].world) is type(KINDS[kind].world)
        (root / "train").mkdir()
        for name in [path.name for path in root.iterdir() if path.name != "train"]:
            (root / name).rename(root / "train" / name)
        assert kind_of(root) == kind
        root.rename(tmp_path / kind)
    assert next(iter(experiment(["--data", "depth", "--preset", "masks"]).presets)) == "masks"
    args = ["--data", "depth", "--loss", "midas"]
    assert [experiment(args[:n]).presets["depth"].settings.optimizing.threshold for n in (2, 4)] == [-0.2, -1]
    chosen = [
        presets("masks", targets)["masks"].settings
        for targets in ([], [str(tmp_path)], ["a photo at night"], [str(tmp_path), "a photo at night"])
    ]
    guided = [[arm for arm in settings.arms if ARMS[arm].guided] for settings in chosen]
    image, text = "guided-adversarial", "guided-adversarial-text"
    assert guided == [[image], [image], [text], [image, text]]
    assert [shortened(settings).arms for settings in chosen] == [
        ("control", "agnostic", *guides) for guides in guided
    ]


@pytest.mark.parametrize("kind", ["depth", "class-maps"])
def test_the_small_worlds_pipeline_sees_what_it_was_trained_on(
    folder, tmp_path, monkeypatch, kind, no_weights
):
    (tmp_path / "own_segmenter.py").write_text(SEGMENTER)
    monkeypatch.syspath_prepend(tmp_path)
    model = (
        ["--model", "own_segmenter:segmenter", "--first", "1"]
        if kind == "class-maps"
        else ["--model", "small"]
    )
    own = experiment(args := ["--data", str(folder(kind)), "--pipeline", "small", *model])
    options = parse(own, args)
    settings, config = options.settings, options.world
    assert (config.clip, config.controlnet, config.pixels, config.subject) == ("small", None, 64, "a room")
    assert settings.sampling == dataclasses.replace(ROOMS.sampling, strength=0.6)
    assert settings.sampling.guidance_scale == 3 and settings.generating == ROOMS.generating
    world = own.build_world(config, 2)
    assert world.task.negative_prompt == ""
    pipe = SimpleNamespace(downscale=4, vae=SimpleNamespace(latent_channels=16))
    batch = world.data.test
    keys = jax.random.split(jax.random.key(0), len(batch["image"]))
    seen = np.asarray(
        jax.jit(lambda batch: world.task.align(1.0).start(pipe, {}, batch, keys, None).control)(batch)
    )
    if kind == "depth":
        near = 1 - batch["depth"]
        near -= near.min((1, 2, 3), keepdims=True)
        np.testing.assert_allclose(seen[..., :1], near / near.max((1, 2, 3), keepdims=True), atol=1e-5)
    assert (seen[..., 2] == 1).all() and 0.4 < np.ptp(seen[..., 1]) <= 1  # valid depth, and the pattern


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["depth", "class-maps"])
def test_the_small_worlds_pipeline_keeps_the_labels_of_rooms(tmp_path, monkeypatch, one_process, kind):
    monkeypatch.chdir(tmp_path)
    drawn = rooms.render(0, range(40), [rooms.draw_style(0, i, rooms.NARROW) for i in range(40)])
    labels = {"depth": drawn.depth * 65535, "class-maps": drawn.classes}[kind]
    for i, (image, label) in enumerate(zip(drawn.image, labels, strict=True)):
        save(tmp_path / "mine" / "rgb" / f"{i}.png", image)
        if kind == "depth":
            save(tmp_path / "mine" / "depth" / f"{i}.png", np.round(label[..., 0]).astype(np.uint16))
        else:
            save(tmp_path / "mine" / "classes" / f"{i}.png", label[..., 0].astype(np.uint8))
    options = (
        "--pipeline small --model small --arms agnostic --generating.denoising-steps 5 --generating.images 16"
    )
    main(["--data", "mine", *(SHORT if kind == "depth" else QUICK), *options.split()])
    results = load(tmp_path / "runs" / "own" / "results.json")
    (clean,) = (column for column in results.columns if column.kind == "clean")
    metric = next(iter(results.metrics))
    constant, found = clean.scores[CONSTANT][metric][0], results.generated["agnostic"].critic[0]
    assert found < 0.7 * constant if kind == "depth" else found > 1.3 * constant


def test_a_small_worlds_pipeline_draws_its_own_kinds_alone(folder):
    root = folder("masks")
    wild = experiment(["--data", str(root), "--pipeline", "wildlife"]).presets
    assert wild["masks"].world.clip == "wildlife" and wild["masks"].settings.sampling.eta == 1
    assert wild["classes"].settings.sampling.strength == 0.6
    assert wild["depth"] == experiment(["--data", str(root)]).presets["depth"]
    with pytest.raises(
        SystemExit, match="the pipeline small draws no images with labels like masks: give wild"
    ):
        main(["--data", str(root), "--pipeline", "small"])


def test_a_split_is_drawn_once_and_used_again(folder, tmp_path):
    root, work = folder("masks"), tmp_path / "work"
    config = OwnMasked(data=root, pixels=16, domains={"other": root})

    def files(config):
        layout = divide(config, MaskedFolderLayout(), work)
        data, domains = prepare(config, layout, MaskedFolder, work)
        assert len(Prepared(domains["other"], "test", fields=("label",))) == 30
        return {split: Prepared(data, split, fields=("label",)).files() for split in ("train", "test")}

    drawn = files(config)
    assert len(drawn["train"]) == 24 and len(drawn["test"]) == 3
    assert files(dataclasses.replace(config, split_seed=1, pixels=8)) == drawn
