"""The code in docs/how-to/task.md and docs/diffusion.md runs as written; all documents name what exists."""

import contextlib
import dataclasses
import importlib
import importlib.util
import re
import shlex
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from gap_jax import prompts
from gap_jax.closed_loop.command import Experiment, parse
from gap_jax.closed_loop.settings import Settings
from gap_jax.experiments.own.__main__ import experiment as own
from tests.documents.blocks import (
    DOCUMENTS,
    IDS,
    ROOT,
    anchors,
    code_blocks,
    commands,
    local_links,
    read,
    run_block,
)

TASK, DIFFUSION = ROOT / "docs" / "how-to" / "task.md", ROOT / "docs" / "diffusion.md"
DRAWING = ROOT / "docs" / "architecture.svg"
(OWN_TASK,) = code_blocks(TASK)
EXPERIMENTS = ("depth", "segmentation", "waterbirds", "iwildcam")
every_document = pytest.mark.parametrize("path", DOCUMENTS, ids=IDS)


def experiment(name: str) -> Experiment:
    return importlib.import_module(f"gap_jax.experiments.{name}.__main__").EXPERIMENT


def test_the_readme_is_short():
    assert len(read(ROOT / "README.md").splitlines()) < 100


def test_a_task_of_ones_own_needs_three_imports():
    imports = re.findall(r"^ *(?:import|from) gap_jax\b.*$", OWN_TASK, re.MULTILINE)
    assert "import gap_jax" in imports
    assert len(imports) <= 3 and len(OWN_TASK.strip().splitlines()) < 100


def test_a_task_of_ones_own_runs_as_written(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    run_block(TASK, OWN_TASK, {})
    report = Path("runs/normals/report")
    assert "Angle in degrees" in (report / "table.md").read_text(encoding="utf-8")
    assert (report / "index.html").stat().st_size > 50_000


def test_stable_diffusions_examples_run_as_written(sd15, tmp_path, monkeypatch):
    """The page's hub ids are folders here, which hold a small random pipeline and its ControlNet."""
    first, *others = code_blocks(DIFFUSION)
    for name, folder in (
        ("stable-diffusion-v1-5/stable-diffusion-v1-5", sd15.folder),
        ("lllyasviel/sd-controlnet-depth", sd15.folder / "controlnet"),
    ):
        assert f'"{name}"' in first
        (tmp_path / name).parent.mkdir()
        (tmp_path / name).symlink_to(folder, target_is_directory=True)
    depth = np.random.default_rng(0).integers(0, 256, (32, 48), np.uint8)
    Image.fromarray(depth).save(tmp_path / "depth.png")
    monkeypatch.chdir(tmp_path)

    names = run_block(DIFFUSION, first, {})
    for block in others:
        run_block(DIFFUSION, block, names)

    picture = np.asarray(Image.open("room.png"))
    assert picture.shape == (32, 48, 3)
    assert picture.std() > 1
    assert np.linalg.norm(names["gradient"]) > 0
    assert prompts.load("learned_embeds.safetensors").shape == (2, 48)
    for other in ("fast", "edited", "inpainted"):
        assert np.isfinite(names[other]).all()
        assert np.abs(names[other] - names["latents"]).max() > 1e-3, other
    kept = names["mask"][:, :: sd15.pipe.downscale, :: sd15.pipe.downscale, 0]
    np.testing.assert_array_equal(names["inpainted"][kept], names["source"][kept])
    assert names["learned"].shape == (2, 4, 48)
    assert prompts.load("run/prompts/1/learned_embeds.safetensors").shape == (4, 48)


@every_document
def test_links_lead_to_files_and_headings(path):
    for link in local_links(path):
        name, _, anchor = link.partition("#")
        target = (path.parent / name).resolve() if name else path
        assert target.is_file(), link
        assert not anchor or anchor in anchors(target), link


def test_the_architecture_names_files_that_exist():
    for name in set(re.findall(r"`((?:\w+/)*\w+\.py|(?:\w+/)+)`", read(ROOT / "docs" / "architecture.md"))):
        assert (ROOT / "gap_jax" / name).exists(), name
    for name in set(re.findall(r"\w+\.py", read(DRAWING))):
        assert list((ROOT / "gap_jax").rglob(name)), name


def test_every_layer_has_a_place_in_the_layout_and_in_the_drawing():
    table = read(ROOT / "CONTRIBUTING.md").partition("## Where things live")[2]
    drawn = set(re.findall(r"[\w.]+", " ".join(re.findall(r"<text[^>]*>([^<]*)", read(DRAWING)))))
    layers = [
        path
        for path in (ROOT / "gap_jax").iterdir()
        if path.suffix == ".py" or (path / "__init__.py").exists()
    ]
    for path in layers:
        assert f"`{path.name}{'/' if path.is_dir() else ''}`" in table, path.name
        assert path.name in {*drawn, "__init__.py"}, path.name


@every_document
def test_commands_of_experiments_are_understood(path, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    for folder in ("mine/images", "mine/masks", "rooms/rgb", "rooms/depth"):
        (tmp_path / folder).mkdir(parents=True)
    for words in commands(path):
        if words[0].endswith("python") and words[1] == "-m" and words[2].startswith("gap_jax.experiments."):
            name, arguments = words[2].rpartition(".")[2], words[3:]
        elif words[0] == "make" and words[1] in EXPERIMENTS:
            name, arguments = words[1], shlex.split("".join(words[2:]).removeprefix("ARGS="))
        else:
            continue
        parse(own(arguments) if name == "own" else experiment(name), arguments)


@every_document
def test_settings_exist(path):
    sections = {field.name: type(getattr(Settings(), field.name)) for field in dataclasses.fields(Settings)}
    presets = [preset for name in EXPERIMENTS for preset in experiment(name).presets.values()]
    known = {
        f"--{section}.{field.name.replace('_', '-')}"
        for section, kinds in [
            *((name, [kind]) for name, kind in sections.items() if dataclasses.is_dataclass(kind)),
            ("world", {type(preset.world) for preset in presets}),
        ]
        for kind in kinds
        for field in dataclasses.fields(kind)
    }
    if path.name == "cub.md":
        known |= {"--world.places"}  # a setting of the experiment that this document writes
    named = set(
        re.findall(
            r"--(?:sampling|optimizing|generating|finetuning|evaluating|world)\.[a-z0-9-]+", read(path)
        )
    )
    assert named <= known


@every_document
def test_modules_and_names_exist(path):
    for name in set(re.findall(r"\b(?:gap_jax|benchmarks)(?:\.[A-Za-z_]\w*)+", read(path))):
        assert exists(name), name


def exists(name: str) -> bool:
    """Return True if a dotted name is a module, or an attribute of one."""
    package, _, last = name.rpartition(".")
    if not package:
        return importlib.util.find_spec(name) is not None
    if not exists(package):
        return False
    with contextlib.suppress(ModuleNotFoundError):  # the package may be a class or a module
        if importlib.util.find_spec(name) is not None:
            return True
    return hasattr(value_of(package), last)


def value_of(name: str) -> Any:
    package, _, last = name.rpartition(".")
    with contextlib.suppress(ModuleNotFoundError):
        if importlib.util.find_spec(name) is not None:
            return importlib.import_module(name)
    return getattr(value_of(package), last)
