"""Conversion between `config.json` files and Flax modules, whose fields have the same names."""

import dataclasses
from collections.abc import Mapping
from typing import Any, TypeVar

from gap_jax.models.bit import BitConfig
from gap_jax.models.clip import CLIPModel, CLIPTextModel, CLIPVisionModel
from gap_jax.models.controlnet import ControlNet
from gap_jax.models.depth_unet import DepthUNet
from gap_jax.models.dpt import DPT, FACTORS, PATCH
from gap_jax.models.layers import ACTIVATIONS, Layer
from gap_jax.models.unet import UNet2DCondition
from gap_jax.models.vae import AutoencoderKL

_Built = TypeVar("_Built", bound=Layer | BitConfig)

_TORCH_NAMES: dict[type, str] = {
    UNet2DCondition: "UNet2DConditionModel",
    ControlNet: "ControlNetModel",
    AutoencoderKL: "AutoencoderKL",
}
# Options of the torch classes that gap_jax does not have, with the values at which they change nothing.
_BACKBONE = {
    "center_input_sample": (False,),
    "mid_block_type": ("UNetMidBlock2DCrossAttn",),
    "only_cross_attention": (False,),
    "downsample_padding": (1,),
    "mid_block_scale_factor": (1,),
    "act_fn": ("silu",),
    "encoder_hid_dim": (None,),
    "encoder_hid_dim_type": (None,),
    "dual_cross_attention": (False,),
    "class_embed_type": (None,),
    "addition_embed_type": (None,),
    "num_class_embeds": (None,),
    "resnet_time_scale_shift": ("default",),
    "resnet_skip_time_act": (False,),
    "resnet_out_scale_factor": (1,),
    "time_embedding_type": ("positional",),
    "time_embedding_dim": (None,),
    "time_embedding_act_fn": (None,),
    "timestep_post_act": (None,),
    "conv_in_kernel": (3,),
    "conv_out_kernel": (3,),
    "attention_type": ("default",),
    "mid_block_only_cross_attention": (None, False),
    "cross_attention_norm": (None,),
    "reverse_transformer_layers_per_block": (None,),
    "global_pool_conditions": (False,),
}
_SUPPORTED: dict[type, dict[str, tuple]] = {
    UNet2DCondition: _BACKBONE,
    ControlNet: _BACKBONE
    | {"controlnet_conditioning_channel_order": ("rgb", "bgr"), "time_cond_proj_dim": (None,)},
    AutoencoderKL: {
        "act_fn": ("silu",),
        "shift_factor": (None,),
        "latents_mean": (None,),
        "latents_std": (None,),
        "use_quant_conv": (True,),
        "use_post_quant_conv": (True,),
        "mid_block_add_attention": (True,),
    },
    CLIPTextModel: {"hidden_act": tuple(ACTIVATIONS), "use_attention_mask": (False, None)},
    CLIPVisionModel: {"hidden_act": tuple(ACTIVATIONS)},
    CLIPModel: {},
    DepthUNet: {},
    DPT: {
        "hidden_act": tuple(ACTIVATIONS),
        "head_in_index": (-1,),
        "patch_size": (PATCH,),
        "readout_type": ("project", "add", "ignore"),
        "use_batch_norm_in_fusion_residual": (False, None),
    },
    BitConfig: {
        "model_type": ("bit",),
        "embedding_dynamic_padding": (True,),
        "global_padding": ("SAME", "same"),
        "hidden_act": ("relu",),
        "layer_type": ("bottleneck",),
        "out_features": (("stage1", "stage2", "stage3"),),
        "output_stride": (32,),
        "width_factor": (1,),
    },
}
_BACKBONE_BLOCKS: dict[str, tuple[str, ...]] = {
    "down_block_types": ("CrossAttnDownBlock2D", "DownBlock2D"),
    "up_block_types": ("CrossAttnUpBlock2D", "UpBlock2D"),
}
_BLOCK_TYPES: dict[type, dict[str, tuple[str, ...]]] = {  # what each entry of these options may be
    UNet2DCondition: _BACKBONE_BLOCKS,
    ControlNet: _BACKBONE_BLOCKS,
    AutoencoderKL: {
        "down_block_types": ("DownEncoderBlock2D",),
        "up_block_types": ("UpDecoderBlock2D",),
    },
}
# the dtype that transformers gives weights of any dtype; diffusers gives its own networks the same
LOADED_AS = {"dtype": "float32"}
_PER_LEVEL = (  # fields with one entry per entry of block_out_channels
    "down_block_types",
    "up_block_types",
    "attention_head_dim",
    "num_attention_heads",
    "transformer_layers_per_block",
)
# fields of our modules that are not in config.json
_NOT_IN_CONFIG = {"parent", "name", "dtype", "param_dtype", "zero_init", "text_model", "vision_model"}
_NOT_IN_CONFIG |= {"backbone_config", "image_mean", "image_std", "label_names", "attention", "recompute"}


def build(
    cls: type[_Built], config: dict[str, Any], source: str, fields: Mapping[str, Any] | None = None
) -> _Built:
    """Return the module of a configuration read from `source`.

    Fields that the configuration lacks keep the defaults of the torch class. `fields` are those of the module
    that are not in configurations, such as its dtypes. Raises ValueError naming `source` and the key for an
    option that gap_jax does not have.
    """
    classes = {"_class_name": (_TORCH_NAMES[cls],)} if cls in _TORCH_NAMES else {}
    if classes and "_class_name" not in config and (found := config.get("architectures")):
        raise ValueError(f"{source} must be of a {_TORCH_NAMES[cls]}, found {found[0]}: give another folder")
    for key, supported in (classes | _SUPPORTED[cls]).items():
        if _hashable(config.get(key, supported[0])) not in supported:
            raise unsupported(source, key, config[key], supported)
    for key, supported in _BLOCK_TYPES.get(cls, {}).items():
        for kind in config.get(key, ()):
            if kind not in supported:
                raise unsupported(source, f"every entry of {key}", kind, supported)
    values = {}
    for field in _fields(cls):
        if field.name in config:
            value = _hashable(config[field.name])
            if field.type is int and not isinstance(value, int):
                raise ValueError(
                    f"{source}: {field.name} must be an integer, found {value!r}; choose another model"
                )
            values[field.name] = value
    module = cls(**values, **(fields or {}))
    levels = len(getattr(module, "block_out_channels", ()))
    for key in _PER_LEVEL:
        value = getattr(module, key, None)
        if isinstance(value, tuple) and len(value) != levels:
            raise ValueError(
                f"{source}: {key} must have as many entries as block_out_channels, {levels}; found "
                f"{len(value)}: correct the file"
            )
    return module


def build_dpt(config: dict[str, Any], source: str, fields: Mapping[str, Any]) -> DPT:
    """Return the DPT of a configuration as `build` does, with the ResNet of its `backbone_config` if any."""
    backbone, hybrid = config.get("backbone_config"), config.get("is_hybrid", False)
    if hybrid:
        backbone = build(BitConfig, backbone or {}, f"{source}: backbone_config")
        if len(backbone.depths) != 3:
            raise ValueError(
                f"{source}: backbone_config: depths must have 3 entries, found {backbone.depths}; choose a "
                "DPT-hybrid such as Intel/dpt-hybrid-midas"
            )
    elif backbone is not None:
        raise ValueError(
            f"{source}: backbone_config must be null unless is_hybrid is true, found model_type "
            f"{backbone.get('model_type')!r}; choose DPT-large or DPT-hybrid"
        )
    module = build(DPT, config, source, {**fields, "backbone_config": backbone})
    for key in ("backbone_out_indices", "neck_hidden_sizes"):
        if len(value := getattr(module, key)) != len(FACTORS):
            raise ValueError(
                f"{source}: {key} must have {len(FACTORS)} entries, found {value}: correct the file"
            )
    factors, first = tuple(config.get("reassemble_factors", FACTORS)), 2 if hybrid else 0
    used, layers = module.backbone_out_indices[first:], module.num_hidden_layers
    if len({i for i in used if 0 <= i < layers}) != len(used):
        raise ValueError(
            f"{source}: backbone_out_indices must be different layers in 0..{layers - 1} (num_hidden_layers "
            f"{layers}), found {used}: correct the file"
        )
    ignored = tuple(config.get("neck_ignore_stages", (0, 1)))
    if hybrid and ignored != (0, 1):
        raise unsupported(source, "neck_ignore_stages", ignored, ((0, 1),))
    if factors[first:] != FACTORS[first:]:
        raise unsupported(source, "reassemble_factors", factors, (FACTORS,))
    return module


def describe(module: Layer) -> dict[str, Any]:
    """Return the content of `config.json` for a module, as diffusers or transformers write it."""
    config = {field.name: getattr(module, field.name) for field in _fields(type(module))}
    match module:
        case AutoencoderKL():
            blocks = len(module.block_out_channels)
            config["down_block_types"] = ("DownEncoderBlock2D",) * blocks
            config["up_block_types"] = ("UpDecoderBlock2D",) * blocks
        case CLIPTextModel():
            config |= {"architectures": ["CLIPTextModel"], "model_type": "clip_text_model"} | LOADED_AS
        case DPT():
            config |= {"architectures": ["DPTForDepthEstimation"], "model_type": "dpt"}
            config |= {"patch_size": PATCH, "reassemble_factors": FACTORS, "is_hybrid": False}
            if (backbone := module.backbone_config) is not None:
                side = module.image_size // PATCH
                config["is_hybrid"] = True
                config["neck_ignore_stages"] = (0, 1)
                config["backbone_featmap_shape"] = (1, backbone.hidden_sizes[2], side, side)
                fixed = {key: supported[0] for key, supported in _SUPPORTED[BitConfig].items()}
                config["backbone_config"] = fixed | dataclasses.asdict(backbone)
                config["backbone_config"]["num_channels"] = module.num_channels
        case DepthUNet():
            config["architectures"] = ["UNet"]
        case CLIPVisionModel():
            config["model_type"] = "clip_vision_model"
        case CLIPModel():
            config |= {"architectures": ["CLIPModel"], "model_type": "clip"} | LOADED_AS
            config["text_config"] = describe(module.text_model)
            config["vision_config"] = describe(module.vision_model)
    if type(module) in _TORCH_NAMES:
        config["_class_name"] = _TORCH_NAMES[type(module)]
    return config


def _fields(cls: type) -> list[dataclasses.Field]:
    return [field for field in dataclasses.fields(cls) if field.name not in _NOT_IN_CONFIG]


def _hashable(value: Any) -> Any:
    return tuple(map(_hashable, value)) if isinstance(value, list) else value


def unsupported(source: str, key: str, value: Any, supported: tuple) -> ValueError:
    """Return the error for an option of a configuration file that gap_jax does not have."""
    alternatives = " or ".join(map(repr, supported))
    return ValueError(
        f"{source}: {key} must be {alternatives}, found {value!r}: gap_jax has no such option, choose "
        "another model"
    )
