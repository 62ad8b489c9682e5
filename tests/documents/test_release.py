"""A release: what the wheel holds, which versions its files name, and what continuous integration runs."""

import configparser
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import yaml

import gap_jax

ROOT = Path(__file__).parents[2]
LARGEST_WHEEL = 60e6  # bytes
EXTRAS = {  # the imports that each extra brings to users
    "torch": {"torch"},
    "torch-models": {"torchax"},
    "captions": {"ftfy"},
}


@pytest.fixture(scope="module")
def packed() -> set[str]:
    """The files that setuptools packs into the wheel, without its own metadata."""
    code = """
from setuptools import Distribution

distribution = Distribution({"script_name": "setup.py"})
distribution.parse_config_files(["pyproject.toml", "setup.cfg"])
command = distribution.get_command_obj("build_py")
command.build_lib = "wheel"
command.ensure_finalized()
print(*command.get_outputs(include_bytecode=False), sep="\\n")
"""
    ran = subprocess.run([sys.executable, "-c", code], cwd=ROOT, check=True, capture_output=True, text=True)
    return {line.removeprefix("wheel/") for line in ran.stdout.splitlines() if line.startswith("wheel/")}


def test_the_wheel_holds_the_package_whole_and_nothing_else(packed):
    present = {
        str(path.relative_to(ROOT))
        for path in (ROOT / "gap_jax").rglob("*")
        if path.is_file() and path.suffix != ".pyc"
    }
    assert packed == present
    kinds = {path.rpartition(".")[2] for path in packed}
    assert kinds == {"py", "typed", "json", "txt", "safetensors", "md", "html", "css", "js"}
    assert "gap_jax/py.typed" in packed


def test_the_wheel_stays_small(packed):
    assert sum((ROOT / path).stat().st_size for path in packed) < LARGEST_WHEEL


def test_all_files_name_the_same_version():
    citation = yaml.safe_load((ROOT / "CITATION.cff").read_text())
    newest = re.search(r"^## ([\d.]+)", (ROOT / "CHANGELOG.md").read_text(), re.MULTILINE)
    assert citation["version"] == newest[1] == gap_jax.__version__


def test_the_citation_is_the_papers():
    paper = yaml.safe_load((ROOT / "CITATION.cff").read_text())["preferred-citation"]
    readme = (ROOT / "README.md").read_text()
    assert f"title   = {{{paper['title']}}}" in readme
    names = [f"{author['family-names']}, {author['given-names']}" for author in paper["authors"]]
    assert " and ".join(names) in re.sub(r"\s+", " ", readme)


def test_only_tested_versions_of_python_are_named():
    setup = configparser.ConfigParser()
    setup.read(ROOT / "setup.cfg")
    jobs = yaml.safe_load((ROOT / ".github" / "workflows" / "checks.yml").read_text())["jobs"]
    tested = jobs["tests"]["strategy"]["matrix"]["python"]
    named = re.findall(r"Python :: (3\.\d+)", setup["metadata"]["classifiers"])
    assert tested == named
    assert setup["options"]["python_requires"] == f">={tested[0]}"


def test_workflows_run_what_the_makefile_has():
    targets = re.findall(r"^([\w ]+):", (ROOT / "Makefile").read_text(), re.MULTILINE)
    known = {target for line in targets for target in line.split()}
    text = (ROOT / ".github" / "workflows" / "checks.yml").read_text()
    made = set(re.findall(r"run: make (\w+)", text))
    assert made == {"lint", "test", "docs", "wheel"} and made <= known


def test_issue_forms_ask_for_the_command_and_the_versions():
    folder = ROOT / ".github" / "ISSUE_TEMPLATE"
    for name in ("bug", "numbers"):
        form = yaml.safe_load((folder / f"{name}.yml").read_text())
        required = {part["id"] for part in form["body"] if part.get("validations", {}).get("required")}
        assert {"command", "versions"} <= required


def test_orbax_stays_below_its_new_interface():
    setup = configparser.ConfigParser()
    setup.read(ROOT / "setup.cfg")
    assert "orbax-checkpoint>=0.11.28,<1.0" in setup["options"]["install_requires"].split()


def test_the_design_says_why_each_dependency_is_there():
    setup = configparser.ConfigParser()
    setup.read(ROOT / "setup.cfg")
    lists = [setup["options"]["install_requires"], *setup["options.extras_require"].values()]
    packages = set(re.findall(r"^([\w.-]+)(?=[><=[])", "\n".join(lists), re.MULTILINE)) - {"gap_jax"}
    design = (ROOT / "docs" / "design.md").read_text().partition("## Why these dependencies")[2]
    assert len(packages) > 30
    for package in packages:
        assert re.search(rf"^\|.*\b{re.escape(package)}\b", design, re.MULTILINE), package
    for line in design.splitlines():
        if line.startswith("|"):
            assert all(cell.strip() for cell in line.strip("|").split("|")[-2:]), line


@pytest.mark.parametrize("extra", EXTRAS)
def test_extras_are_imported_only_inside_functions(extra):
    """A module that imports an extra at its top could not be imported without it."""
    pattern = rf"^(?:import|from) (?:{'|'.join(EXTRAS[extra])})\b"
    for path in (ROOT / "gap_jax").rglob("*.py"):
        assert not re.search(pattern, path.read_text(), re.MULTILINE), path


@pytest.mark.slow
def test_the_built_wheel_imports_and_finds_its_models(tmp_path):
    """The wheel, built from a copy, is unpacked instead of installed; this environment has what it needs."""
    copy = tmp_path / "copy"
    shutil.copytree(ROOT / "gap_jax", copy / "gap_jax")
    for name in ("setup.cfg", "pyproject.toml", "README.md", "LICENSE"):
        shutil.copy(ROOT / name, copy)
    subprocess.run(
        [sys.executable, "-m", "pip", "wheel", "--no-deps", "--no-build-isolation", "-w", tmp_path, copy],
        check=True,
        capture_output=True,
    )
    (wheel,) = tmp_path.glob("*.whl")
    assert wheel.stat().st_size < LARGEST_WHEEL
    code = """
import sys
sys.path.insert(0, sys.argv[1])
import gap_jax
assert gap_jax.__file__.startswith(sys.argv[1])
print(gap_jax.load_pipeline("small")[0].downscale)
"""
    subprocess.run([sys.executable, "-m", "zipfile", "-e", wheel, tmp_path / "out"], check=True)
    run = [sys.executable, "-c", code, str(tmp_path / "out")]
    assert subprocess.run(run, cwd=tmp_path, check=True, capture_output=True, text=True).stdout == "4\n"
