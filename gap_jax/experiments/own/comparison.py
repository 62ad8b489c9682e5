"""The comparison of one's own model with no model at all, before an experiment begins."""

import warnings

import jax
import numpy as np

from gap_jax.closed_loop.run import predict_constant
from gap_jax.closed_loop.world import MODEL, World
from gap_jax.data.loader import Subset
from gap_jax.stages.evaluate import CLEAN, evaluate

_IMAGES = 32  # validation images that the model is compared on
_LABELS = 256  # training labels that the constant prediction is made of


def compare_with_constant(world: World) -> None:
    """Print the model's main metric on clean images, and that of the best prediction that ignores the image.

    The images are the first 32 of the first validation set. Warn if the model is no better: then it expects
    other units, classes or images than it gets, and every image is adversarial to it. Raise ValueError if
    its metric is no finite number.
    """
    model, task, original = world.models.model, world.task, world.data.original
    clean = next(iter(world.data.validation.values()))
    batch = {name: values[:_IMAGES] for name, values in clean.items()}
    rows = np.linspace(0, len(original) - 1, min(_LABELS, len(original))).astype(int)
    constant = task.constant(Subset(original, rows))
    name, metric = next(iter(task.metrics.items()))
    score, ignorant = (
        evaluate(predict, {MODEL: params}, [(CLEAN, batch)], task.metrics)[MODEL][CLEAN][name]
        for predict, params in ((model.predict, model.params), (predict_constant, constant))
    )
    style = metric.style
    if not np.isfinite(score):
        raise ValueError(
            f"the model has {style.name} {score} on clean validation images, which must be a finite number: "
            "look at what it predicts, and correct its weights or its normalisation"
        )
    if jax.process_index() > 0:
        return
    found, wanted = (f"{style.scale * value:.2f}" for value in (score, ignorant))
    compared = (
        f"{style.name} {style.unit} on {len(batch['image'])} clean validation images: the model has {found}, "
        f"the best prediction that ignores the image {wanted}"
    )
    if score > ignorant if style.higher_is_better else score < ignorant:
        print(compared)
        return
    warnings.warn(
        f"{compared}. Check that the model predicts what the labels hold (depth from 0 to 1, at the value "
        "far; classes in the order of --classes), that --size is the side of the images that it was trained "
        "on, and that images are normalised as in its training",
        stacklevel=2,
    )
