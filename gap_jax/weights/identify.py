"""The kind of a model file, told by the names of its tensors: for messages about files of another kind."""

import re
from collections.abc import Iterable

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
