"""Fine-tuning on images of one's own."""

import dataclasses
import subprocess
import sys

import jax
import numpy as np
import pytest
from PIL import Image

import gap_jax
from gap_jax import adapt
from gap_jax.adapt import Adapt
from tests.data.test_image_folder import LINES, write

pytestmark = pytest.mark.usefixtures("one_process")


@pytest.fixture
def config(sd15, tmp_path):
    images = tmp_path / "images"
    images.mkdir()
    write(images, LINES, size=(72, 64))
    return Adapt(
        model=str(sd15.folder),
        images=images,
        work=tmp_path / "work",
        networks=("unet",),
        size=8 * sd15.pipe.downscale,
        steps=2,
        batch=2,
        learning_rate=1e-3,
        dtype="float32",
    )


def test_it_trains_the_named_networks_and_writes_a_pipeline(config, sd15, capsys):
    adapt.main(config)
    pipe, params = gap_jax.load_pipeline(config.work / "pipeline")
    assert pipe == sd15.pipe
    for name, before in sd15.params.items():
        same = jax.tree.map(np.array_equal, before, params[name])
        assert all(jax.tree.leaves(same)) == (name != "unet"), name
    picture = Image.open(config.work / "training" / "pictures" / "samples-000002.png")
    assert picture.size == (3 * config.size, 2 * config.size)
    adapt.main(dataclasses.replace(config, work=config.work))  # done: nothing is trained anew
    again = gap_jax.load_pipeline(config.work / "pipeline")[1]
    jax.tree.map(np.testing.assert_array_equal, again, params)


def test_settings_that_do_not_fit_together_are_refused(config, sd15, inpaint):
    with pytest.raises(ValueError, match="size must be a multiple of 8 pixels for this pipeline, found 60"):
        adapt.main(dataclasses.replace(config, size=60))
    write(config.images, [{"file_name": "a.png", "text": "a"}])
    with pytest.raises(
        ValueError, match=r"the pipeline has a ControlNet, but the images in .* have no depth"
    ):
        adapt.main(config)
    without_controlnet = dataclasses.replace(config, model=str(inpaint.folder), networks=("controlnet",))
    with pytest.raises(ValueError, match="has no ControlNet: give one with --controlnet"):
        adapt.main(without_controlnet)


def test_captions_that_are_missing_are_named(config):
    write(config.images, [{"file_name": "a.png"}])
    with pytest.raises(ValueError, match=r"a string 'text': .*metadata.jsonl:1"):
        adapt.main(config)


def test_help_imports_no_heavy_module():
    code = """
import sys
import gap_jax.adapt
heavy = {"jax", "optax", "orbax", "grain", "PIL", "gap_jax.diffusion.pipeline"} & set(sys.modules)
assert not heavy, heavy
"""
    subprocess.run([sys.executable, "-c", code], check=True)


def test_errors_on_the_command_line_are_messages(config):
    write(config.images, [{"file_name": "a.png"}])
    with pytest.raises(SystemExit, match=r"error: 1 of 1 examples cannot be used(.|\n)*metadata.jsonl:1"):
        adapt.run(["--model", config.model, "--images", str(config.images), "--size", "32"])
