"""Fine-tunes Stable Diffusion on your own images: `python -m gap_jax.adapt --model … --images …`.

The images are a folder with captions, and with depth where the pipeline has a ControlNet
(`gap_jax.data.image_folder`). Stopped at any moment, it goes on when the command is run again.
"""

import dataclasses
from pathlib import Path
from typing import Literal

import jax
import jax.numpy as jnp
import numpy as np
import optax
import tyro

from gap_jax import parallel
from gap_jax.data.encoding import as_arrays
from gap_jax.data.image_folder import ImageFolder
from gap_jax.data.loader import Batches, stack
from gap_jax.diffusion.align import Sampling, depth_condition
from gap_jax.diffusion.denoising_loss import denoising
from gap_jax.diffusion.pipeline import Pipeline
from gap_jax.stages.train import train
from gap_jax.weights.pipeline import load_pipeline, save_pipeline


@dataclasses.dataclass(frozen=True)
class Adapt:
    """Defaults suit Stable Diffusion 1.5."""

    model: str  # a pipeline's folder or hub id, or `small`
    images: Path  # a folder with metadata.jsonl
    work: Path = Path("runs/adapt")  # where everything goes; the result is in `pipeline`
    controlnet: str | None = None  # a ControlNet's folder or hub id
    networks: tuple[Literal["unet", "controlnet"], ...] = ("unet",)  # which are trained
    size: int = 512  # pixels along a side
    steps: int = 2000
    batch: int = 8  # images a step, over all devices
    learning_rate: float = 1e-5  # after a warm-up of 2 %
    average: float = 0.999  # decay of the moving average that is the result
    silent: float = 0.1  # share of captions left empty, which guidance needs
    dtype: str = "bfloat16"  # of computation; the weights that are trained are float32
    seed: int = 0


def main(config: Adapt) -> None:
    """Train, and write the pipeline."""
    parallel.initialize()
    pipe, params = load_pipeline(config.model, config.controlnet)
    pipe = with_dtype(pipe, config.dtype)
    source = ImageFolder(config.images, config.size)
    check(config, pipe, source)
    tokens = pipe.tokenize(["", *(line["text"] for line in source.lines)])

    def transform(example, random):
        row = 0 if random.random() < config.silent else 1 + example["index"]
        return {"tokens": tokens[row], **as_arrays(example)}

    loss = denoising(pipe)
    schedule = optax.warmup_constant_schedule(0.0, config.learning_rate, config.steps // 50 + 1)
    trained = train(
        loss,
        {name: params[name] for name in config.networks},
        optax.chain(optax.clip_by_global_norm(1.0), optax.adamw(schedule, weight_decay=1e-2)),
        Batches(_Numbered(source), transform, size=config.batch, seed=config.seed),
        steps=config.steps,
        key=jax.random.key(config.seed),
        folder=config.work / "training",
        config=settings(config),
        frozen={name: value for name, value in params.items() if name not in config.networks},
        average=config.average,
        probe=samples(pipe, params, source),
        probe_every=max(config.steps // 10, 1),
        checkpoint_every=max(config.steps // 20, 1),
    )
    if jax.process_index() == 0:
        save_pipeline(pipe, jax.device_get(params | trained), config.work / "pipeline")
        print(f"{config.work / 'pipeline'} is complete: gap_jax.load_pipeline and torch diffusers read it")


def with_dtype(pipe: Pipeline, dtype: str) -> Pipeline:
    """The pipeline with its networks computing in `dtype`."""
    names = ("text_encoder", "vae", "unet", *(["controlnet"] if pipe.controlnet else []))
    networks = {name: dataclasses.replace(getattr(pipe, name), dtype=jnp.dtype(dtype)) for name in names}
    return dataclasses.replace(pipe, **networks)


def check(config: Adapt, pipe: Pipeline, source: ImageFolder) -> None:
    """Raise ValueError for what does not go together."""
    if "controlnet" in config.networks and pipe.controlnet is None:
        raise ValueError(
            f"networks are {config.networks}, but the pipeline has no ControlNet: give controlnet"
        )
    if pipe.controlnet is not None and not source.has_depth:
        raise ValueError(f"the pipeline has a ControlNet, but {source.folder} has no depth (depth_file_name)")
    step = pipe.downscale * 2 ** (len(pipe.unet.block_out_channels) - 1)
    if config.size % step:
        raise ValueError(f"size must be a multiple of {step} pixels for this pipeline, found {config.size}")


def settings(config: Adapt) -> dict:
    """What tells one training from another, for its checkpoints."""
    return {name: str(value) for name, value in dataclasses.asdict(config).items() if name != "work"}


def samples(pipe: Pipeline, params: dict, source: ImageFolder, count: int = 4):
    """A probe that draws the first images, and below each a generated one of its caption (and depth)."""
    examples = [source[i] for i in range(min(count, len(source)))]
    batch = stack([as_arrays(example) for example in examples])
    sampling = Sampling(num_steps=15)
    context = pipe.encode_text(params, pipe.tokenize([example["text"] for example in examples]))
    uncond = pipe.encode_text(params, pipe.tokenize([""]))
    side = source.size // pipe.downscale
    noise = jax.random.normal(jax.random.key(0), (len(examples), side, side, pipe.vae.latent_channels))
    control = depth_condition(batch["depth"], batch["mask"]) if pipe.controlnet is not None else None

    def draw(trained):
        latents = pipe.denoise(
            params | trained,
            noise,
            context,
            uncond,
            num_steps=sampling.num_steps,
            guidance_scale=sampling.guidance_scale,
            control=control,
        )
        images = np.asarray(pipe.decode(params, latents))
        return {}, {
            "samples": np.concatenate([np.concatenate(list(row), 1) for row in (batch["image"], images)])
        }

    return draw


class _Numbered:
    """Examples with their number as `index`."""

    def __init__(self, source: ImageFolder):
        self.source = source

    def __len__(self) -> int:
        return len(self.source)

    def __getitem__(self, index: int) -> dict:
        return {**self.source[index], "index": index}


if __name__ == "__main__":
    main(tyro.cli(Adapt, description=__doc__))
