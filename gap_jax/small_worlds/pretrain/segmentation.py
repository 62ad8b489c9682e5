"""The pretraining of the rooms' segmentation model, on rooms of a narrow style."""

from pathlib import Path

import jax
import numpy as np

from gap_jax.models.depth_unet import DepthUNet
from gap_jax.report import pictures
from gap_jax.small_worlds import rooms
from gap_jax.small_worlds.pretrain.examples import example_arrays, image_grid
from gap_jax.small_worlds.pretrain.recipes import RoomsRecipe
from gap_jax.small_worlds.pretrain.training import Training, initialiser, to_float16
from gap_jax.tasks import segmentation
from gap_jax.weights.torch_models.segmentation import save_segmentation


def train_segmentation(training: Training, folder: Path) -> None:
    """Train and save the segmentation model, and measure it on rooms of the narrow and of all styles."""
    recipe = training.recipe
    assert isinstance(recipe, RoomsRecipe)
    model = DepthUNet(levels=3, width=8, out_channels=len(rooms.CLASSES), **training.dtypes)
    batches = training.batches(training.source("narrow", "train"), recipe.segmentation, example_arrays())
    seed, numbers = rooms.SPLITS["validation"], range(training.num_probed(128))
    held_out, colours = {}, list(pictures.CLASS_COLOURS.values())
    for config, allowed in (("narrow", rooms.NARROW), ("every", rooms.EVERY)):
        drawn = [rooms.draw_style(seed, i, allowed) for i in numbers]
        held_out[config] = rooms.render(seed, numbers, drawn).as_batch("classes")

    def loss(params, frozen, batch, keys):
        return segmentation.cross_entropy(model.apply({"params": params}, batch["image"]), batch).mean(), {}

    @jax.jit
    def predict(params, batch):
        logits = model.apply({"params": params}, batch["image"])
        return logits.argmax(-1)[..., None], segmentation.intersections_and_unions(logits, batch)

    def measure(params):
        values, grids = {}, {}
        for config, batch in held_out.items():
            classes, counts = jax.device_get(predict(params, batch))
            values[f"miou_{config}"] = segmentation.mean_iou(counts)
            shown = [
                np.stack([pictures.classes(values, colours) for values in maps[:12]]) / 255
                for maps in (batch["classes"], classes)
            ]
            grids[config] = image_grid(batch["image"][:12], *shown)
        return values, grids

    params = training.train("segmentation", recipe.segmentation, loss, initialiser(model), batches, measure)
    save_segmentation(model, to_float16(params), folder / "segmentation")
