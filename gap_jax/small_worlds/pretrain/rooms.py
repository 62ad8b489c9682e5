"""The pretraining of the small world of rooms.

Beside the generator, three depth models are trained: the U-Net `depth` and the DPT-hybrid `dpt`, on rooms of
a narrow style, and the U-Net `critic`, on all; and a segmentation model, by `segmentation.py`.
"""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from gap_jax.data.batch import Transform
from gap_jax.data.encoding import as_arrays
from gap_jax.data.loader import stack
from gap_jax.diffusion.align import Sampling
from gap_jax.diffusion.pipeline import Pipeline
from gap_jax.models.bit import BitConfig
from gap_jax.models.clip import Clip
from gap_jax.models.depth_unet import DepthUNet
from gap_jax.models.dpt import DPT
from gap_jax.small_worlds import rooms
from gap_jax.small_worlds.pretrain.examples import augment_image, example_arrays, first_examples, image_grid
from gap_jax.small_worlds.pretrain.recipes import RoomsRecipe, TrainingPart
from gap_jax.small_worlds.pretrain.segmentation import train_segmentation
from gap_jax.small_worlds.pretrain.training import SmallWorld, Training, initialiser, to_float16
from gap_jax.small_worlds.pretrain.vocabulary import VOCABULARY
from gap_jax.small_worlds.probe import measures
from gap_jax.small_worlds.probe import rooms as probe
from gap_jax.stages.train import Params, Probe
from gap_jax.tasks import depth as depth_task
from gap_jax.weights.depth import save_depth


def make_builder(config: str, data_dir: Path) -> Any:
    """Return the TFDS builder of the rooms."""
    from gap_jax.small_worlds.rooms.dataset import RoomsDataset

    return RoomsDataset(config=config, data_dir=data_dir, file_format="array_record")


def known_probabilities(words: Sequence[str]) -> np.ndarray:
    """Return how probably a caption names each word: people name unusual words more often.

    The probability is 0.5 for words of `NARROW` and 0.95 for others.
    """
    usual = [word in narrow for word, narrow in zip(words, rooms.NARROW.values(), strict=True)]
    return np.where(usual, 0.5, 0.95)


def sample_probe(pipe: Pipeline, frozen: Params, clip: Clip, clip_params: Params, count: int) -> Probe:
    """Return a probe that generates rooms in eight styles, in 5 and in 15 steps.

    It measures their PSNR to the renders, and draws depth, renders and generated images.
    """
    styles = [probe.SHOWN_STYLES[i % len(probe.SHOWN_STYLES)] for i in range(count)]
    truth = rooms.render(rooms.SPLITS["validation"], range(count), styles)
    image = truth.as_batch()["image"]

    def measure(params):
        values, rows = {}, [np.repeat(1 - truth.depth[:16], 3, -1), image[:16]]
        for steps in (5, 15):
            sampling = Sampling(num_steps=steps, guidance_scale=1.5)
            images = probe.generate_rooms(
                pipe, frozen | params, truth, sampling, images_per_step=min(count, 32)
            )
            values[f"psnr_{steps}_steps"] = float(measures.psnr(images, image).mean())
            rows.append(images[:16])
        return values, {"generated": image_grid(*rows)}

    return measure


def train_supervised(training: Training, folder: Path) -> None:
    """Train and save the depth models `depth`, `critic` and `dpt`, and the segmentation model.

    The parameters of `depth` and `dpt` are not averaged: an average would be less sensitive to corruptions.
    """
    recipe = training.recipe
    assert isinstance(recipe, RoomsRecipe)
    for name, part, model, styles, transform, average in (
        ("depth", recipe.depth, depth_unet(training, 8), "narrow", example_arrays(), None),
        ("critic", recipe.critic, depth_unet(training, 16), "every", example_arrays(augment_image), 0.999),
        ("dpt", recipe.dpt, depth_dpt(training), "narrow", example_arrays(), None),
    ):
        params = train_depth(training, name, part, model, styles, transform, average)
        save_depth(model, to_float16(params), folder / name)
    train_segmentation(training, folder)


def depth_unet(training: Training, width: int) -> DepthUNet:
    """Return XTC's U-Net in small."""
    return DepthUNet(levels=3, width=width, non_negative=True, **training.dtypes)


def depth_dpt(training: Training) -> DPT:
    """Return DPT-hybrid in small: 16 tokens of 96 features from a ResNet, and four transformer layers."""
    return DPT(
        image_size=64,
        hidden_size=96,
        num_hidden_layers=4,
        num_attention_heads=4,
        intermediate_size=384,
        backbone_config=BitConfig(
            embedding_size=16, hidden_sizes=(32, 64, 128), depths=(1, 1, 2), num_groups=8
        ),
        backbone_out_indices=(0, 1, 1, 3),
        neck_hidden_sizes=(32, 64, 96, 96),
        fusion_hidden_size=32,
        **training.dtypes,
    )


def train_depth(
    training: Training,
    name: str,
    part: TrainingPart,
    model: DepthUNet | DPT,
    styles: str,
    transform: Transform,
    average: float | None,
) -> Params:
    """Train a depth model on rooms of `styles`, a config of the data set: `narrow` or `every`."""
    batches = training.batches(training.source(styles, "train"), part, transform)
    probed = training.num_probed(128)
    held_out = {
        config: stack([as_arrays(e) for e in first_examples(training.source(config, "validation"), probed)])
        for config in ("narrow", "every")
    }

    def loss(params, frozen, batch, keys):
        prediction = model.apply({"params": params}, batch["image"])
        return depth_task.l1(prediction, batch["depth"], batch["mask"]).mean(), {}

    @jax.jit
    def predict(params, batch):
        prediction = model.apply({"params": params}, batch["image"])
        return prediction, depth_task.l1(prediction, batch["depth"], batch["mask"])

    def measure(params):
        values, pictures = {}, {}
        for config, batch in held_out.items():
            prediction, errors = jax.device_get(predict(params, batch))
            values[f"l1_{config}"] = float(errors.mean())
            shown = [np.repeat(x[:12], 3, -1) for x in (batch["depth"] * batch["mask"], prediction)]
            pictures[config] = image_grid(batch["image"][:12], *shown)
        return values, pictures

    def init(key):
        params = initialiser(model)(key)
        last = "last_conv2" if isinstance(model, DepthUNet) else "head.head.4"
        positive_bias = jnp.full((1,), 0.4)  # the last ReLU would never recover from an output below 0
        return params | {last: params[last] | {"bias": positive_bias}}

    return training.train(name, part, loss, init, batches, measure, average=average)


WORLD = SmallWorld(
    folder="small",
    vocabulary=VOCABULARY + " overexposed faded grainy pixelated",
    make_builder=make_builder,
    axes=rooms.AXES,
    caption=rooms.caption,
    known_probabilities=known_probabilities,
    latent_channels=16,
    condition=rooms.condition,
    sample_probe=sample_probe,
    train_supervised=train_supervised,
    probe_command="python -m gap_jax.small_worlds.probe.rooms --model {0} --clip {0}/clip --depth {0}",
)
