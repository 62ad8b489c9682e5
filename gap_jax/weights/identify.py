"""The kind of a model, for messages about models of another kind.

A file is told by the names of its tensors, and a ControlNet's condition by its own name: nothing else in its
files depends on it.
"""

import re
from collections.abc import Iterable
from pathlib import Path
from typing import Literal

from gap_jax.weights.repo import FILES, read_json

_KINDS = {  # a pattern that a tensor's name has in files of this kind alone; the first that matches counts
    r"lora_|\.lora\.|\.lora_[AB]\.": "a LoRA: give it to load_pipeline as `lora`, beside a pipeline",
    r"^emb_params$|^string_to_param": "a textual inversion: read it with gap_jax.prompts.load",
    r"^(control_model\.)?input_hint_block\.|controlnet_cond_embedding\.": (
        "a ControlNet: give it to load_pipeline as `controlnet`, beside a pipeline"
    ),
    r"^conditioner\.embedders\.|\.label_emb\.": "Stable Diffusion XL, which gap_jax does not have",
    r"^(model\.diffusion_model\.)?(double_blocks|joint_blocks)\.": (
        "a diffusion transformer (FLUX or Stable Diffusion 3), which gap_jax does not have"
    ),
    r"^model\.diffusion_model\.": "Stable Diffusion in one file: read it with load_pipeline",
    r"^down_blocks\.\d+\.(resnets|attentions)\.": (
        "a UNet in diffusers' names: give the folder of its pipeline, in which it is unet/"
    ),
    r"^encoder\.down(_blocks)?\.|^first_stage_model\.": "an autoencoder (VAE)",
    r"^(text_model\.)?encoder\.layers\.\d|^vision_model\.": (
        "a CLIP encoder: give the folder of a whole CLIP model, or of the pipeline that it belongs to"
    ),
    r"^layer1\.0\.conv1\.|^resnet\.": "a ResNet: read it with load_classifier",
    r"^conv_proj\.|^vit\.": "a ViT: read it with load_classifier",
    r"^dpt\.|^scratch\.|^down_blocks\.\d+\.bn1\.": "a depth model: read it with load_depth",
}
Condition = Literal["depth", "class maps"]
_EXAMPLES: dict[Condition, str] = {
    "depth": "lllyasviel/sd-controlnet-depth",
    "class maps": "lllyasviel/sd-controlnet-seg",
}
_CONDITIONS = {  # by the words of the names that lllyasviel's and thibaud's models have on the hub
    "depth": "depth",
    "zoedepth": "depth",
    "seg": "class maps",
    "segmentation": "class maps",
    "ade20k": "class maps",
    "canny": "Canny edges",
    "hed": "soft edges",
    "softedge": "soft edges",
    "inpaint": "masked images",
    "ip2p": "images to edit",
    "lineart": "line art",
    "mlsd": "straight lines",
    "normal": "surface normals",
    "normalbae": "surface normals",
    "openpose": "poses",
    "scribble": "scribbles",
    "shuffle": "shuffled images",
    "tile": "blurred images",
}


def kind_of(names: Iterable[str]) -> str | None:
    """Return what a file with tensors of these names is, with what to do with it; None if it is not known."""
    names = list(names)
    for pattern, kind in _KINDS.items():
        if any(re.search(pattern, name) for name in names):
            return kind
    return None


def identify(names: Iterable[str]) -> str:
    """Return the kind of a file as `kind_of` does, or else the first names of its tensors."""
    names = list(names)
    return kind_of(names) or ", ".join(names[:3])[:200] or "no tensors"


def named_conditions(controlnet: str | Path) -> set[str]:
    """Return the conditions that the name of a ControlNet tells, in words; none if it tells nothing.

    `controlnet` is a folder, file or hub id, whose last part counts. Of a folder that diffusers has saved,
    `_name_or_path` in `config.json` counts too, the name of the model that was loaded.
    """
    path = Path(controlnet).expanduser()
    names, config = [path.stem if path.suffix in FILES else path.name], path / "config.json"
    if config.is_file():
        names.append(Path(str(read_json(config).get("_name_or_path"))).name)
    words = {word for name in names for word in re.split(r"[^a-z0-9]+", name.lower())}
    return {_CONDITIONS[word] for word in words & _CONDITIONS.keys()}


def expect_condition(controlnet: str | Path, wanted: Condition) -> None:
    """Raise ValueError for a ControlNet that is named after other conditions than the `wanted` one."""
    found = named_conditions(controlnet)
    if found and wanted not in found:
        word = next(word for word, condition in _CONDITIONS.items() if condition == wanted)
        raise ValueError(
            f"the ControlNet {controlnet} must be one for {wanted}, but its name tells of "
            f"{' and '.join(sorted(found))}: images that it draws would not keep their labels. Give another, "
            f"such as {_EXAMPLES[wanted]}; if the name misleads, a folder with {word!r} in its name"
        )
