"""Trains the small world's models: `python -m gap_jax.experiments.pretrain`.

In this order: autoencoder, CLIP, UNet with ControlNet, supervised depth model, critic.
Each can be stopped at any moment and goes on when the command is run again.
"""

import dataclasses
from collections.abc import Callable, Mapping
from functools import lru_cache
from pathlib import Path
from typing import Any, Literal

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import optax
import optax.contrib
import tyro
from scipy.ndimage import zoom

from gap_jax import losses, parallel
from gap_jax.data import rooms
from gap_jax.data.generated import as_arrays
from gap_jax.data.loader import Batches, stack
from gap_jax.diffusion.align import Sampling
from gap_jax.diffusion.pipeline import Pipeline
from gap_jax.diffusion.schedule import Schedule
from gap_jax.experiments import probe
from gap_jax.experiments.pca import start_from_patches
from gap_jax.loop.train import train
from gap_jax.models.clip import Clip, CLIPModel, CLIPTextModel, CLIPVisionModel
from gap_jax.models.controlnet import ControlNet
from gap_jax.models.depth_unet import DepthUNet
from gap_jax.models.tokenizer import Tokenizer, train_tokenizer
from gap_jax.models.unet import UNet2DCondition
from gap_jax.models.vae import AutoencoderKL
from gap_jax.tasks import depth as depth_task
from gap_jax.weights.depth import save_depth
from gap_jax.weights.pipeline import CLIP_MEAN, CLIP_STD, save_clip, save_pipeline

VOCABULARY = """
a an the of in on at with and or no by to from near large small old new very room rooms house floor wall
walls ceiling window windows door box boxes ball sphere table chair corridor kitchen bedroom office indoor
outdoor interior scene view image picture photo photograph camera trap highly detailed photorealistic
realistic sharp grey gray beige red green blue yellow orange purple pink brown black white colour color
colourful plain striped stripes checkered checks texture textured pattern wood metal glass stone bright dim
dark light lights lamp sun shadow shadows clear hazy haze foggy fog thick smoke snow snowy rain rainy storm
night day evening morning dusk comic cartoon synthetic rendered animated painting sketch drawing saturated
person people humans face body parts eyes blurry blur noise noisy nature land water lake ocean river sea
beach forest bamboo grass grassy field trees tree bushes sky dirt trail twigs branches bird birds landbird
waterbird animal animals cattle elephant elephants impala impalas zebra zebras giraffe giraffes dik
background standing walking flying middle
"""
TOKENS = 32
PARTS = ("vae", "clip", "depth", "critic", "diffusion", "refine")  # each has its own random numbers
SCHEDULE = Schedule(
    beta_start=0.00085,
    beta_end=0.012,
    beta_schedule="scaled_linear",
    prediction_type="v_prediction",
    rescale_betas_zero_snr=True,
    timestep_spacing="trailing",
)


@dataclasses.dataclass(frozen=True)
class Part:
    """How long and how fast one network is trained."""

    steps: int
    batch: int  # images a step, over all devices
    learning_rate: float  # its highest; warmed up, then a cosine to 0
    optimizer: Literal["adamw", "muon"] = "adamw"


@dataclasses.dataclass(frozen=True)
class Recipe:
    """The small world's."""

    work: Path = Path("runs/pretrain")  # where everything goes
    seed: int = 0
    dtype: str = "float32"  # of computation; bfloat16 on accelerators
    few: bool = False  # only 128 rooms, to try the recipe out
    vae: Part = Part(300, 32, 4e-4)
    clip: Part = Part(900, 64, 1.5e-3)
    depth: Part = Part(500, 32, 3e-3, "muon")
    critic: Part = Part(900, 32, 3e-3, "muon")
    diffusion: Part = Part(3600, 32, 3e-3, "muon")
    refine: Part = Part(3600, 32, 1.5e-3, "muon")  # the diffusion model again, from where it ended


def main(recipe: Recipe) -> None:
    """Train what is not trained yet."""
    parallel.use_all_cores()
    parallel.initialize()
    world = World(recipe)
    vae, vae_params = train_vae(world)
    clip, clip_params = train_clip(world)
    pipe, params = train_diffusion(world, vae, vae_params, clip, clip_params)
    folder = recipe.work / "small"
    save_pipeline(pipe, _half(params), folder)
    save_clip(clip, _half(clip_params), folder / "clip")
    for name, part, styles, width, change in (
        ("depth", recipe.depth, "narrow", 8, None),
        ("critic", recipe.critic, "every", 16, _augmented),
    ):
        model = DepthUNet(levels=3, width=width)
        save_depth(model, _half(train_depth(world, name, part, model, styles, change)), folder / name)
    print(f"{folder} is complete: python -m gap_jax.experiments.probe --model {folder} --clip {folder}/clip")


def _half(params: Any) -> Any:
    """float16 on the host, for the files."""
    return jax.tree.map(lambda leaf: np.asarray(leaf, np.float16), params)


class World:
    """What every training here shares: the recipe, the rooms, the tokenizer."""

    def __init__(self, recipe: Recipe):
        self.recipe = recipe
        self.tokenizer, self.vocab_size = train_tokenizer(VOCABULARY.split(), TOKENS)
        self.dtypes = {"dtype": jnp.dtype(recipe.dtype)}
        self.key = jax.random.key(recipe.seed)

    def rooms(self, styles: str, split: str):
        from gap_jax.data.rooms_dataset import Rooms

        config = styles + ("_few" if self.recipe.few else "")
        builder = Rooms(config=config, data_dir=self.recipe.work / "data", file_format="array_record")
        builder.download_and_prepare()
        return builder.as_data_source(split)

    def tokens(self, caption: str) -> np.ndarray:
        return _tokens(self.tokenizer, self.vocab_size, caption)

    def train(self, name: str, part: Part, loss, init, batches, probe, **more: Any):
        """`train` with the part's optimiser."""
        key = jax.random.fold_in(self.key, PARTS.index(name))
        init_key, train_key = jax.random.split(key)
        config = {"seed": self.recipe.seed, "dtype": self.recipe.dtype, "few": self.recipe.few}
        config |= dataclasses.asdict(part)
        return train(
            loss,
            init(init_key),
            optimizer(part),
            batches,
            steps=part.steps,
            key=train_key,
            folder=self.recipe.work / name,
            config=config,
            average=0.999,
            probe=probe,
            probe_every=max(part.steps // 20, 1),
            checkpoint_every=max(part.steps // 40, 1),
            **more,
        )


def optimizer(part: Part) -> optax.GradientTransformation:
    """AdamW, or Muon for all matrices and convolutions and Adam for the rest; gradients clipped to norm 1.

    Muon (Jordan 2024; scaled as Liu et al., arXiv 2502.16982) took less than half of AdamW's steps to the
    same denoising loss here.
    """
    rate = optax.warmup_cosine_decay_schedule(0.0, part.learning_rate, part.steps // 50 + 1, part.steps)
    if part.optimizer == "adamw":
        rule = optax.adamw(rate, b2=0.99, weight_decay=1e-3)
    else:
        rule = optax.contrib.muon(
            rate,
            consistent_rms=0.2,
            adam_b2=0.99,
            adam_learning_rate=lambda step: 0.4 * rate(step),
            muon_weight_dimension_numbers=_matrices,
        )
    return optax.chain(optax.clip_by_global_norm(1.0), rule)


def _matrices(params: Any) -> Any:
    """Which axes of a kernel are its inputs, which its outputs; None for what is no kernel."""
    kinds = {2: ((0,), (1,)), 4: ((0, 1, 2), (3,))}
    return jax.tree.map(
        lambda leaf: optax.contrib.MuonDimensionNumbers(*kinds[leaf.ndim]) if leaf.ndim in kinds else None,
        params,
    )


@lru_cache(maxsize=4096)
def _tokens(tokenizer: Tokenizer, vocab_size: int, caption: str) -> np.ndarray:
    return tokenizer.encode([caption], length=TOKENS, vocab_size=vocab_size)[0]


def _init(module: nn.Module) -> Callable[[jax.Array], Any]:
    return lambda key: jax.jit(module.init)(key, *module.example_inputs())["params"]


def _image(example: Mapping[str, Any]) -> np.ndarray:
    return example["image"].astype(np.float32) / 255


def _style(example: Mapping[str, Any]) -> rooms.Style:
    return rooms.Style(*(words[example[axis]] for axis, words in rooms.AXES.items()))


def _caption(example: Mapping[str, Any], random: np.random.Generator, silent: float) -> str:
    """The example's caption, or nothing at all with probability `silent`.

    As people do, it rather names the unusual: words of `NARROW` half the time, others 19 times in 20.
    """
    if random.random() < silent:
        return ""
    style = _style(example)
    usual = [word in words for word, words in zip(style, rooms.NARROW.values(), strict=True)]
    return rooms.caption(style, random.random(4) < np.where(usual, 0.5, 0.95))


def _first(source, count: int) -> list[Mapping[str, Any]]:
    return [source[i] for i in range(min(count, len(source)))]


def _rows(*rows: np.ndarray) -> np.ndarray:
    """Images `[n,H,W,3]` of each row side by side, rows below each other."""
    return np.concatenate([np.concatenate(list(np.asarray(row, np.float32)), 1) for row in rows])


def train_vae(world: World) -> tuple[AutoencoderKL, Any]:
    """The encoder is a PCA of patches of the first rooms, the decoder is trained to invert it."""
    vae = AutoencoderKL(
        block_out_channels=(16, 32, 64),
        layers_per_block=1,
        latent_channels=6,
        norm_num_groups=1,
        sample_size=64,
        scaling_factor=1.0,
        **world.dtypes,
    )
    part, source = world.recipe.vae, world.rooms("every", "train")
    batches = Batches(
        source, lambda example, random: {"image": _image(example)}, size=part.batch, seed=world.recipe.seed
    )
    patches = np.stack([_image(example) for example in _first(source, 500)])
    start, explained = start_from_patches(vae, _init(vae)(world.key), patches)
    decoder = {name: start.pop(name) for name in ("decoder", "post_quant_conv")}
    held_out = np.stack([_image(example) for example in _first(world.rooms("every", "validation"), 64)])

    @jax.jit
    def reconstruct(params, images):
        latents = vae.apply({"params": start | params}, 2 * images - 1, method="encode").mean
        decoded = vae.apply({"params": start | params}, latents, method="decode")
        return jnp.clip(decoded / 2 + 0.5, 0, 1), latents.std()

    def measure(params):
        images, std = jax.device_get(reconstruct(params, held_out))
        values = {"psnr": float(probe.psnr(images, held_out).mean()), "latent_std": float(std)}
        pooled = -10 * np.log10(np.square(images - held_out).mean())
        values |= {"psnr_pooled": float(pooled), "variance_explained": explained}
        return values, {"reconstructions": _rows(held_out[:12], images[:12])}

    trained = world.train(
        "vae", part, losses.autoencoding(vae), lambda key: decoder, batches, measure, frozen=start
    )
    return vae, start | trained


def train_clip(world: World) -> tuple[Clip, Any]:
    text = CLIPTextModel(
        hidden_size=96,
        intermediate_size=384,
        num_hidden_layers=3,
        num_attention_heads=4,
        vocab_size=world.vocab_size,
        max_position_embeddings=TOKENS,
        eos_token_id=world.vocab_size - 1,
        **world.dtypes,
    )
    vision = CLIPVisionModel(
        hidden_size=128,
        intermediate_size=512,
        num_hidden_layers=4,
        num_attention_heads=4,
        image_size=64,
        patch_size=8,
        **world.dtypes,
    )
    model = CLIPModel(text, vision, projection_dim=64, **world.dtypes)
    clip = Clip(model, world.tokenizer, CLIP_MEAN, CLIP_STD)
    part = world.recipe.clip
    batches = Batches(
        world.rooms("every", "train"),
        lambda example, random: {
            "image": _image(example),
            "tokens": world.tokens(_caption(example, random, 0)),
        },
        size=part.batch,
        seed=world.recipe.seed,
    )
    held_out = _first(world.rooms("every", "validation"), 256)
    images, styles = np.stack([_image(example) for example in held_out]), [_style(e) for e in held_out]

    def measure(params):
        return probe.zero_shot(clip, params, images, styles), {}

    return clip, world.train("clip", part, losses.contrastive(clip), _init(model), batches, measure)


def _augmented(image: np.ndarray, random: np.random.Generator) -> np.ndarray:
    """Mildly: brightness, contrast, noise, and blotches as generated images have them."""
    coarse = random.normal(0, random.uniform(0, 0.05), (16, 16, 3)).astype(np.float32)
    image = image + zoom(coarse, (image.shape[0] / 16, image.shape[1] / 16, 1), order=1)
    image = (image - 0.5) * random.uniform(0.9, 1.1) + 0.5 + random.uniform(-0.05, 0.05)
    image += random.normal(0, random.uniform(0, 0.02), image.shape).astype(np.float32)
    return np.clip(image, 0, 1).astype(np.float32)


def train_depth(
    world: World, name: str, part: Part, model: DepthUNet, styles: str, change: Callable | None = None
) -> Any:
    """On rooms of `styles`; `change(image, random)` augments their images."""
    model = dataclasses.replace(model, **world.dtypes)

    def transform(example, random):
        arrays = as_arrays(example)
        return arrays | {"image": change(arrays["image"], random)} if change else arrays

    batches = Batches(world.rooms(styles, "train"), transform, size=part.batch, seed=world.recipe.seed)
    held_out = {kind: _first(world.rooms(kind, "validation"), 128) for kind in ("narrow", "every")}
    arrays = {kind: stack([as_arrays(e) for e in examples]) for kind, examples in held_out.items()}

    def loss(params, frozen, batch, keys):
        prediction = model.apply({"params": params}, batch["image"])
        return depth_task.l1(prediction, batch["depth"], batch["mask"]).mean(), {}

    @jax.jit
    def predict(params, batch):
        prediction = model.apply({"params": params}, batch["image"])
        return prediction, depth_task.l1(prediction, batch["depth"], batch["mask"])

    def measure(params):
        values, pictures = {}, {}
        for kind, batch in arrays.items():
            prediction, errors = jax.device_get(predict(params, batch))
            values[f"l1_{kind}"] = float(errors.mean())
            shown = [np.repeat(x[:12], 3, -1) for x in (batch["depth"] * batch["mask"], prediction)]
            pictures[kind] = _rows(batch["image"][:12], *shown)
        return values, pictures

    def init(key):
        params = _init(model)(key)
        lit = params["last_conv2"] | {"bias": jnp.full((1,), 0.4)}  # a ReLU that begins dead stays so
        return params | {"last_conv2": lit}

    return world.train(name, part, loss, init, batches, measure)


class WithLatents:
    """A data source with each image's scaled latents, computed once and kept in a file."""

    def __init__(self, source, pipe: Pipeline, params: Any, path: Path, chunk: int = 100):
        self.source = source
        if not path.exists():
            encode = jax.jit(lambda images: pipe.encode_image(params, images))
            parts = []
            for start in range(0, len(source), chunk):
                images = [_image(source[i]) for i in range(start, min(start + chunk, len(source)))]
                parts.append(np.asarray(encode(np.stack(images)), np.float16))
            scratch = path.with_suffix(".part.npy")
            np.save(scratch, np.concatenate(parts))
            scratch.rename(path)
        self.latents = np.load(path)

    def __len__(self) -> int:
        return len(self.source)

    def __getitem__(self, index: int) -> dict[str, Any]:
        return {**self.source[index], "latents": self.latents[index]}


def train_diffusion(world: World, vae: AutoencoderKL, vae_params: Any, clip: Clip, clip_params: Any) -> Any:
    backbone = dict(
        in_channels=vae.latent_channels,
        block_out_channels=(48, 96),
        down_block_types=("DownBlock2D", "CrossAttnDownBlock2D"),
        layers_per_block=1,
        cross_attention_dim=clip.model.text_model.hidden_size,
        attention_head_dim=4,
        norm_num_groups=8,
        **world.dtypes,
    )
    unet = UNet2DCondition(
        out_channels=vae.latent_channels,
        up_block_types=("CrossAttnUpBlock2D", "UpBlock2D"),
        sample_size=64 // vae.downscale,
        **backbone,
    )
    controlnet = ControlNet(
        conditioning_embedding_out_channels=(16, 32, 64), zero_init=nn.initializers.normal(0.02), **backbone
    )
    pipe = Pipeline(clip.model.text_model, vae, unet, controlnet, SCHEDULE, world.tokenizer)
    frozen = {"vae": vae_params, "text_encoder": clip_params["text_model"]}
    part = world.recipe.diffusion
    source = WithLatents(world.rooms("every", "train"), pipe, frozen, world.recipe.work / "latents.npy")

    def transform(example, random):
        tokens = world.tokens(_caption(example, random, silent=0.1))
        latents = example["latents"].astype(np.float32)
        return as_arrays(example) | {"latents": latents, "tokens": tokens}

    batches = Batches(source, transform, size=part.batch, seed=world.recipe.seed)
    measure = _generation_probe(pipe, frozen)

    def init(key):
        first, second = jax.random.split(key)
        return {"unet": _init(unet)(first), "controlnet": _init(controlnet)(second)}

    loss = losses.denoising(pipe, timestep_power=0.5)
    params = world.train("diffusion", part, loss, init, batches, measure, frozen=frozen)
    refine = world.recipe.refine
    params = world.train("refine", refine, loss, lambda key: params, batches, measure, frozen=frozen)
    return pipe, frozen | params


def _generation_probe(pipe: Pipeline, frozen: Any):
    """Rooms in eight styles: depth, the render, images generated in 5 and 15 steps; PSNR to the render."""
    truth = rooms.render(rooms.SPLITS["validation"], range(64), probe.EIGHT * 8)
    image = truth.image.astype(np.float32) / 255

    def measure(params):
        values, rows = {}, [np.repeat(1 - truth.depth[:16], 3, -1), image[:16]]
        for steps in (5, 15):
            sampling = Sampling(num_steps=steps, guidance_scale=2.0)
            images = probe.generated(pipe, frozen | params, truth, sampling)
            values[f"psnr_{steps}_steps"] = float(probe.psnr(images, image).mean())
            rows.append(images[:16])
        return values, {"generated": _rows(*rows)}

    return measure


if __name__ == "__main__":
    main(tyro.cli(Recipe, description=__doc__))
