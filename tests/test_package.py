"""The cost of importing and using the package, each measured in a process of its own."""

import configparser
import subprocess
import sys
from pathlib import Path

import pytest

import gap_jax

ROOT = Path(__file__).parent.parent


def run(code, *arguments):
    return subprocess.run(
        [sys.executable, "-c", code, *arguments], cwd=ROOT, check=True, capture_output=True, text=True
    )


def test_import_initialises_no_backend_and_imports_no_heavy_library():
    code = """
import sys
import gap_jax
from jax._src import xla_bridge

names = "Pipeline Clip Network load_pipeline save_pipeline load_clip load_depth load_classifier Term prompts"
for name in [*names.split(), "inpaint", "prompt_optimizer", "image_guidance", "parallel"]:
    getattr(gap_jax, name)  # names are imported when they are first used

assert not xla_bridge._backends, xla_bridge._backends
heavy = {"torch", "tensorflow", "tensorflow_datasets", "transformers", "diffusers"} & set(sys.modules)
assert not heavy, heavy
import jax
assert jax.devices() and xla_bridge._backends  # this is where they would show
"""
    run(code)


@pytest.mark.parametrize("experiment", ["depth", "segmentation", "waterbirds", "iwildcam"])
def test_help_imports_nothing_that_only_a_run_needs(experiment):
    code = """
import runpy
import sys
experiment, sys.argv = sys.argv[1], ["command", "--help"]
try:
    runpy.run_module(f"gap_jax.experiments.{experiment}", run_name="__main__")
except SystemExit as stop:
    assert not stop.code, stop.code
heavy = {"jax", "flax", "optax", "orbax", "grain", "torch", "transformers", "matplotlib"}
heavy |= {"tensorflow_datasets"}
assert not heavy & set(sys.modules), heavy & set(sys.modules)
"""
    printed = run(code, experiment).stdout
    assert "number of prompts per arm" in printed and "last stage to run" in printed


def test_safetensors_folders_need_no_torch(sd15):
    code = """
import sys
sys.modules["torch"] = sys.modules["tensorflow"] = None  # importing them raises ImportError
import gap_jax

pipe, params = gap_jax.load_pipeline(sys.argv[1])
print(pipe.encode_text(params, pipe.tokenize(["a room"])).shape)
gap_jax.save_pipeline(pipe, params, sys.argv[2])
"""
    saved = sd15.folder.parent / "without torch"
    assert run(code, sd15.folder, saved).stdout == "(1, 77, 48)\n"
    assert (saved / "model_index.json").exists()


def test_version_is_the_distributions():
    setup = configparser.ConfigParser()
    setup.read(ROOT / "setup.cfg")
    assert gap_jax.__version__ == setup["metadata"]["version"]


def test_every_public_name_is_there_and_documented():
    for name in gap_jax.__all__:
        assert getattr(gap_jax, name).__doc__, name
