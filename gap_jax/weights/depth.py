"""Reading depth models from folders and files, and writing them as `config.json` and `model.safetensors`."""

from pathlib import Path
from typing import Any

from gap_jax.models.depth_unet import DepthUNet
from gap_jax.models.dpt import DPT
from gap_jax.models.layers import Recompute
from gap_jax.models.torch_modules.module import TorchModule
from gap_jax.weights.component import (
    TRANSFORMERS,
    load_params,
    network_dtypes,
    read_config,
    read_normalisation,
    replace_folder,
    write_component,
    write_json,
)
from gap_jax.weights.configs import build, build_dpt, describe
from gap_jax.weights.depth_checkpoints import load_depth_checkpoint
from gap_jax.weights.repo import Repo, shipped
from gap_jax.weights.torch_models.loading import fits, is_factory, load_torch, save_torch


def load_depth(
    model: str | Path,
    part: str = "depth",
    dtype: Any = "float32",
    *,
    size: int | None = None,
    recompute: Recompute = "auto",
    revision: str | None = None,
    variant: str | None = None,
    local_files_only: bool = False,
) -> tuple[DepthUNet | DPT | TorchModule, dict]:
    """Load a depth model and its parameters.

    `model` is one of these:

    - a folder that `save_depth` wrote;
    - a folder in transformers' layout, or a hub id, of a `DPTForDepthEstimation` (`"Intel/dpt-hybrid-midas"`,
      `"Intel/dpt-large"`); `revision`, `variant` and `local_files_only` are those of `load_pipeline`;
    - such a folder or hub id of any other `…ForDepthEstimation`, or `"module:factory"`, a function of yours
      that returns a torch module: see `load_torch`. These need the extra `torch-models`;
    - a file of XTC's U-Net (`rgb2depth_consistency.pth`) or of Omnidata's DPT-hybrid (`.ckpt`). These pickles
      need torch, which reads only their weights and runs no code;
    - `"small"`, the small world. Its `part` is `"depth"` or `"dpt"`, a U-Net and a DPT-hybrid that were
      trained on one narrow style, or `"critic"`, a stronger U-Net, trained on all styles.

    `dtype`, of parameters and computation, is `float32`, `bfloat16` or `float16`. `size` is the side of the
    images that a factory's module takes, in pixels; None: any. `recompute` says what gradients of a DPT
    compute again, as in `load_pipeline`. Raises as `load_pipeline`, and ImportError for a pickle without
    torch.
    """
    dtypes = network_dtypes(dtype)
    if (path := Path(model).expanduser()).is_file():
        return load_depth_checkpoint(path, dtypes, recompute)
    options: dict[str, Any] = {"variant": variant, "revision": revision, "local_files_only": local_files_only}
    if is_factory(model):
        return load_torch(model, "depth", dtype, size=size, **options)
    repo = Repo(shipped(model, part), revision=revision, local_files_only=local_files_only)
    config, source = read_config(repo, "")
    module: DepthUNet | DPT
    match config.get("model_type"), config.get("architectures"):
        case "dpt", None | ["DPTForDepthEstimation"]:
            fields = read_normalisation(repo) | dtypes | {"recompute": recompute}
            module = build_dpt(config, source, fields)
        case _, ["UNet"]:
            module = build(DepthUNet, config, source, dtypes)
        case _ if fits(config, "depth"):
            return load_torch(model, "depth", dtype, **options)
        case _, architectures:
            raise ValueError(
                f"{source}: architectures must be ['DPTForDepthEstimation'] or ['UNet'], found "
                f"{architectures}; other classes for depth estimation need the extra torch-models: choose "
                "another model, or give your own torch module as module:factory"
            )
    return module, load_params(module, repo, "", TRANSFORMERS, variant)


def save_depth(model: DepthUNet | DPT | TorchModule, params: dict, folder: str | Path) -> None:
    """Write a folder that `load_depth` reads; transformers reads that of a DPT too.

    An existing model is replaced, and any other folder refused, as by `save_pipeline`. A torch module is
    written by `save_torch`.
    """
    if isinstance(model, TorchModule):
        save_torch(model, params, folder)
        return
    with replace_folder(Path(folder), "config.json") as target:
        write_component(target, describe(model), params, TRANSFORMERS[0])
        if isinstance(model, DPT):
            normalise = {
                "image_processor_type": "DPTImageProcessor",
                "image_mean": model.image_mean,
                "image_std": model.image_std,
                "size": {"height": model.image_size, "width": model.image_size},
            }
            write_json(target / "preprocessor_config.json", normalise)
