"""Every option of a configuration file is read, refused unless it has its usual value, or changes nothing."""

import dataclasses
import inspect

import diffusers
import pytest
import transformers

from gap_jax.models.bit import BitConfig
from gap_jax.models.clip import CLIPModel, CLIPTextModel, CLIPVisionModel
from gap_jax.models.controlnet import ControlNet
from gap_jax.models.dpt import DPT
from gap_jax.models.resnet import ResNet
from gap_jax.models.unet import UNet2DCondition
from gap_jax.models.vae import AutoencoderKL
from gap_jax.models.vit import ViT
from gap_jax.weights.classifier import FIXED
from gap_jax.weights.configs import _BLOCK_TYPES, _SUPPORTED

FOR_TRAINING = {
    *(
        "attention_dropout",
        "attention_probs_dropout_prob",
        "dropout",
        "drop_path_rate",
        "hidden_dropout_prob",
    ),
    *("initializer_factor", "initializer_range", "semantic_classifier_dropout"),
    *("auxiliary_loss_weight", "semantic_loss_ignore_index"),
}
OF_EVERY_MODEL = {  # names, and the form of what a torch class returns
    *("_name_or_path", "architectures", "chunk_size_feed_forward", "dtype", "id2label", "is_encoder_decoder"),
    *("label2id", "model_type", "output_attentions", "output_hidden_states", "problem_type", "return_dict"),
    "transformers_version",
}
UNUSED = {  # options of parts that these classes do not have, or that another option switches off
    UNet2DCondition: {
        *("addition_embed_type_num_heads", "addition_time_embed_dim"),  # of addition_embed_type
        *("class_embeddings_concat", "projection_class_embeddings_input_dim"),  # of class_embed_type
    },
    ControlNet: {
        *("addition_embed_type_num_heads", "addition_time_embed_dim"),
        "projection_class_embeddings_input_dim",
    },
    AutoencoderKL: {"force_upcast"},  # the dtype is the caller's
    CLIPTextModel: {"bos_token_id", "pad_token_id", "projection_dim"},
    CLIPVisionModel: {"projection_dim"},
    CLIPModel: {"text_config", "vision_config"},  # read as models of their own
    DPT: {
        *("is_hybrid", "neck_ignore_stages", "reassemble_factors"),  # read by build_dpt
        "backbone_featmap_shape",  # follows from the backbone and the size
        *("pooler_act", "pooler_output_size", "use_auxiliary_head"),
    },
    BitConfig: {"num_channels", "out_indices", "stage_names"},
    ResNet: {"out_features", "out_indices", "stage_names"},
    ViT: {"encoder_stride", "pooler_act", "pooler_output_size"},
}
TORCH = {
    UNet2DCondition: diffusers.UNet2DConditionModel,
    ControlNet: diffusers.ControlNetModel,
    AutoencoderKL: diffusers.AutoencoderKL,
    CLIPTextModel: transformers.CLIPTextConfig,
    CLIPVisionModel: transformers.CLIPVisionConfig,
    CLIPModel: transformers.CLIPConfig,
    DPT: transformers.DPTConfig,
    BitConfig: transformers.BitConfig,
    ResNet: transformers.ResNetConfig,
    ViT: transformers.ViTConfig,
}


@pytest.mark.parametrize("cls", TORCH)
def test_no_option_is_ignored(cls):
    torch_class = TORCH[cls]
    if issubclass(torch_class, transformers.PretrainedConfig):
        options = set(torch_class().to_dict())
    else:
        options = set(inspect.signature(torch_class.__init__).parameters) - {"self"}
    read = {field.name for field in dataclasses.fields(cls)}
    refused = set(FIXED["vit" if cls is ViT else "resnet"]) if cls in (ResNet, ViT) else set(_SUPPORTED[cls])
    refused |= set(_BLOCK_TYPES.get(cls, ()))
    ignored = options - read - refused - FOR_TRAINING - OF_EVERY_MODEL - UNUSED[cls]
    assert not ignored
    assert not UNUSED[cls] - options, "these options are gone"
