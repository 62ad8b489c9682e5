"""Depth estimation as a task of the closed loop: losses, metrics, alignment and pictures."""

from collections.abc import Callable, Sequence
from functools import partial
from typing import Any

import jax
import numpy as np

from gap_jax.closed_loop.world import Pictures, Task
from gap_jax.data.batch import Batch, HostBatch
from gap_jax.diffusion.align import Condition, controlnet, see_depth
from gap_jax.report import pictures
from gap_jax.report.results import Legend
from gap_jax.tasks import depth
from gap_jax.tasks.metric import Metric, MetricStyle

Measure = Callable[..., jax.Array]  # (prediction, depth, mask) -> [B]
STYLES = {
    "l1": MetricStyle("L1", "×100", 100),
    "ssi_mae": MetricStyle("SSI-MAE", "×10", 10),
    "absrel": MetricStyle("AbsRel", "×100", 100),
    "delta1": MetricStyle("δ < 1.25", "in % of pixels", 100, True),
    "midas": MetricStyle("MiDaS loss", "×10", 10),
    "authors_midas": MetricStyle("Authors’ MiDaS loss", "×10", 10),
    "omnidata_midas": MetricStyle("Omnidata’s MiDaS loss", "×10", 10),
}
MEASURES: dict[str, Measure] = {
    "l1": depth.l1,
    "ssi_mae": depth.ssi_mae,
    "absrel": depth.absrel,
    "delta1": depth.delta1,
    "midas": depth.midas,
}
OMNIDATA_WEIGHTS = {"authors_midas": 0.0, "omnidata_midas": 0.1}  # weights of the gradient matching term
ADVERSARIAL = {"l1": depth.negative_l1, "midas": depth.negative_ssi_mae}  # by the fine-tuning loss


def _draw_prediction(prediction: np.ndarray, label: HostBatch) -> tuple[np.ndarray, np.ndarray]:
    resized = resize_labels({name: array[None] for name, array in label.items()}, prediction.shape[:2])
    error = pictures.error(prediction, resized["depth"][0], resized["mask"][0])
    return pictures.depth(prediction), error


PICTURES = Pictures(
    name="depth map",
    label=lambda label: pictures.depth(label["depth"], label["mask"]),
    prediction=_draw_prediction,
    legends={
        "label": Legend("near", "far", tuple(pictures.gradient("depth"))),
        "error": Legend("0", str(pictures.LARGEST_ERROR), tuple(pictures.gradient("error"))),
    },
    note="Grey pixels of depth maps have no label; errors are shares of depth’s range.",
)


def depth_task(loss: str = "l1", negative_prompt: str | None = "", condition: Condition = see_depth) -> Task:
    """Return the task of depth estimation.

    `loss` is the paper's fine-tuning loss, which is also the main metric: `l1` for the U-Net, `midas` for
    DPT. Labels are resized to the size of predictions. The ControlNet sees `condition(batch)`.
    """
    adversarial, names = ADVERSARIAL[loss], sorted(MEASURES, key=lambda name: name != loss)

    def of_batch(measure: Measure) -> Callable[[jax.Array, Batch], jax.Array]:
        return lambda prediction, batch: measure(prediction, **resize_labels(batch, prediction.shape[1:3]))

    metrics = {name: Metric(STYLES[name], of_batch(MEASURES[name])) for name in names}
    for name, weight in OMNIDATA_WEIGHTS.items():
        over_set = partial(depth.omnidata_midas, gradient_weight=weight)
        metrics[name] = Metric(STYLES[name], of_batch(depth.omnidata_midas_parts), over_set)
    return Task(
        align=lambda strength: controlnet(condition, strength=strength),
        adversarial=lambda prediction, batch: adversarial(
            prediction, resize_labels(batch, prediction.shape[1:3])
        ),
        loss=of_batch(MEASURES[loss]),
        metrics=metrics,
        check=lambda batch: depth.check_labels(batch["depth"], batch["mask"]),
        constant=depth.mean_map,
        pictures=PICTURES,
        negative_prompt=negative_prompt,
    )


def resize_labels(batch: Batch | HostBatch, size: Sequence[int]) -> dict[str, Any]:
    """Return a batch's `depth` and `mask` `[B,H,W,1]` at another height and width, by nearest neighbour."""
    old = batch["depth"].shape[1:3]
    rows, columns = (((np.arange(n) + 0.5) * m / n).astype(int) for n, m in zip(size, old, strict=True))
    return {name: batch[name][:, rows[:, None], columns] for name in ("depth", "mask")}
