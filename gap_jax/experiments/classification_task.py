"""What the closed loop is told of classification: losses, metrics, inpainting, pictures, simple baselines."""

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from gap_jax.closed_loop.world import Arrays, Baseline, Losses, Network, Pictures, Task
from gap_jax.data import augment
from gap_jax.data.loader import Source, Subset
from gap_jax.diffusion.align import inpaint
from gap_jax.report import pictures
from gap_jax.report.results import Metric
from gap_jax.stages.classifier_tuning import Mask, everything, statistics
from gap_jax.stages.evaluate import Measure
from gap_jax.tasks import classification as classify
from gap_jax.tasks import classification_metrics as over_all
from gap_jax.tasks.classification import frequencies
from gap_jax.weights.classifier import load_classifier

HIDDEN = 0.5  # the grey of what may change, in pictures of what is kept
NAMED = 20  # classes, at most, whose names the report lists


def _right(logits: jax.Array, batch: Arrays) -> jax.Array:
    return (logits.argmax(-1) == batch["label"]).astype(jnp.float32)


def _with_labels(logits: jax.Array, batch: Arrays) -> jax.Array:
    return jnp.concatenate([logits, batch["label"][:, None].astype(logits.dtype)], -1)


def _of_set(metric: Callable[[np.ndarray, np.ndarray], float]) -> Callable[[np.ndarray], float]:
    return lambda rows: metric(rows[:, :-1], rows[:, -1].astype(int))


METRICS = {
    "accuracy": Measure(Metric("Accuracy", "in %", 100, True), _right),
    "macro_f1": Measure(Metric("Macro F1", "in %", 100, True), _with_labels, _of_set(over_all.macro_f1)),
    "macro_recall": Measure(
        Metric("Balanced accuracy", "in %", 100, True), _with_labels, _of_set(over_all.macro_recall)
    ),
    "calibration": Measure(
        Metric("Calibration error", "in %", 100), _with_labels, _of_set(over_all.calibration_error)
    ),
}


def classes_task(
    classes: Sequence[str],
    adversarial: Losses,
    metrics: Sequence[str],
    *,
    paste: bool,
    weights: np.ndarray | None = None,
    negative_prompt: str = classify.NEGATIVE_PROMPT,
) -> Task:
    """Classification of the foreground that masks keep, all else being inpainted.

    `metrics` of `METRICS`, besides the accuracy; `weights` `[K]` of the classes in fine-tuning; `paste` as in
    `inpaint`.
    """
    count = len(classes)
    named = ", ".join(classes) if count <= NAMED else f"all {count} classes"

    def prediction(logits: np.ndarray, label: Arrays) -> tuple[np.ndarray]:
        size = label["image"].shape[0]
        return (pictures.bars(np.asarray(jax.nn.softmax(logits)), int(label["label"]), size),)

    return Task(
        align=lambda strength: inpaint(strength, paste),
        adversarial=adversarial,
        loss=augment.mixed(classify.class_weighted(np.ones(count) if weights is None else weights)),
        metrics={name: METRICS[name] for name in ("accuracy", *metrics)},
        check=lambda batch: classify.check_labels(batch["label"], count),
        constant=lambda source: frequencies(source, count),
        pictures=Pictures(
            "masked animal",
            lambda label: np.where(label["keep"], label["image"], np.float32(HIDDEN)),
            prediction,
            note=f"Bars are the probabilities of {named}, from the top; the label’s is blue.",
        ),
        negative_prompt=negative_prompt,
        classes=tuple(classes),
    )


def classifier(
    model: str,
    size: int,
    trained: Mask = everything,
    rows: tuple[float, float] = (0.0, 1.0),
    **options: Any,
) -> Network:
    """A classifier for images of any size; of its parameters, those of `trained` are fine-tuned.

    It sees them from and to these shares of their height, at `size` pixels. Batch norm stays in evaluation
    mode, and its statistics as they are. `options` are those of `load_classifier`.
    """
    module, params = load_classifier(model, **options)

    def predict(params: Any, images: jax.Array) -> jax.Array:
        top, bottom = (round(share * images.shape[1]) for share in rows)
        images = images[:, top:bottom]
        shape = (len(images), size, size, images.shape[-1])
        if images.shape != shape:
            images = jax.image.resize(images, shape, "bilinear")
        return module.apply({"params": params}, images)

    def moving(params: Any) -> Any:
        return jax.tree.map(lambda on, still: on and not still, trained(params), statistics(params))

    return Network(predict, params, moving)


def baselines(
    original: Source, grouped: Source, field: str, kept: np.ndarray
) -> Mapping[str, Callable[[], Baseline]]:
    """Arms without a generator; `grouped`: the same examples with the integer `field` that is balanced.

    `kept`: bool for each example, whether it has a foreground.
    """

    def changed(change: Callable[[np.ndarray, np.random.Generator], np.ndarray]) -> Baseline:
        return Baseline(
            original, transform=lambda example, random: {**example, "image": change(example["image"], random)}
        )

    return {
        "balanced": lambda: Baseline(augment.Balanced(grouped, field)),
        "randaugment": lambda: changed(augment.rand_augment),
        "augmix": lambda: changed(augment.aug_mix),
        "cutmix": lambda: Baseline(original, transform=augment.cut_mix(original)),
        "copy-paste": lambda: Baseline(original, augment.CopyPaste(Subset(original, np.flatnonzero(kept)))),
    }
