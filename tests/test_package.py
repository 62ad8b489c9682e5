"""What importing and using the package costs, each in a process of its own."""

import configparser
import subprocess
import sys
from pathlib import Path

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

assert not xla_bridge._backends, xla_bridge._backends
heavy = {"torch", "tensorflow", "tensorflow_datasets", "transformers", "diffusers"} & set(sys.modules)
assert not heavy, heavy
import jax
assert jax.devices() and xla_bridge._backends  # this is where they would show
"""
    run(code)


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
