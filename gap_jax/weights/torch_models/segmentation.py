"""Reading and writing segmentation models: any torch module, and the small world's U-Net in Flax."""

from pathlib import Path
from typing import Any

from gap_jax.models.depth_unet import DepthUNet
from gap_jax.models.torch_modules.module import TorchModule
from gap_jax.weights.component import TRANSFORMERS, load_params, network_dtypes, read_config
from gap_jax.weights.configs import build
from gap_jax.weights.depth import save_depth
from gap_jax.weights.repo import Repo, shipped
from gap_jax.weights.torch_models.loading import is_factory, load_torch


def load_segmentation(
    model: str | Path,
    dtype: Any = "float32",
    *,
    revision: str | None = None,
    variant: str | None = None,
    local_files_only: bool = False,
) -> tuple[DepthUNet | TorchModule, dict]:
    """Load a segmentation model, which predicts logits `[B,h,w,K]`, and its parameters.

    `model` is one of these:

    - a folder that `save_segmentation` wrote;
    - a folder in transformers' layout, or a hub id, of any `…ForSemanticSegmentation`, such as SegFormer
      (`"nvidia/segformer-b0-finetuned-ade-512-512"`), or `"module:factory"`, a function of yours that returns
      a torch module: see `load_torch`. These need the extra `torch-models`;
    - `"small"`, the small world's U-Net, which tells the six classes of its rooms and is trained on one
      narrow style.

    `dtype`, of parameters and computation, is `float32`, `bfloat16` or `float16`. The other arguments are
    those of `load_pipeline`. Raises as `load_pipeline` and `load_torch`.
    """
    options: dict[str, Any] = {"variant": variant, "revision": revision, "local_files_only": local_files_only}
    if not is_factory(model):
        repo = Repo(shipped(model, "segmentation"), revision=revision, local_files_only=local_files_only)
        config, source = read_config(repo, "")
        if config.get("architectures") == ["UNet"]:
            module = build(DepthUNet, config, source, network_dtypes(dtype))
            return module, load_params(module, repo, "", TRANSFORMERS, variant)
    return load_torch(model, "segmentation", dtype, **options)


def save_segmentation(model: DepthUNet | TorchModule, params: dict, folder: str | Path) -> None:
    """Write a folder that `load_segmentation` reads, in the way of `save_depth`."""
    save_depth(model, params, folder)
