"""Depth models, from folders and checkpoints of others, to folders: `config.json` and `model.safetensors`."""

from pathlib import Path
from typing import Any

from gap_jax.models.depth_unet import DepthUNet
from gap_jax.models.dpt import DPT
from gap_jax.weights.checkpoints import load_checkpoint
from gap_jax.weights.component import (
    TRANSFORMERS,
    load,
    network_dtypes,
    read_config,
    read_normalisation,
    replacing,
    write,
    write_json,
)
from gap_jax.weights.configs import build, build_dpt, describe
from gap_jax.weights.repo import Repo, shipped


def load_depth(
    model: str | Path,
    part: str = "depth",
    dtype: Any = "float32",
    *,
    revision: str | None = None,
    variant: str | None = None,
    local_files_only: bool = False,
) -> tuple[DepthUNet | DPT, dict]:
    """A depth model and its parameters.

    `model` is one of
    - a folder that `save_depth` wrote;
    - a folder or hub id in transformers' layout of a `DPTForDepthEstimation` (`"Intel/dpt-hybrid-midas"`,
      `"Intel/dpt-large"`), with `revision`, `variant` and `local_files_only` as `load_pipeline`'s;
    - a file, of XTC's U-Net (`rgb2depth_consistency.pth`) or Omnidata's DPT-hybrid (`.ckpt`): pickles, of
      which torch, if it is installed, reads the weights only;
    - `"small"`, the small world's, of which `part` is `"depth"` (the supervised model, trained on one narrow
      style) or `"critic"` (the stronger one, trained on all).

    Raises as `load_pipeline`, and ImportError for a pickle without torch.
    """
    dtypes = network_dtypes(dtype)
    if (path := Path(model).expanduser()).is_file():
        return load_checkpoint(path, **dtypes)
    repo = Repo(shipped(model, part), revision=revision, local_files_only=local_files_only)
    config, source = read_config(repo, "")
    match config.get("model_type"), config.get("architectures"):
        case "dpt", None | ["DPTForDepthEstimation"]:
            module = build_dpt(config, source, **read_normalisation(repo), **dtypes)
        case _, ["UNet"]:
            module = build(DepthUNet, config, source, **dtypes)
        case _, other:
            raise ValueError(f"{source}: architectures is {other}, supported: DPTForDepthEstimation or UNet")
    return module, load(module, repo, "", TRANSFORMERS, variant)


def save_depth(model: DepthUNet | DPT, params: dict, folder: str | Path) -> None:
    """Write a folder that `load_depth` reads, and transformers that of a DPT; replaces as `save_pipeline`."""
    with replacing(Path(folder), "config.json") as target:
        write(target, describe(model), params, TRANSFORMERS[0])
        if isinstance(model, DPT):
            normalise = {
                "image_processor_type": "DPTImageProcessor",
                "image_mean": model.image_mean,
                "image_std": model.image_std,
                "size": {"height": model.image_size, "width": model.image_size},
            }
            write_json(target / "preprocessor_config.json", normalise)
