"""A pipeline is loaded without a second copy of its weights."""

import shutil
import subprocess
import sys
from pathlib import Path

import diffusers
import pytest

from tests.weights.test_pipeline import folder, without_controlnet

__all__ = ["folder"]  # the fixture

PEAK = """
import re, sys
import jax, gap_jax

def memory(name):
    return 1024 * int(re.search(name + r":\\s*(\\d+) kB", open("/proc/self/status").read())[1])

gap_jax.load_pipeline(sys.argv[2], dtype=sys.argv[3])  # imports and the like
before = memory("VmRSS")
_, params = gap_jax.load_pipeline(sys.argv[1], dtype=sys.argv[3])
print(sum(leaf.nbytes for leaf in jax.tree.leaves(params)), memory("VmHWM") - before)
"""


@pytest.mark.skipif(sys.platform != "linux", reason="reads /proc")
@pytest.mark.slow
@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_loading_holds_the_weights_about_once(sd15, folder, dtype):
    without_controlnet(folder)
    shutil.rmtree(folder / "unet")
    config = dict(sd15.torch.unet.config) | dict(block_out_channels=(320, 640))
    diffusers.UNet2DConditionModel.from_config(config).save_pretrained(folder / "unet")
    command = [sys.executable, "-c", PEAK, folder, sd15.folder, dtype]
    root = Path(__file__).parents[2]
    process = subprocess.run(command, capture_output=True, text=True, check=True, cwd=root)
    size, peak = map(int, process.stdout.split())
    assert size > 50e6
    assert peak <= 1.25 * size + 10e6
