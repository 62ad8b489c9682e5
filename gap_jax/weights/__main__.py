"""The command that converts model files to folders of safetensors.

python -m gap_jax.weights convert SOURCE TARGET
"""

from collections.abc import Callable
from pathlib import Path
from typing import Annotated, Any, Literal

import jax
import tyro

from gap_jax.errors import one_line_errors
from gap_jax.models.dpt import DPT
from gap_jax.models.torch_modules.module import TorchModule
from gap_jax.weights.classifier import KINDS, load_classifier, save_classifier
from gap_jax.weights.depth import load_depth, save_depth
from gap_jax.weights.identify import kind_of
from gap_jax.weights.pipeline import load_clip, load_pipeline, save_clip, save_pipeline
from gap_jax.weights.repo import Repo, class_of
from gap_jax.weights.single_file import holds_pipeline
from gap_jax.weights.state_dicts import names_in
from gap_jax.weights.torch_models.loading import fits
from gap_jax.weights.torchvision import holds_classifier

SOURCE_HELP = (
    "file or folder to read. Files: Stable Diffusion 1.x or 2.x in one file, the U-Net of XTC, the "
    "DPT-hybrid of Omnidata, or a classifier with torchvision's tensor names (its images are taken to be "
    "normalised with ImageNet's mean and deviation). "
    "Folders in the layout of transformers or diffusers: DPT, ResNet, ViT, CLIP, or a Stable Diffusion "
    "pipeline"
)
TARGET_HELP = "folder to write; a model that it holds is replaced"
CONFIG_HELP = (
    "for Stable Diffusion in one file: folder or hub id of a pipeline with the same configurations and "
    "tokenizer; None: the published model of the same shapes"
)
DTYPE_HELP = "number type of the weights that are written"


def convert(
    source: Annotated[tyro.conf.Positional[Path], tyro.conf.arg(metavar="SOURCE", help=SOURCE_HELP)],
    target: Annotated[tyro.conf.Positional[Path], tyro.conf.arg(metavar="TARGET", help=TARGET_HELP)],
    dtype: Annotated[Literal["float32", "bfloat16", "float16"], tyro.conf.arg(help=DTYPE_HELP)] = "float32",
    config: Annotated[str | None, tyro.conf.arg(help=CONFIG_HELP)] = None,
) -> None:
    """Convert a model to a folder of safetensors, and print its kind and size."""
    kind, model, params, save = _load(source, dtype, config)
    print(f"{source} ({_size(source) / 1e6:.1f} MB): {kind}")
    parts = params if save is save_pipeline else {"": params}
    for name, part in parts.items():
        leaves = jax.tree.leaves(part)
        count, size = sum(leaf.size for leaf in leaves), sum(leaf.nbytes for leaf in leaves)
        line = f"{name} {len(leaves)} tensors, {count / 1e6:.2f} M parameters, {size / 1e6:.1f} MB as {dtype}"
        print(f"  {line.strip()}")
    save(model, params, target)
    print(f"written to {target}")


def _load(source: Path, dtype: str, config: str | None) -> tuple[str, Any, dict, Callable]:
    """Return the kind of the model in `source`, the model, its parameters, and the function that saves it."""
    if source.is_dir():
        repo = Repo(source)
        if repo.find("model_index.json"):
            return "Stable Diffusion, diffusers' layout", *load_pipeline(source, dtype=dtype), save_pipeline
        network = repo.read_json("config.json")
        if "text_config" in network:
            return "CLIP, transformers' layout", *load_clip(source, dtype=dtype), save_clip
        is_classifier = network.get("model_type") in KINDS or fits(network, "classification")
        is_depth = network.get("model_type") == "dpt" or network.get("architectures") == ["UNet"]
        if not (is_classifier or is_depth or fits(network, "depth")):
            raise ValueError(
                f"{source} holds {class_of(network)}, which is not converted by itself: give the folder of a "
                "whole pipeline, CLIP, classifier or depth model"
            )
        form = "transformers' layout"
    elif source.is_file():
        if holds_pipeline(source):
            loaded = load_pipeline(source, dtype=dtype, config=config)
            return "Stable Diffusion in one file", *loaded, save_pipeline
        is_classifier, form = holds_classifier(source), "torchvision's names"
        kind = None if is_classifier else kind_of(names_in(source))
        if kind and not kind.startswith("a depth model"):
            raise ValueError(f"{source} is not converted by itself: found {kind}")
    else:
        raise FileNotFoundError(f"SOURCE {source} does not exist: give a file or a folder, not a hub id")
    if is_classifier:
        classifier, params = load_classifier(source, dtype)
        return f"{_name(classifier)}, {form}", classifier, params, save_classifier
    model, params = load_depth(source, dtype=dtype)
    if isinstance(model, TorchModule):
        return f"{_name(model)}, {form}", model, params, save_depth
    if not isinstance(model, DPT):
        kind, form = "the depth U-Net", "XTC's checkpoint" if source.is_file() else "gap_jax's layout"
    else:
        kind = "DPT" if model.backbone_config is None else "DPT-hybrid"
        form = "Omnidata's checkpoint" if source.is_file() else "transformers' layout"
    return f"{kind}, {form}", model, params, save_depth


def _name(network: Any) -> str:
    """Return the name of a network's class, that of torch for a torch module."""
    return type(network.module if isinstance(network, TorchModule) else network).__name__


def _size(path: Path) -> int:
    """Return the size of a file, or of all files in a folder, in bytes."""
    files = [path] if path.is_file() else [file for file in path.rglob("*") if file.is_file()]
    return sum(file.stat().st_size for file in files)


def main(args: list[str] | None = None) -> None:
    """Run the command line; end with a message if a model cannot be read or written."""
    with one_line_errors():
        tyro.extras.subcommand_cli_from_dict(
            {"convert": convert},
            args=args,
            prog="python -m gap_jax.weights",
            description="Convert model files to folders of safetensors.",
        )


if __name__ == "__main__":
    main()
