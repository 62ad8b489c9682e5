"""Small random models of diffusers and transformers, for `save_pretrained`."""

import json
from pathlib import Path

import diffusers
import numpy as np
import torch
import transformers

START, END = "<|startoftext|>", "<|endoftext|>"


def write_tokenizer(folder: Path, pad: str = END) -> int:
    """Write CLIP tokenizer files that know the bytes and the word `room`; return the vocabulary's size."""
    printable = [*range(ord("!"), ord("~") + 1), *range(0xA1, 0xAD), *range(0xAE, 0x100)]
    others = [byte for byte in range(256) if byte not in printable]
    letters = [chr(byte) for byte in printable] + [chr(256 + i) for i in range(len(others))]
    merges = [("r", "o"), ("ro", "o"), ("roo", "m</w>")]
    words = (
        letters + [letter + "</w>" for letter in letters] + ["".join(pair) for pair in merges] + [START, END]
    )
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "vocab.json").write_text(json.dumps({word: i for i, word in enumerate(words)}))
    (folder / "merges.txt").write_text("#version: 0.2\n" + "".join(f"{a} {b}\n" for a, b in merges))
    config = {
        "tokenizer_class": "CLIPTokenizer",
        "model_max_length": 77,
        "bos_token": START,
        "eos_token": END,
    }
    (folder / "tokenizer_config.json").write_text(json.dumps(config | {"unk_token": END, "pad_token": pad}))
    return len(words)


SHAPES = {
    # Stable Diffusion 1.5, 2.1 (v-prediction, linear projection, heads per level, gelu), 1.5-inpainting, and
    # a latent consistency model.
    "sd15": dict(unet=dict(attention_head_dim=4), text=dict(hidden_act="quick_gelu")),
    "sd21": dict(
        unet=dict(attention_head_dim=[2, 4], use_linear_projection=True, upcast_attention=True),
        text=dict(hidden_act="gelu", num_hidden_layers=3),
        scheduler=dict(prediction_type="v_prediction"),
        pad="!",
    ),
    "inpaint": dict(
        unet=dict(attention_head_dim=4, in_channels=9, sample_size=64), text=dict(hidden_act="quick_gelu")
    ),
    "lcm": dict(unet=dict(attention_head_dim=4, time_cond_proj_dim=25), text=dict(hidden_act="quick_gelu")),
}
BACKBONE = dict(
    block_out_channels=(16, 32),
    down_block_types=("CrossAttnDownBlock2D", "DownBlock2D"),
    layers_per_block=1,
    cross_attention_dim=48,
    norm_num_groups=8,
)


def randomise(module: torch.nn.Module) -> None:
    """Draw the parameters that start at 0 or 1: zero convolutions, norms and biases."""
    with torch.no_grad():
        for parameter in module.parameters():
            if parameter.eq(0).all():
                parameter.normal_(0, 0.1)
            elif parameter.eq(1).all():
                parameter.normal_(1, 0.1)


def torch_pipeline(kind: str, scratch: Path, channel_order: str = "rgb"):
    """Return a torch pipeline of a kind in SHAPES, with a ControlNet unless it inpaints."""
    shape = SHAPES[kind]
    torch.manual_seed(0)
    vocab_size = write_tokenizer(scratch, shape.get("pad", END))
    text = transformers.CLIPTextConfig(
        vocab_size=vocab_size,
        hidden_size=48,
        intermediate_size=96,
        num_attention_heads=4,
        bos_token_id=vocab_size - 2,
        eos_token_id=vocab_size - 1,
        **({"num_hidden_layers": 2} | shape["text"]),
    )
    unet = diffusers.UNet2DConditionModel(
        up_block_types=("UpBlock2D", "CrossAttnUpBlock2D"), **(BACKBONE | shape["unet"])
    )
    vae = diffusers.AutoencoderKL(
        block_out_channels=(8, 16, 16),
        down_block_types=("DownEncoderBlock2D",) * 3,
        up_block_types=("UpDecoderBlock2D",) * 3,
        layers_per_block=1,
        norm_num_groups=8,
    )
    scheduler = diffusers.DDIMScheduler(
        beta_start=0.00085,
        beta_end=0.012,
        beta_schedule="scaled_linear",
        steps_offset=1,
        set_alpha_to_one=False,
        clip_sample=False,
        **shape.get("scheduler", {}),
    )
    components = dict(
        text_encoder=transformers.CLIPTextModel(text),
        unet=unet,
        vae=vae,
        scheduler=scheduler,
        tokenizer=transformers.CLIPTokenizer.from_pretrained(scratch),
        safety_checker=None,
        feature_extractor=None,
        requires_safety_checker=False,
    )
    if kind == "inpaint":
        pipe = diffusers.StableDiffusionInpaintPipeline(**components)
    else:
        backbone = {name: v for name, v in (BACKBONE | shape["unet"]).items() if name != "time_cond_proj_dim"}
        controlnet = diffusers.ControlNetModel(
            conditioning_embedding_out_channels=(8, 8, 16),
            controlnet_conditioning_channel_order=channel_order,
            **backbone,
        )
        pipe = diffusers.StableDiffusionControlNetPipeline(controlnet=controlnet, **components)
    pipe.set_progress_bar_config(disable=True)
    for name in ("text_encoder", "unet", "vae", "controlnet"):
        if hasattr(pipe, name):
            randomise(getattr(pipe, name).eval().requires_grad_(False))
    return pipe


def torch_clip(folder: Path) -> transformers.CLIPModel:
    """Return a small random `CLIPModel`, and save it to `folder` with its tokenizer."""
    torch.manual_seed(1)
    vocab_size = write_tokenizer(folder)
    text = dict(hidden_size=32, intermediate_size=64, num_hidden_layers=2, num_attention_heads=4)
    text |= dict(vocab_size=vocab_size, bos_token_id=vocab_size - 2, eos_token_id=vocab_size - 1)
    vision = dict(hidden_size=48, intermediate_size=96, num_hidden_layers=2, num_attention_heads=4)
    vision |= dict(image_size=56, patch_size=14)
    config = transformers.CLIPConfig(text_config=text, vision_config=vision, projection_dim=24)
    clip = transformers.CLIPModel(config).eval().requires_grad_(False)
    randomise(clip)
    clip.save_pretrained(folder)
    return clip


def nchw(array) -> torch.Tensor:
    return torch.from_numpy(np.ascontiguousarray(np.moveaxis(np.asarray(array), -1, 1)))


def nhwc(tensor: torch.Tensor) -> np.ndarray:
    return np.moveaxis(tensor.detach().numpy(), 1, -1)


def relative_error(ours, theirs) -> float:
    """Return the norm of the difference, divided by the norm of the reference."""
    ours, theirs = np.asarray(ours, np.float64), np.asarray(theirs, np.float64)
    assert ours.shape == theirs.shape
    return float(np.linalg.norm(ours - theirs) / np.linalg.norm(theirs))
