"""LoRA (Hu et al., arXiv 2106.09685): low-rank changes of a pipeline's weights, added when it is loaded.

A change is scale · (alpha / rank) · up · down. Files have diffusers' names (`unet.….lora_A.weight`, or of
older versions `….lora.down.weight`) or those of kohya's sd-scripts (`lora_unet_….lora_down.weight`).
"""

import json
import re
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any, NamedTuple

import jax.numpy as jnp
import numpy as np
from flax.traverse_util import flatten_dict, unflatten_dict

from gap_jax.diffusion.pipeline import Params
from gap_jax.weights.convert import from_torch, to_torch, torch_key
from gap_jax.weights.identify import identify
from gap_jax.weights.repo import Repo
from gap_jax.weights.single_file import open_file
from gap_jax.weights.tensors import Tensor

Lora = str | Path | tuple[str | Path, float]  # a file, folder or hub id, with its scale, 1 by default
STEM = "pytorch_lora_weights.safetensors"  # diffusers' name of the file in a folder
COMPONENTS = {  # what names of layers begin with, and the component that has them
    "unet": "unet",
    "lora_unet": "unet",
    "text_encoder": "text_encoder",
    "lora_te": "text_encoder",
    "lora_te1": "text_encoder",
}
_DOWN = r"lora_A|lora_down|lora\.down|lora_linear_layer\.down"
_UP = r"lora_B|lora_up|lora\.up|lora_linear_layer\.up"
_FACTOR = re.compile(rf"(.*?)[._](?:({_DOWN})|{_UP})(?:\.default)?\.weight")  # the layer; down, not up
_OTHER = re.compile(r"hada_|lokr_|dora_scale|lora_magnitude|lora_mid|\.diff(_b)?$")


class Change(NamedTuple):
    """The change of one layer: factors, and alpha if the file has it."""

    down: Tensor
    up: Tensor
    alpha: Tensor | None


def merge_loras(params: Params, loras: Iterable[Lora], *, local_files_only: bool = False) -> Params:
    """Return a pipeline's parameters with the changes of LoRAs added, in float32 before rounding.

    Raises FileNotFoundError for a file that is missing; ValueError for a file that is not readable, is no
    LoRA, is of a kind that gap_jax does not have, or belongs to another model.
    """
    for lora in loras:
        model, scale = lora if isinstance(lora, tuple) else (lora, 1.0)
        params = _merge(params, _find(model, local_files_only), float(scale))
    return params


def _find(model: str | Path, local_files_only: bool) -> Path:
    path = Path(model).expanduser()
    return path if path.is_file() else Repo(model, local_files_only=local_files_only).require(STEM)


def _merge(params: Params, path: Path, scale: float) -> Params:
    tensors = open_file(path)
    changes, ratios = _changes(tensors, path), _ratios_in_header(path)
    flat = {name: flatten_dict(params[name]) for name in ("unet", "text_encoder")}
    layers = {name: _layers(name, part) for name, part in flat.items()}
    for layer, change in changes.items():
        start = next((start for start in COMPONENTS if layer.startswith((f"{start}.", f"{start}_"))), None)
        component = COMPONENTS[start] if start else "unet"
        name = layer[len(start) + 1 :] if start else layer
        if name not in layers[component]:
            raise ValueError(
                f"{path} changes {layer}, which the pipeline's {component} does not have: the LoRA belongs "
                "to another model"
            )
        kernel = layers[component][name]
        old = flat[component][kernel]
        weight = to_torch(kernel, np.asarray(old, np.float32))
        ratio = ratios.get(component, 1.0)
        if change.alpha is not None:
            ratio = float(change.alpha.read()) / change.down.shape[0]
        delta = _product(change)
        if delta.size != weight.size:
            raise ValueError(
                f"{path}: the change of {layer} must have shape {list(weight.shape)}, found "
                f"{list(delta.shape)}: the LoRA belongs to another model"
            )
        changed = weight + np.float32(scale * ratio) * delta.reshape(weight.shape)
        flat[component][kernel] = jnp.asarray(from_torch(kernel, changed), old.dtype)
    return {**params, **{name: unflatten_dict(part) for name, part in flat.items()}}


def _changes(tensors: Mapping[str, Tensor], path: Path) -> dict[str, Change]:
    """Return the changes in a file by the names of their layers."""
    if other := next((name for name in tensors if _OTHER.search(name)), None):
        raise ValueError(
            f"{path} must hold a LoRA with factors `up` and `down`, found {other}: gap_jax does not have "
            "LoHa, LoKr, DoRA or other variants"
        )
    factors: dict[str, dict[bool, Tensor]] = {}
    for name, tensor in tensors.items():
        if match := _FACTOR.fullmatch(name):
            factors.setdefault(match[1], {})[match[2] is not None] = tensor
    if not factors or any(len(parts) < 2 for parts in factors.values()):
        broken = next((layer for layer, parts in factors.items() if len(parts) < 2), None)
        found = f"one factor alone for {broken}" if broken else identify(tensors)
        raise ValueError(
            f"{path} must hold a LoRA with factors `up` and `down` for each layer, found {found}"
        )
    return {
        layer.replace(".processor", ""): Change(parts[True], parts[False], tensors.get(f"{layer}.alpha"))
        for layer, parts in factors.items()
    }


def _layers(component: str, flat: Mapping[tuple[str, ...], Any]) -> dict[str, tuple[str, ...]]:
    """Return the path of the kernel of each layer, by all names that LoRAs have for the layer."""
    layers = {}
    for kernel in flat:
        if kernel[-1] != "kernel":
            continue
        name = torch_key(kernel).removesuffix(".weight")
        prefixes = ("", "text_model.") if component == "text_encoder" else ("",)
        for prefix in prefixes:
            full = prefix + name
            old = re.sub(r"\.(to_[qkv]|to_out)(\.0)?$", r".\1", full)  # of diffusers' first LoRAs
            for known in (full, full.replace(".", "_"), old):
                layers[known] = kernel
    return layers


def _product(change: Change) -> np.ndarray:
    """Return up · down in torch's layout of the layer's weight."""
    down, up = (np.asarray(part.read(), np.float32) for part in (change.down, change.up))
    product = up.reshape(up.shape[0], -1) @ down.reshape(down.shape[0], -1)
    return product.reshape(up.shape[0], *down.shape[1:])


def _ratios_in_header(path: Path) -> dict[str, float]:
    """Return alpha / rank of each component, where diffusers wrote them into a safetensors file's header."""
    if path.suffix != ".safetensors":
        return {}
    from safetensors import safe_open

    with safe_open(path, "numpy") as file:
        content = json.loads((file.metadata() or {}).get("lora_adapter_metadata", "{}"))
    ratios = {}
    for component in ("unet", "text_encoder"):
        options = {
            key.removeprefix(f"{component}."): value
            for key, value in content.items()
            if key.startswith(f"{component}.")
        }
        for unsupported in ("use_rslora", "use_dora", "alpha_pattern", "rank_pattern"):
            if options.get(unsupported):
                raise ValueError(
                    f"{path}: gap_jax does not have LoRAs with {unsupported}: merge it in diffusers"
                )
        if options.get("r"):
            ratios[component] = options.get("lora_alpha", options["r"]) / options["r"]
    return ratios
