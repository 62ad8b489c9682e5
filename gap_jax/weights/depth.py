"""Depth models, from and to folders: `config.json` and `model.safetensors` under the torch modules' names."""

from pathlib import Path
from typing import Any

from gap_jax.models.depth_unet import DepthUNet
from gap_jax.weights.component import TRANSFORMERS, load, network_dtypes, read_config, replacing, write
from gap_jax.weights.configs import build, describe
from gap_jax.weights.repo import Repo, shipped


def load_depth(model: str | Path, part: str = "depth", dtype: Any = "float32") -> tuple[DepthUNet, dict]:
    """A depth model and its parameters.

    `model`: a folder that `save_depth` wrote, or `"small"`, the small world's, of which `part` is `"depth"`
    (the supervised model, trained on one narrow style) or `"critic"` (the stronger one, trained on all).
    Raises as `load_pipeline`.
    """
    repo = Repo(shipped(model, part))
    module = build(DepthUNet, *read_config(repo, ""), **network_dtypes(dtype))
    return module, load(module, repo, "", TRANSFORMERS, None)


def save_depth(model: DepthUNet, params: dict, folder: str | Path) -> None:
    """Write a folder that `load_depth` reads; replaces as `save_pipeline`."""
    with replacing(Path(folder), "config.json") as target:
        write(target, describe(model), params, TRANSFORMERS[0])
