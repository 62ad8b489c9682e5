"""Classification as a task of the closed loop: losses, metrics, inpainting, pictures, baseline arms."""

from collections.abc import Callable, Mapping, Sequence
from functools import partial
from typing import Any, Literal

import jax
import jax.numpy as jnp
import numpy as np

from gap_jax.closed_loop.world import Pictures, Task, TrainingData
from gap_jax.data import augment
from gap_jax.data.batch import Batch, HostBatch
from gap_jax.data.loader import Source, Subset
from gap_jax.diffusion.align import inpaint
from gap_jax.models.network import Network
from gap_jax.models.parameters import all_parameters, batch_norm_statistics, freeze, statistics_loss
from gap_jax.models.torch_modules.module import TorchModule, as_network
from gap_jax.report import pictures
from gap_jax.stages.classifier_tuning import last_layer
from gap_jax.tasks import classification, classification_metrics
from gap_jax.tasks.metric import ImageLoss, Metric, MetricStyle
from gap_jax.weights.classifier import load_classifier, save_classifier

MOST_NAMED_CLASSES = 20  # a report names all classes up to this number


def _is_correct(logits: jax.Array, batch: Batch) -> jax.Array:
    return (logits.argmax(-1) == batch["label"]).astype(jnp.float32)


def _logits_and_label(logits: jax.Array, batch: Batch) -> jax.Array:
    return jnp.concatenate([logits, batch["label"][:, None].astype(logits.dtype)], -1)


def _over_set(metric: Callable[[np.ndarray, np.ndarray], float]) -> Callable[[np.ndarray], float]:
    """Return a metric of logits and labels as a function of the rows of `_logits_and_label`."""
    return lambda rows: metric(rows[:, :-1], rows[:, -1].astype(int))


METRICS = {
    "accuracy": Metric(MetricStyle("Accuracy", "in %", 100, True), _is_correct),
    "macro_f1": Metric(
        MetricStyle("Macro F1", "in %", 100, True),
        _logits_and_label,
        _over_set(classification_metrics.macro_f1),
    ),
    "macro_recall": Metric(
        MetricStyle("Balanced accuracy", "in %", 100, True),
        _logits_and_label,
        _over_set(classification_metrics.macro_recall),
    ),
    "calibration": Metric(
        MetricStyle("Calibration error", "in %", 100),
        _logits_and_label,
        _over_set(classification_metrics.calibration_error),
    ),
}


def classification_task(
    classes: Sequence[str],
    adversarial: ImageLoss,
    metrics: Sequence[str],
    *,
    paste: bool,
    weights: np.ndarray | None = None,
    negative_prompt: str | None = classification.NEGATIVE_PROMPT,
) -> Task:
    """Return the task of classifying the foreground that masks keep, while everything else is inpainted.

    - `classes`: K names, in the order of labels.
    - `adversarial`: the loss that adversarial prompts minimise, such as `uniform_cross_entropy` of
      `tasks.classification`.
    - `metrics`: names in `METRICS`, besides the accuracy, which is the main metric.
    - `paste`: True to put the original's kept pixels back, exactly, while prompts are optimised, too; in
      images that are trained on, they always are. See `inpaint`.
    - `weights`: float `[K]`, each class's weight in fine-tuning; None: 1.
    """
    count = len(classes)
    named = ", ".join(classes) if count <= MOST_NAMED_CLASSES else f"all {count} classes"
    loss = classification.weighted_cross_entropy(np.ones(count) if weights is None else weights)

    def draw_prediction(logits: np.ndarray, label: HostBatch) -> tuple[np.ndarray]:
        size = label["image"].shape[0]
        return (pictures.bars(np.asarray(jax.nn.softmax(logits)), int(label["label"]), size),)

    return Task(
        align=lambda strength: inpaint(strength, paste),
        generation_align=lambda strength: inpaint(strength, paste=True),
        adversarial=adversarial,
        loss=classification.cut_mix_loss(loss),
        metrics={name: METRICS[name] for name in ("accuracy", *metrics)},
        check=lambda batch: classification.check_labels(batch["label"], count),
        constant=lambda source: classification.class_frequencies(source, count),
        pictures=Pictures(
            name="masked animal",
            label=lambda label: pictures.foreground(label["image"], label["keep"]),
            prediction=draw_prediction,
            note=f"Bars are the probabilities of {named}, from the top; the label’s is blue.",
        ),
        negative_prompt=negative_prompt,
        classes=tuple(classes),
    )


def cropped_rows(crop: tuple[int, int, int], height: int) -> slice:
    """Return the rows of an image of this height that a crop leaves.

    `crop` is the first row, the number of rows, and the height of the image that these are meant for; other
    heights are cut in proportion, and rounded down, as in the code of the paper's authors.
    """
    top, count, of = crop
    first = top * height // of
    return slice(first, first + count * height // of)


def classifier(
    model: str,
    size: int,
    trained: Literal["everything", "last layer"] = "everything",
    crop: tuple[int, int, int] | None = None,
    batch_norm: Literal["training", "evaluation"] = "evaluation",
    **options: Any,
) -> Network:
    """Load a classifier that takes images of any size.

    - `size`: the side to which images are resized, in pixels.
    - `trained`: the part that fine-tuning may change; `everything` leaves out the parameters of a torch
      module that require no gradient.
    - `crop`: the part of an image's height that the classifier sees, as in `cropped_rows`; None: all of it.
    - `batch_norm`: its mode in fine-tuning. `training` normalises a batch by its own statistics, which move
      the running ones, whatever `trained` says; in `evaluation`, the running statistics never change.
    - `options`: further arguments of `load_classifier`.
    """
    module, params = load_classifier(model, size=size, **options)

    def seen(images: jax.Array) -> jax.Array:
        if crop is not None:
            images = images[:, cropped_rows(crop, images.shape[1])]
        shape = (len(images), size, size, images.shape[-1])
        return images if images.shape == shape else jax.image.resize(images, shape, "bilinear")

    if isinstance(module, TorchModule):
        mask = module.last_layer if trained == "last layer" else module.trainable
        network = as_network(module, params, mask, batch_norm == "training", seen)
        return network._replace(save=partial(save_classifier, module))
    trainable = last_layer if trained == "last layer" else all_parameters

    def predict(params: Any, images: jax.Array) -> jax.Array:
        return module.apply({"params": params}, seen(images))

    def training(params: Any, images: jax.Array, keys: jax.Array) -> tuple[jax.Array, jax.Array]:
        frozen = freeze(params, without_statistics)
        logits, updated = module.apply({"params": frozen}, seen(images), train=True, mutable="params")
        return logits, statistics_loss(params, updated["params"])

    def without_statistics(params: Any) -> Any:
        return jax.tree.map(
            lambda trained, statistic: trained and not statistic,
            trainable(params),
            batch_norm_statistics(params),
        )

    return Network(
        predict,
        params,
        without_statistics,
        training if batch_norm == "training" else None,
        save=partial(save_classifier, module),
    )


def baselines(
    original: Source, grouped: Source, field: str, kept: np.ndarray
) -> Mapping[str, Callable[[], TrainingData]]:
    """Return the training data of the arms that change the original images instead of generating new ones.

    - `grouped`: the original examples with the integer `field` that the arm "balanced" samples evenly.
    - `kept`: bool `[n]`, whether each example has a foreground to paste.
    """

    def augmented(change: Callable[[np.ndarray, np.random.Generator], np.ndarray]) -> TrainingData:
        return TrainingData(
            original=original,
            transform=lambda example, random: {**example, "image": change(example["image"], random)},
        )

    return {
        "balanced": lambda: TrainingData(original=augment.Balanced(grouped, field)),
        "randaugment": lambda: augmented(augment.rand_augment),
        "augmix": lambda: augmented(augment.aug_mix),
        "cutmix": lambda: TrainingData(original=original, transform=augment.cut_mix(original)),
        "copy-paste": lambda: TrainingData(
            original=original, added=augment.CopyPaste(Subset(original, np.flatnonzero(kept)))
        ),
    }
