"""The depth experiment on the small world, shortened: all stages, killed and resumed, on more devices."""

import dataclasses
import json
import math
import signal
import socket
import subprocess
import sys
from itertools import chain

import datasets
import jax
import numpy as np
import pytest
import tensorflow_datasets as tfds
from PIL import Image
from safetensors.numpy import load_file

from gap_jax import prompts
from gap_jax.closed_loop.command import Options, execute, main, parse
from gap_jax.closed_loop.settings import Evaluating, Finetuning, Generating, Optimizing, Settings
from gap_jax.closed_loop.world import as_batch
from gap_jax.data.prepared import Prepared
from gap_jax.experiments.depth.__main__ import EXPERIMENT
from gap_jax.experiments.depth.corrupted import TARGETS
from gap_jax.experiments.depth.settings import PRESETS, DepthFiles, SmallRooms
from gap_jax.experiments.depth.small_world import DOMAINS, PLANS, build
from gap_jax.report.results import CONSTANT, load
from gap_jax.weights.depth import load_depth
from tests.experiments.processes import (
    assert_images_agree,
    assert_same_end,
    assert_tables_agree,
    environment,
    stopped,
)

WORLD = SmallRooms(original=4, models=("critic",))  # images are generated from each of these rooms
ARMS = ("control", "adversarial-sdedit", "guided-adversarial")
TINY = Settings(
    arms=ARMS,
    optimizing=Optimizing(prompts=1, steps=3, batch=2, denoising_steps=2, checkpoint_every=1),
    generating=Generating(images=4, batch=2, denoising_steps=2, suffix=", red"),
    finetuning=Finetuning(steps=4, batch=2),
    evaluating=Evaluating(images=2, severities=(1,), efficiency=(2,)),
)


def command(work, *more):
    """The same settings on the command line."""
    given = ["--work", str(work), "--arms", *ARMS, "--world.original", str(WORLD.original)]
    given += ["--world.models", *WORLD.models]
    for stage in ("sampling", "optimizing", "generating", "finetuning", "evaluating"):
        values, defaults = (getattr(settings, stage) for settings in (TINY, PRESETS["small"].settings))
        for field in dataclasses.fields(values):
            value = getattr(values, field.name)
            if value != getattr(defaults, field.name):
                name = f"--{stage}.{field.name.replace('_', '-')}"
                given += [name, *map(str, value if isinstance(value, tuple) else (value,))]
    return [sys.executable, "-m", "gap_jax.experiments.depth", *given, *more]


def options(work, settings):
    """The same experiment with other settings, in this process."""
    return Options(stage="report", preset="small", work=work, settings=settings, world=WORLD)


@pytest.fixture(scope="module")
def finished(tmp_path_factory):
    """The experiment's folder, and what it printed."""
    work = tmp_path_factory.mktemp("depth") / "work"
    run = subprocess.run(command(work), env=environment(), capture_output=True, text=True)
    assert run.returncode == 0, run.stderr
    return work, run.stdout


def test_it_ends_with_a_report_of_all_that_was_measured(finished):
    work, printed = finished
    page = work / "report" / "index.html"
    assert f"the report: {page}" in printed and page.stat().st_size > 100_000
    results = load(work / "results.json")
    names = {(column.kind, column.name) for column in results.columns}
    assert len([name for kind, name in names if kind == "cc"]) == 15
    assert {name for kind, name in names if kind == "domain"} == {*TARGETS, *DOMAINS, *PLANS}
    for column in results.columns:
        assert set(column.scores) == {*ARMS, CONSTANT}
        assert all(math.isfinite(v) for s in column.scores.values() for vs in s.values() for v in vs)
    assert results.generated["guided-adversarial"].kept == 4
    assert [point.images for point in results.efficiency["fog"]["guided-adversarial"]] == [0, 2, 4]
    guided = [prompt for prompt in results.prompts if prompt.arm == "guided-adversarial"]
    assert {prompt.target for prompt in guided} == set(TARGETS)
    assert set(guided[0].losses) == {"adversarial", "guidance"} and guided[0].steps == 3
    assert [frame.step for frame in guided[0].examples[0].frames] == [0, 1, 2, 3]
    for picture in guided[0].targets:
        assert Image.open(work / picture).size == (64, 64)
    command_line = f"python -m gap_jax.experiments.depth --work {work} --arms"
    assert results.origin.command.startswith(command_line)
    assert set(results.origin.artefacts["guided-adversarial"]) == {"prompts", "images", "model"}
    for paths in results.origin.artefacts.values():
        assert all((work / path).is_dir() and path in page.read_text() for path in paths.values())


@pytest.mark.parametrize("arm", ["adversarial-sdedit", "guided-adversarial"])
def test_the_pictures_of_a_prompt_are_the_images_that_were_generated_with_it(finished, arm):
    work = finished[0]
    train = work / "seed-0" / arm / "generate" / "images" / "train"
    generated = {
        (line["source_id"], line["prompt_id"]): np.asarray(Image.open(train / line["file_name"]), int)
        for line in map(json.loads, (train / "metadata.jsonl").read_text().splitlines())
    }
    prompts = [prompt for prompt in load(work / "results.json").prompts if prompt.arm == arm]
    compared = 0
    for number, prompt in enumerate(prompts):
        for source, example in enumerate(prompt.examples):
            if (source, number) in generated:
                last = np.asarray(Image.open(work / example.frames[-1].generated), int)
                assert prompt.stopped is None and example.frames[-1].step == prompt.steps
                # The last update's embeddings, drawn in another batch: equal but for rounding.
                assert np.abs(last - generated[source, number]).max() <= 1
                first = np.asarray(Image.open(work / example.frames[0].generated), int)
                assert np.abs(first - generated[source, number]).max() > 1
                compared += 1
    assert compared >= 2


def test_all_models_are_measured_on_the_images_of_prompts_against_each(finished):
    work = finished[0]
    rows = {row.name: row for row in load(work / "results.json").models}
    assert list(rows) == ["original images", "prompts against f", "prompts against critic"]
    models = build(WORLD, held_out=1).models
    networks = {"f": models.model, "critic": models.others["critic"]}
    predict = {name: jax.jit(network.predict) for name, network in networks.items()}
    folders = {"f": "guided-adversarial", "critic": "models/guided-adversarial/critic"}
    for against, folder in folders.items():
        row = rows[f"prompts against {against}"]
        assert list(row.scores) == list(networks)
        images = as_batch(Prepared(work / "seed-0" / folder / "generate" / "tfds", "train"))
        images = {name: array[: TINY.evaluating.images] for name, array in images.items()}
        for name, network in networks.items():
            error = np.abs(predict[name](network.params, images["image"]) - images["depth"]) * images["mask"]
            l1 = error.sum((1, 2, 3)) / images["mask"].sum((1, 2, 3))
            np.testing.assert_allclose(row.scores[name]["l1"], l1.mean(), rtol=1e-4)
        for example in row.examples:
            assert {name: len(paths) for name, paths in example.predictions.items()} == {"f": 2, "critic": 2}
            for path in (example.label, example.image, *chain(*example.predictions.values())):
                assert Image.open(work / path).size == (64, 64)
    place = "optimize/fog/prompts/0/learned_embeds.safetensors"
    own, other = (prompts.load(work / "seed-0" / folder / place) for folder in folders.values())
    assert np.abs(own - other).max() > 1e-4  # both began at the same embeddings


def test_sdedit_generates_with_the_adversarial_arms_prompts(finished):
    seed = finished[0] / "seed-0"
    assert (seed / "adversarial" / "optimize").exists()
    assert not (seed / "adversarial-sdedit" / "optimize").exists()
    assert (seed / "adversarial-sdedit" / "generate" / "summary.json").exists()


def test_what_was_generated_is_read_by_tfds_and_datasets(finished):
    folder = finished[0] / "seed-0" / "guided-adversarial" / "generate"
    summary = json.loads((folder / "summary.json").read_text())
    source = tfds.builder_from_directory(folder / summary["tfds"]).as_data_source("train")
    assert len(source) == 4
    split = datasets.load_dataset("imagefolder", data_dir=str(folder / "images"), split="train")
    assert len(split) == 4 and split[0]["image"].size == (64, 64)
    assert {row["text"] for row in split} <= {f"<guided-adversarial-{target}-0>, red" for target in TARGETS}


def test_the_fine_tuned_models_and_all_prompts_leave_the_library(finished):
    seed, learnt = finished[0] / "seed-0", {}
    for arm in ARMS:
        module, learnt[arm] = load_depth(seed / arm / "finetune" / "model")
    rooms = build(WORLD, held_out=TINY.evaluating.images).data.test
    clean = next(c for c in load(finished[0] / "results.json").columns if c.kind == "clean")
    predict = jax.jit(lambda params, images: module.apply({"params": params}, images))
    for arm, params in learnt.items():
        depth = predict(params, rooms["image"])
        error = (np.abs(depth - rooms["depth"]) * rooms["mask"]).sum((1, 2, 3)) / rooms["mask"].sum((1, 2, 3))
        np.testing.assert_allclose(clean.scores[arm]["l1"][0], error.mean(), rtol=1e-4)
    files = sorted(seed.rglob("learned_embeds.safetensors"))
    tokens = [next(iter(load_file(path))) for path in files]
    assert len(tokens) == len(set(tokens)) == 5  # unguided, and for two targets against two models
    prompts.check_tokens(tokens)


def test_run_again_it_does_nothing_and_says_so(finished, capsys, one_process):
    work = finished[0]
    before = {path: path.stat().st_mtime_ns for path in work.rglob("*")}
    execute(EXPERIMENT, options(work, TINY))
    assert "nothing to do" in capsys.readouterr().out
    assert {path: path.stat().st_mtime_ns for path in work.rglob("*")} == before


def test_another_configuration_is_refused_by_the_field_that_differs(finished, one_process):
    other = dataclasses.replace(TINY, generating=dataclasses.replace(TINY.generating, images=6))
    with pytest.raises(ValueError, match=r"images.*4.*6|images.*6.*4"):
        execute(EXPERIMENT, options(finished[0], other))


def test_settings_that_mean_nothing_are_refused():
    with pytest.raises(ValueError, match=r"arms must be one of control, .*; found 'adverserial'"):
        Settings(arms=("adverserial",))
    with pytest.raises(ValueError, match="iterations must be 1 or more; found 0"):
        Settings(iterations=0)
    with pytest.raises(ValueError, match="seeds must be different values; found 0 0"):
        Settings(seeds=(0, 0))
    with pytest.raises(ValueError, match=r"evaluating.severities must be between 1 and 5; found 0"):
        Settings(evaluating=Evaluating(severities=(0,)))


def test_a_preset_sets_defaults_and_arguments_change_them():
    config = parse(
        EXPERIMENT,
        ["generate", "--preset", "taskonomy-dpt", "--finetuning.steps", "7", "--world.targets", "fog", "a"],
    )
    assert (config.stage, config.preset) == ("generate", "taskonomy-dpt")
    assert isinstance(config.world, DepthFiles)
    assert (config.world.loss, config.world.size, set(config.world.targets)) == ("midas", 384, {"fog"})
    assert (config.settings.finetuning.steps, config.settings.finetuning.learning_rate) == (7, 1e-5)
    short = parse(EXPERIMENT, ["--preset", "taskonomy-dpt", "--quick"])
    assert short.settings.finetuning.learning_rate == 1e-5
    assert (short.settings.optimizing.steps, short.settings.optimizing.threshold) == (4, None)
    assert short.identity()["world"]["data"] == "data/taskonomy"
    with pytest.raises(SystemExit):
        parse(EXPERIMENT, ["--preset", "taskonomy-vit"])


def test_the_help_shows_the_first_preset_as_default_and_the_given_ones_settings(capsys):
    with pytest.raises(SystemExit):
        parse(EXPERIMENT, ["--preset", "taskonomy-dpt", "--help"])
    text = " ".join(capsys.readouterr().out.replace("│", " ").split())
    assert "sets the defaults of all other options (default: small)" in text
    assert "(default: omnidata_dpt_depth_v1.ckpt)" in text


@pytest.mark.parametrize("error", [ValueError, FileNotFoundError, ImportError, FloatingPointError])
def test_an_error_becomes_one_line(monkeypatch, error):
    def fail(experiment, options):
        raise error("what to do")

    monkeypatch.setattr("gap_jax.closed_loop.command.execute", fail)
    monkeypatch.setattr(sys, "argv", ["depth"])
    with pytest.raises(SystemExit, match=r"^error: what to do$"):
        main(EXPERIMENT)


@pytest.mark.slow
def test_iterations_seeds_filters_and_written_prompts_go_together(tmp_path, one_process):
    (tmp_path / "prompts.txt").write_text("a red room\n\na foggy room\n")
    settings = dataclasses.replace(
        TINY,
        arms=("control", "agnostic", "agnostic-random", "written", "adversarial"),
        seeds=(0, 1),
        iterations=2,
        written=tmp_path / "prompts.txt",
        generating=dataclasses.replace(TINY.generating, max_critic_loss=9.0, min_clip_similarity=-1.0),
    )
    work = tmp_path / "work"
    execute(EXPERIMENT, options(work, settings))
    results = load(work / "results.json")
    assert results.seeds == (0, 1) and not results.efficiency["fog"]["written"][1:-1]
    assert {prompt.name for prompt in results.prompts if prompt.arm == "written"} == {
        "a red room",
        "a foggy room",
    }
    again = work / "seed-1" / "adversarial" / "iteration-1"
    assert {path.name for path in again.iterdir()} == {"optimize", "generate", "finetune"}
    line = (again / "generate" / "images" / "train" / "metadata.jsonl").read_text().splitlines()[0]
    assert -1 <= json.loads(line)["clip_similarity"] <= 1


def test_a_file_of_prompts_without_any_is_refused(tmp_path):
    (tmp_path / "prompts.txt").write_text("\n\n")
    with pytest.raises(ValueError, match=r"prompts\.txt"):
        Settings(written=tmp_path / "prompts.txt").to_json()


@pytest.mark.slow
def test_stopped_in_every_stage_it_ends_with_the_same_table(finished, tmp_path):
    work = tmp_path / "killed"
    seed = work / "seed-0"
    for sign in (
        seed / "adversarial" / "optimize" / "all" / "metrics.jsonl",  # by Ctrl-C, the others by SIGKILL
        seed / "adversarial" / "optimize" / "all" / "checkpoints" / "1",
        seed / "adversarial-sdedit" / "generate" / "chunks",
        seed / "adversarial-sdedit" / "finetune" / "checkpoints" / "2",
        seed / "guided-adversarial" / "optimize" / "fog" / "checkpoints" / "2",
        seed / "guided-adversarial" / "finetune-2",
    ):
        polite = sign.name == "metrics.jsonl"
        status, printed = stopped(command(work), sign, signal.SIGINT if polite else signal.SIGKILL)
        if polite:
            assert status == 130 and "run the same command again to continue" in printed
    subprocess.run(command(work), env=environment(), check=True)
    assert_same_end(work, finished[0])


@pytest.mark.slow
def test_a_run_to_which_arms_were_added_ends_like_one_with_all_of_them(finished, tmp_path):
    work = tmp_path / "grown"
    few = command(work)
    few.remove("adversarial-sdedit")
    subprocess.run(few, env=environment(), check=True)
    model = work / "seed-0" / "control" / "finetune" / "model" / "model.safetensors"
    kept = model.stat().st_mtime_ns
    assert set(load(work / "results.json").arms) == set(ARMS) - {"adversarial-sdedit"}
    subprocess.run(command(work), env=environment(), check=True)
    assert_same_end(work, finished[0])
    assert model.stat().st_mtime_ns == kept


@pytest.mark.slow
def test_eight_devices_generate_the_same_images_and_end_within_the_standard_error_of_seeds(tmp_path):
    arms = ("control", "agnostic", "adversarial")
    more = ["--arms", *arms, "--seeds", "0", "1", "2", "--generating.images", "8"]
    more += ["--evaluating.severities", "--evaluating.efficiency"]  # none
    more += chain(
        *((f"--{stage}.batch", "8") for stage in ("sampling", "optimizing", "generating", "finetuning"))
    )
    works = tmp_path / "1", tmp_path / "8"
    for devices, work in zip((1, 8), works, strict=True):
        subprocess.run(command(work, *more), env=environment(devices, optimization=3), check=True)
    assert_images_agree(*works, "agnostic")
    ours, theirs = (load(work / "results.json") for work in works)
    for mine, yours in zip(ours.columns, theirs.columns, strict=True):
        for arm in arms:
            one, eight = (np.array(column.scores[arm]["l1"]) for column in (mine, yours))
            if arm != "adversarial":
                np.testing.assert_allclose(eight, one, rtol=0.02)
            else:  # Adam's first update is the gradient's sign, which rounding turns where it is near zero
                assert abs(one.mean() - eight.mean()) <= one.std(ddof=1) / math.sqrt(len(one))


@pytest.mark.slow
def test_two_processes_end_with_the_table_of_one(finished, tmp_path):
    with socket.socket() as probe:
        probe.bind(("localhost", 0))
        port = probe.getsockname()[1]
    work = tmp_path / "processes"
    program = (
        "import sys\nfrom gap_jax import parallel\n"
        f"parallel.initialize('localhost:{port}', 2, int(sys.argv.pop(1)))\n"
        "parallel.initialize = lambda: None\n"
        "from gap_jax.closed_loop.command import main\n"
        "from gap_jax.experiments.depth.__main__ import EXPERIMENT\nmain(EXPERIMENT)"
    )
    given = command(work)[3:]
    runs = [
        subprocess.Popen([sys.executable, "-c", program, str(i), *given], env=environment()) for i in range(2)
    ]
    assert [run.wait(timeout=1500) for run in runs] == [0, 0]
    assert_tables_agree(work, finished[0], "l1", rtol=0.02)
