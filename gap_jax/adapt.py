"""Fine-tune Stable Diffusion on your own images: `python -m gap_jax.adapt --model … --images …`.

The images are a folder in the layout of `gap_jax.data.image_folder`: with a caption for each image, and with
depth if the pipeline has a ControlNet. A run that was stopped goes on from its last checkpoint when the same
command is run again.
"""

import dataclasses
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

import tyro

from gap_jax.errors import exit_when_stopped, one_line_errors
from gap_jax.ranges import DISTINCT, NOT_EMPTY, Count, Positive, Seed, Share, Text, below, check_ranges

if TYPE_CHECKING:  # imported where they are used, so that --help is fast
    from gap_jax.data.batch import Example
    from gap_jax.data.image_folder import ImageFolder
    from gap_jax.diffusion.pipeline import Params, Pipeline
    from gap_jax.stages.train import Probe


@dataclasses.dataclass(frozen=True, kw_only=True)
class Adapt:
    """Settings of a fine-tuning; the defaults suit Stable Diffusion 1.5."""

    model: Text  # pipeline to start from: a folder in diffusers' layout, a hub id, or `small`
    images: Path  # folder of images with metadata.jsonl, which names captions and depth maps
    work: Path = Path("runs/adapt")  # folder of everything that is written; the result is in `pipeline`
    controlnet: Text | None = None  # ControlNet to add to the pipeline: a folder or a hub id
    # networks to train; a ControlNet is trained only if it is named here
    networks: Annotated[tuple[Literal["unet", "controlnet"], ...], NOT_EMPTY, DISTINCT] = ("unet",)
    size: Count = 512  # pixels along a side of the training images
    steps: Count = 2000  # number of updates
    batch: Count = 8  # images per update, over all devices
    learning_rate: Positive = 1e-5  # AdamW learning rate, after a warm-up of 2 % of the steps
    # decay of the moving average of the weights, which is the result
    average: Annotated[float, below(0, 1)] = 0.999
    empty_captions: Share = 0.1  # share of captions left empty, so that classifier-free guidance works
    # precision of the computation; trained weights stay float32. Gradients are too small for float16
    dtype: Literal["float32", "bfloat16"] = "bfloat16"
    seed: Seed = 0  # seed of all random numbers


def main(config: Adapt) -> None:
    """Fine-tune the networks and write the pipeline.

    Ctrl-C and SIGTERM save the current step, as in an experiment. Raises FileNotFoundError or ValueError if
    the model or the images cannot be read or do not fit together, and ValueError for a setting outside its
    range and for a folder that another process works in.
    """
    check_ranges(config)
    from gap_jax import ownership, parallel

    parallel.initialize()
    with exit_when_stopped(), ownership.only_job(config.work):
        _adapt(config)


def _adapt(config: Adapt) -> None:
    import jax
    import optax

    from gap_jax.data.encoding import as_arrays
    from gap_jax.data.image_folder import ImageFolder
    from gap_jax.data.loader import Batches
    from gap_jax.diffusion.denoising_loss import denoising
    from gap_jax.stages.train import train
    from gap_jax.weights.pipeline import load_pipeline, save_pipeline

    pipe, params = load_pipeline(config.model, config.controlnet)
    pipe = with_dtype(pipe, config.dtype)
    source = ImageFolder(config.images, config.size)
    check_fit(config, pipe, source)
    tokens = pipe.tokenize(["", *(line["text"] for line in source.lines)])

    def transform(example, random):
        row = 0 if random.random() < config.empty_captions else 1 + example["index"]
        return {"tokens": tokens[row], **as_arrays(example)}

    schedule = optax.warmup_constant_schedule(0.0, config.learning_rate, config.steps // 50 + 1)
    trained = train(
        denoising(pipe),
        {name: params[name] for name in config.networks},
        optax.chain(optax.clip_by_global_norm(1.0), optax.adamw(schedule, weight_decay=1e-2)),
        Batches(_Indexed(source), transform, size=config.batch, seed=config.seed),
        steps=config.steps,
        key=jax.random.key(config.seed),
        folder=config.work / "training",
        config=checkpoint_config(config),
        frozen={name: value for name, value in params.items() if name not in config.networks},
        average=config.average,
        probe=sample_probe(pipe, params, source),
        probe_every=max(config.steps // 10, 1),
        checkpoint_every=max(config.steps // 20, 1),
    )
    if jax.process_index() == 0:
        save_pipeline(pipe, jax.device_get(params | trained), config.work / "pipeline")
        print(f"{config.work / 'pipeline'} is complete: gap_jax.load_pipeline and torch diffusers read it")


def with_dtype(pipe: "Pipeline", dtype: str) -> "Pipeline":
    """Return the pipeline with its networks computing in `dtype`."""
    import jax.numpy as jnp

    names = ("text_encoder", "vae", "unet", *(["controlnet"] if pipe.controlnet else []))
    networks = {name: dataclasses.replace(getattr(pipe, name), dtype=jnp.dtype(dtype)) for name in names}
    return dataclasses.replace(pipe, **networks)


def check_fit(config: Adapt, pipe: "Pipeline", source: "ImageFolder") -> None:
    """Raise ValueError if the settings, the pipeline and the images do not fit together."""
    if "controlnet" in config.networks and pipe.controlnet is None:
        raise ValueError(
            f"networks name the ControlNet, but the pipeline {config.model} has no ControlNet: give one "
            "with --controlnet, or train the unet only"
        )
    if pipe.controlnet is not None and not source.has_depth:
        raise ValueError(
            f"the pipeline has a ControlNet, but the images in {source.folder} have no depth: add a "
            "depth_file_name to each line of metadata.jsonl, or start from a pipeline without ControlNet"
        )
    multiple = pipe.downscale * 2 ** (len(pipe.unet.block_out_channels) - 1)
    if config.size % multiple:
        raise ValueError(
            f"size must be a multiple of {multiple} pixels for this pipeline, found {config.size}"
        )


def checkpoint_config(config: Adapt) -> dict[str, str]:
    """Return the settings that tell one training's checkpoints from another's."""
    return {name: str(value) for name, value in dataclasses.asdict(config).items() if name != "work"}


def sample_probe(pipe: "Pipeline", params: "Params", source: "ImageFolder", count: int = 4) -> "Probe":
    """Return a probe that draws the first images above ones generated from their captions (and depth)."""
    import jax
    import jax.numpy as jnp
    import numpy as np

    from gap_jax.data.encoding import as_arrays
    from gap_jax.data.loader import stack
    from gap_jax.diffusion.align import Sampling
    from gap_jax.diffusion.conditions import depth_condition

    examples = [source[i] for i in range(min(count, len(source)))]
    batch = stack([as_arrays(example) for example in examples])
    sampling = Sampling(num_steps=15)
    context = pipe.encode_text(params, pipe.tokenize([example["text"] for example in examples]))
    uncond = pipe.encode_text(params, pipe.tokenize([""]))
    side = source.size // pipe.downscale
    noise = jax.random.normal(jax.random.key(0), (len(examples), side, side, pipe.vae.latent_channels))
    control = (
        depth_condition(*map(jnp.asarray, (batch["depth"], batch["mask"])))
        if pipe.controlnet is not None
        else None
    )

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
        rows = [np.concatenate(list(row), 1) for row in (batch["image"], images)]
        return {}, {"samples": np.concatenate(rows)}

    return draw


class _Indexed:
    """A source whose examples also have their `index`."""

    def __init__(self, source: "ImageFolder"):
        self._source = source

    def __len__(self) -> int:
        return len(self._source)

    def __getitem__(self, index: int) -> "Example":
        return {**self._source[index], "index": index}


def run(args: list[str] | None = None) -> None:
    """Run the command line; an error in the model or the images ends the program with its message."""
    with one_line_errors():
        main(tyro.cli(Adapt, args=args, prog="python -m gap_jax.adapt", description=__doc__))


if __name__ == "__main__":
    run()
