"""The small world of rooms: how its models are pretrained, and what is trained beside the generator.

That is a supervised depth model, of one narrow style, and a critic that knows all of them.
"""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from gap_jax.data.encoding import as_arrays
from gap_jax.data.loader import stack
from gap_jax.diffusion.align import Sampling
from gap_jax.diffusion.pipeline import Pipeline
from gap_jax.models.clip import Clip
from gap_jax.models.depth_unet import DepthUNet
from gap_jax.small_worlds import rooms
from gap_jax.small_worlds.pretrain import parts
from gap_jax.small_worlds.pretrain.parts import (
    SmallWorld,
    Training,
    Transform,
    augmented,
    first,
    grid,
    half,
    with_labels,
)
from gap_jax.small_worlds.pretrain.recipes import TrainingPart
from gap_jax.small_worlds.pretrain.vocabulary import VOCABULARY
from gap_jax.small_worlds.probe import measures
from gap_jax.small_worlds.probe import rooms as probe
from gap_jax.stages.train import Params, Probe
from gap_jax.tasks import depth as depth_task
from gap_jax.weights.depth import save_depth


def builder(**options: Any):
    from gap_jax.small_worlds.rooms.dataset import RoomsDataset

    return RoomsDataset(**options)


def said(words: Sequence[str]) -> np.ndarray:
    """As people do, captions rather name the unusual: words of `NARROW` half the time, others 19 in 20."""
    usual = [word in narrow for word, narrow in zip(words, rooms.NARROW.values(), strict=True)]
    return np.where(usual, 0.5, 0.95)


def samples(pipe: Pipeline, frozen: Params, clip: Clip, clip_params: Params) -> Probe:
    """Rooms in eight styles: depth, the render, images generated in 5 and 15 steps; PSNR to the render."""
    truth = rooms.render(rooms.SPLITS["validation"], range(64), probe.EIGHT * 8)
    image = truth.as_batch()["image"]

    def measure(params):
        values, rows = {}, [np.repeat(1 - truth.depth[:16], 3, -1), image[:16]]
        for steps in (5, 15):
            sampling = Sampling(num_steps=steps, guidance_scale=1.5)
            images = probe.generated(pipe, frozen | params, truth, sampling)
            values[f"psnr_{steps}_steps"] = float(measures.psnr(images, image).mean())
            rows.append(images[:16])
        return values, {"generated": grid(*rows)}

    return measure


def supervised(training: Training, folder: Path) -> None:
    """The depth model `depth` and its `critic`."""
    recipe = training.recipe
    for name, part, styles, width, transform in (
        ("depth", recipe.depth, "narrow", 8, with_labels()),
        ("critic", recipe.critic, "every", 16, with_labels(augmented)),
    ):
        model = DepthUNet(levels=3, width=width, **training.dtypes)
        save_depth(model, half(train_depth(training, name, part, model, styles, transform)), folder / name)


def train_depth(
    training: Training, name: str, part: TrainingPart, model: DepthUNet, styles: str, transform: Transform
) -> Params:
    """On rooms of `styles`."""
    batches = training.batches(training.source(styles, "train"), part, transform)
    held_out = {kind: first(training.source(kind, "validation"), 128) for kind in ("narrow", "every")}
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
            pictures[kind] = grid(batch["image"][:12], *shown)
        return values, pictures

    def init(key):
        params = parts.init(model)(key)
        lit = params["last_conv2"] | {"bias": jnp.full((1,), 0.4)}  # a ReLU that begins dead stays so
        return params | {"last_conv2": lit}

    return training.train(name, part, loss, init, batches, measure)


WORLD = SmallWorld(
    folder="small",
    vocabulary=VOCABULARY,
    builder=builder,
    axes=rooms.AXES,
    caption=rooms.caption,
    said=said,
    controlled=True,
    samples=samples,
    supervised=supervised,
    probe="python -m gap_jax.small_worlds.probe.rooms --model {0} --clip {0}/clip --depth {0}",
)
