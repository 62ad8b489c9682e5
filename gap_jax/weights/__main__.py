"""Models of others, written anew as safetensors: `python -m gap_jax.weights convert SOURCE TARGET`."""

from collections.abc import Callable
from pathlib import Path
from typing import Any, Literal

import jax
import tyro

from gap_jax.models.dpt import DPT
from gap_jax.weights.classifier import KINDS, load_classifier, save_classifier
from gap_jax.weights.depth import load_depth, save_depth
from gap_jax.weights.pipeline import load_clip, load_pipeline, save_clip, save_pipeline
from gap_jax.weights.repo import Repo
from gap_jax.weights.torchvision import holds_classifier


def convert(
    source: tyro.conf.Positional[Path],
    target: tyro.conf.Positional[Path],
    dtype: Literal["float32", "bfloat16", "float16"] = "float32",
) -> None:
    """Write a model as a folder of safetensors, and say what it is.

    Args:
        source: A file of XTC's U-Net, Omnidata's DPT-hybrid, or a classifier in torchvision's names (taken to
            be for images normalised as ImageNet's), or a folder in transformers' or diffusers' layout: DPT,
            ResNet, ViT, CLIP, a Stable Diffusion pipeline.
        target: The folder to write. A model that is there is replaced.
        dtype: Of the weights that are written.
    """
    kind, model, params, save = _load(source, dtype)
    print(f"{source} ({_size(source) / 1e6:.1f} MB): {kind}")
    parts = params if save is save_pipeline else {"": params}
    for name, part in parts.items():
        leaves = jax.tree.leaves(part)
        count, size = sum(leaf.size for leaf in leaves), sum(leaf.nbytes for leaf in leaves)
        line = f"{name} {len(leaves)} tensors, {count / 1e6:.2f} M parameters, {size / 1e6:.1f} MB as {dtype}"
        print(f"  {line.strip()}")
    save(model, params, target)
    print(f"written to {target}")


def _load(source: Path, dtype: str) -> tuple[str, Any, dict, Callable]:
    """What `source` is, the model and its parameters, and the function that saves it."""
    if source.is_dir():
        repo = Repo(source)
        if repo.find("model_index.json"):
            return "Stable Diffusion, diffusers' layout", *load_pipeline(source, dtype=dtype), save_pipeline
        config = repo.read_json("config.json")
        if "text_config" in config:
            return "CLIP, transformers' layout", *load_clip(source, dtype=dtype), save_clip
        classifier, form = config.get("model_type") in KINDS, "transformers' layout"
    elif source.is_file():
        classifier, form = holds_classifier(source), "torchvision's names"
    else:
        raise FileNotFoundError(f"there is no {source}")
    if classifier:
        model, params = load_classifier(source, dtype)
        return f"{type(model).__name__}, {form}", model, params, save_classifier
    model, params = load_depth(source, dtype=dtype)
    if not isinstance(model, DPT):
        kind, form = "the depth U-Net", "XTC's checkpoint" if source.is_file() else "gap_jax's layout"
    else:
        kind = "DPT" if model.backbone_config is None else "DPT-hybrid"
        form = "Omnidata's checkpoint" if source.is_file() else "transformers' layout"
    return f"{kind}, {form}", model, params, save_depth


def _size(path: Path) -> int:
    files = [path] if path.is_file() else [found for found in path.rglob("*") if found.is_file()]
    return sum(file.stat().st_size for file in files)


def main(args: list[str] | None = None) -> None:
    """Run a command; what is wrong with a model ends it with a message."""
    try:
        tyro.extras.subcommand_cli_from_dict(
            {"convert": convert}, args=args, prog="python -m gap_jax.weights", description=__doc__
        )
    except (ValueError, FileNotFoundError, FileExistsError, ImportError) as error:
        raise SystemExit(f"error: {error}") from error


if __name__ == "__main__":
    main()
