"""The autoencoder, CLIP and diffusion model of a small world, trained from nothing."""

import io
from pathlib import Path
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np

from gap_jax.data.encoding import as_arrays
from gap_jax.data.loader import Source
from gap_jax.diffusion.align import see_depth
from gap_jax.diffusion.denoising_loss import denoising
from gap_jax.diffusion.pipeline import Pipeline
from gap_jax.diffusion.schedule import Schedule
from gap_jax.files import write_whole
from gap_jax.models.clip import Clip, CLIPModel, CLIPTextModel, CLIPVisionModel
from gap_jax.models.controlnet import ControlNet
from gap_jax.models.unet import UNet2DCondition
from gap_jax.models.vae import AutoencoderKL
from gap_jax.small_worlds.pretrain.examples import first_examples, float_image, image_grid
from gap_jax.small_worlds.pretrain.losses import autoencoder_loss, contrastive_loss
from gap_jax.small_worlds.pretrain.pca import start_from_patches
from gap_jax.small_worlds.pretrain.training import TOKENS, Training, initialiser
from gap_jax.small_worlds.probe import measures
from gap_jax.stages.train import Params
from gap_jax.weights.pipeline import CLIP_MEAN, CLIP_STD

SCHEDULE = Schedule(
    beta_start=0.00085,
    beta_end=0.012,
    beta_schedule="scaled_linear",
    prediction_type="v_prediction",
    rescale_betas_zero_snr=True,
    timestep_spacing="trailing",
)


def train_vae(training: Training) -> tuple[AutoencoderKL, Params]:
    """Train the autoencoder: its encoder is a PCA of patches of pictures, its decoder learns to invert it."""
    vae = AutoencoderKL(
        block_out_channels=(16, 32, 64),
        layers_per_block=1,
        latent_channels=training.world.latent_channels,
        norm_num_groups=1,
        sample_size=64,
        scaling_factor=1.0,
        **training.dtypes,
    )
    part, source = training.recipe.vae, training.source("every", "train")
    batches = training.batches(source, part, lambda example, random: {"image": float_image(example)})
    pca_images = np.stack([float_image(example) for example in first_examples(source, 500)])
    encoder, explained = start_from_patches(vae, initialiser(vae)(training.key), pca_images)
    decoder = {name: encoder.pop(name) for name in ("decoder", "post_quant_conv")}
    probed = first_examples(training.source("every", "validation"), training.num_probed(64))
    held_out = np.stack([float_image(example) for example in probed])

    @jax.jit
    def reconstruct(params, images):
        latents = vae.apply({"params": encoder | params}, 2 * images - 1, method="encode").mean
        decoded = vae.apply({"params": encoder | params}, latents, method="decode")
        return jnp.clip(decoded / 2 + 0.5, 0, 1), latents.std()

    def measure(params):
        images, std = jax.device_get(reconstruct(params, held_out))
        values = {"psnr": float(measures.psnr(images, held_out).mean()), "latent_std": float(std)}
        pooled = -10 * np.log10(np.square(images - held_out).mean())
        values |= {"psnr_pooled": float(pooled), "variance_explained": explained}
        return values, {"reconstructions": image_grid(held_out[:12], images[:12])}

    loss = autoencoder_loss(vae)
    trained = training.train("vae", part, loss, lambda key: decoder, batches, measure, frozen=encoder)
    return vae, encoder | trained


def train_clip(training: Training) -> tuple[Clip, Params]:
    """Train CLIP on images and captions that leave some words out."""
    text = CLIPTextModel(
        hidden_size=96,
        intermediate_size=384,
        num_hidden_layers=3,
        num_attention_heads=4,
        vocab_size=training.vocab_size,
        max_position_embeddings=TOKENS,
        eos_token_id=training.vocab_size - 1,
        **training.dtypes,
    )
    vision = CLIPVisionModel(
        hidden_size=128,
        intermediate_size=512,
        num_hidden_layers=4,
        num_attention_heads=4,
        image_size=64,
        patch_size=8,
        **training.dtypes,
    )
    model = CLIPModel(text, vision, projection_dim=64, **training.dtypes)
    clip = Clip(model, training.tokenizer, CLIP_MEAN, CLIP_STD)
    part, world = training.recipe.clip, training.world
    batches = training.batches(
        training.source("every", "train"),
        part,
        lambda example, random: {
            "image": float_image(example),
            "tokens": training.tokens(training.caption(example, random)),
        },
    )
    held_out = first_examples(training.source("every", "validation"), training.num_probed(256))
    images, words = np.stack([float_image(e) for e in held_out]), [training.words(e) for e in held_out]

    def measure(params):
        return measures.zero_shot_accuracy(clip, params, images, words, world.axes, world.caption), {}

    return clip, training.train("clip", part, contrastive_loss(clip), initialiser(model), batches, measure)


class LatentSource:
    """A data source with the `latents` of each image, float16 `[h,w,C]`, computed once and kept in a file."""

    def __init__(self, source: Source, pipe: Pipeline, params: Params, path: Path, chunk: int = 100):
        self.source = source
        if not path.exists():
            encode = jax.jit(lambda images: pipe.encode_image(params, images))
            chunks = []
            for start in range(0, len(source), chunk):
                images = [float_image(source[i]) for i in range(start, min(start + chunk, len(source)))]
                chunks.append(np.asarray(encode(np.stack(images)), np.float16))
            content = io.BytesIO()
            np.save(content, np.concatenate(chunks))
            write_whole(path, content.getvalue())
        self.latents = np.load(path)

    def __len__(self) -> int:
        return len(self.source)

    def __getitem__(self, index: int) -> dict[str, Any]:
        return {**self.source[index], "latents": self.latents[index]}


def train_diffusion(
    training: Training, vae: AutoencoderKL, vae_params: Params, clip: Clip, clip_params: Params
) -> tuple[Pipeline, Params]:
    """Train the UNet, with a ControlNet if the world has one, in three parts: diffusion, refine and polish.

    Each part starts from the weights that the one before ended with.
    """
    backbone: dict[str, Any] = dict(
        in_channels=vae.latent_channels,
        block_out_channels=(48, 96),
        down_block_types=("DownBlock2D", "CrossAttnDownBlock2D"),
        layers_per_block=1,
        cross_attention_dim=clip.model.text_model.hidden_size,
        attention_head_dim=4,
        norm_num_groups=8,
        **training.dtypes,
    )
    unet = UNet2DCondition(
        out_channels=vae.latent_channels,
        up_block_types=("CrossAttnUpBlock2D", "UpBlock2D"),
        sample_size=64 // vae.downscale,
        **backbone,
    )
    networks: dict[str, nn.Module] = {"unet": unet}
    controlnet = None
    if training.world.condition is not None:
        controlnet = ControlNet(
            conditioning_embedding_out_channels=(16, 32, 64),
            zero_init=nn.initializers.normal(0.02),
            **backbone,
        )
        networks["controlnet"] = controlnet
    pipe = Pipeline(clip.model.text_model, vae, unet, controlnet, SCHEDULE, training.tokenizer)
    frozen = {"vae": vae_params, "text_encoder": clip_params["text_model"]}
    recipe = training.recipe
    source = LatentSource(training.source("every", "train"), pipe, frozen, recipe.work / "latents.npy")

    def transform(example, random):
        tokens = training.tokens(training.caption(example, random, empty=0.1))
        latents = example["latents"].astype(np.float32)
        return as_arrays(example) | {"latents": latents, "tokens": tokens}

    measure = training.world.sample_probe(pipe, frozen, clip, clip_params, training.num_probed(64))

    def start(key):
        keys = jax.random.split(key)
        return {
            name: initialiser(network)(key)
            for key, (name, network) in zip(keys, networks.items(), strict=False)
        }

    loss = denoising(pipe, timestep_power=0.5, condition=training.world.condition or see_depth)

    def train(name, start):
        part = getattr(recipe, name)
        batches = training.batches(source, part, transform)
        return training.train(name, part, loss, start, batches, measure, frozen=frozen)

    params = train("diffusion", start)
    for name in ("refine", "polish"):
        params = train(name, lambda key, params=params: params)
    return pipe, frozen | params
