"""Torch loads all networks of a pipeline in one dtype, whatever dtype was saved."""

import diffusers
import jax
import numpy as np
import torch

import gap_jax

COMPONENTS = ("text_encoder", "vae", "unet", "controlnet")


def test_torch_loads_all_networks_in_one_dtype_whatever_is_saved(sd15, tmp_path):
    halves = jax.tree.map(lambda leaf: np.asarray(leaf, np.float16), sd15.params)
    gap_jax.save_pipeline(sd15.pipe, halves, tmp_path / "saved")
    reloaded = diffusers.DiffusionPipeline.from_pretrained(tmp_path / "saved")
    assert {name: getattr(reloaded, name).dtype for name in COMPONENTS} == dict.fromkeys(
        COMPONENTS, torch.float32
    )
    again, _ = gap_jax.load_pipeline(tmp_path / "saved")
    assert again == sd15.pipe
