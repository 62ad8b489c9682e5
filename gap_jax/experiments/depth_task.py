"""What the closed loop is told of depth: losses, metrics, the alignment, what predicts without a look."""

from collections.abc import Callable
from typing import Any

import jax
import numpy as np

from gap_jax.closed_loop.world import Arrays, Pictures, Task
from gap_jax.diffusion.align import controlnet_depth
from gap_jax.report import pictures
from gap_jax.report.results import Legend, Metric
from gap_jax.stages.evaluate import Measure
from gap_jax.tasks import depth as task
from gap_jax.tasks.depth import mean_map

METRICS = {
    "l1": (Metric("L1", "×100", 100), task.l1),
    "ssi_mae": (Metric("SSI-MAE", "×10", 10), task.ssi_mae),
    "absrel": (Metric("AbsRel", "×100", 100), task.absrel),
    "delta1": (Metric("δ < 1.25", "in % of pixels", 100, True), task.delta1),
    "midas": (Metric("MiDaS loss", "×10", 10), task.midas),
}
ADVERSARIAL = {"l1": task.negative_l1, "midas": task.negative_ssi_mae}  # by the loss in fine-tuning


def _draw(prediction: np.ndarray, label: Arrays) -> tuple[np.ndarray, np.ndarray]:
    label = sized({name: array[None] for name, array in label.items()}, prediction.shape[:2])
    depth, mask = label["depth"][0], label["mask"][0]
    return pictures.depth(prediction), pictures.error(prediction, depth, mask)


PICTURES = Pictures(
    "depth map",
    lambda label: pictures.depth(label["depth"], label["mask"]),
    _draw,
    {
        "label": Legend("near", "far", tuple(pictures.gradient("depth"))),
        "error": Legend("0", str(pictures.LARGEST_ERROR), tuple(pictures.gradient("error"))),
    },
    "Grey pixels of depth maps have no label; errors are shares of depth’s range.",
)
Loss = Callable[[jax.Array, jax.Array, jax.Array], jax.Array]


def depth_task(loss: str = "l1", negative_prompt: str = "") -> Task:
    """Depth with one of the paper's losses, `l1` for the U-Net, `midas` for DPT, as the main metric.

    Labels are brought to predictions' size.
    """
    adversarial, names = ADVERSARIAL[loss], sorted(METRICS, key=lambda name: name != loss)

    def labelled(measure: Loss) -> Callable[[jax.Array, Arrays], jax.Array]:
        return lambda prediction, batch: measure(prediction, **sized(batch, prediction.shape[1:3]))

    return Task(
        align=lambda strength: controlnet_depth(strength=strength),
        adversarial=lambda prediction, batch: adversarial(prediction, sized(batch, prediction.shape[1:3])),
        loss=labelled(METRICS[loss][1]),
        metrics={name: Measure(METRICS[name][0], labelled(METRICS[name][1])) for name in names},
        check=lambda batch: task.check_labels(batch["depth"], batch["mask"]),
        constant=mean_map,
        pictures=PICTURES,
        negative_prompt=negative_prompt,
    )


def sized(batch: Arrays, size: tuple[int, int]) -> dict[str, Any]:
    """`depth` and `mask` `[B,H,W,1]` of a batch at another height and width, by nearest neighbour."""
    old = batch["depth"].shape[1:3]
    rows, columns = (((np.arange(n) + 0.5) * m / n).astype(int) for n, m in zip(size, old, strict=True))
    return {name: batch[name][:, rows[:, None], columns] for name in ("depth", "mask")}
