"""The stage that measures models: on clean images, under corruptions, on other domains."""

from collections.abc import Callable, Iterable, Iterator, Mapping
from typing import Any, NamedTuple

import jax
import numpy as np
from tqdm import tqdm

from gap_jax.data.corruptions import CORRUPTIONS, SEVERITIES, corrupt
from gap_jax.data.corruptions_3d import CORRUPTIONS_3D, corrupt_3d

Arrays = Mapping[str, np.ndarray]
Metrics = Mapping[str, Callable[[Any, Arrays], jax.Array]]


class Shift(NamedTuple):
    """Images and labels to be measured on: `batch` with `image` float `[n,H,W,3]` in [0,1], under a name."""

    name: str
    batch: Arrays


def shifts(
    batch: Arrays, domains: Mapping[str, Arrays], severities: Iterable[int] = SEVERITIES
) -> Iterator[Shift]:
    """Clean, the domains, the 15 Common Corruptions, and with depth the 3D ones, at every severity.

    Names are `clean`, the domains', `cc/{corruption}/{severity}` and `3dcc/{corruption}/{severity}`. An
    image's number in `batch` decides what is drawn for it.
    """
    severities = tuple(severities)
    ids = np.arange(len(batch["image"]))
    yield Shift("clean", batch)
    for name, domain in domains.items():
        yield Shift(name, domain)
    for name in CORRUPTIONS:
        for severity in severities:
            images = corrupt(batch["image"], name, severity, ids=ids)
            yield Shift(f"cc/{name}/{severity}", {**batch, "image": images})
    if "depth" not in batch:
        return
    for name in CORRUPTIONS_3D:
        for severity in severities:
            images = corrupt_3d(batch["image"], batch["depth"], batch["mask"], name, severity, ids=ids)
            yield Shift(f"3dcc/{name}/{severity}", {**batch, "image": images})


def evaluate(
    predict: Callable[[Any, jax.Array], Any],
    models: Mapping[str, Any],
    sets: Iterable[Shift],
    metrics: Metrics,
    *,
    images_per_step: int = 32,
    total: int | None = None,
) -> dict[str, dict[str, dict[str, float]]]:
    """`{model: {set: {metric: mean over images}}}` of every model's parameters on every set.

    `predict(params, images)`; metrics are `(prediction, batch) -> [B]`. `total`: how many sets there are,
    for the progress bar.
    """

    @jax.jit
    def measure(params, batch):
        prediction = predict(params, batch["image"])
        return {name: metric(prediction, batch) for name, metric in metrics.items()}

    results: dict[str, dict[str, dict[str, float]]] = {name: {} for name in models}
    for shift in tqdm(sets, total=total, desc="evaluate", unit="set"):
        for name, params in models.items():
            values = _in_steps(
                lambda rows, params=params: measure(params, rows), shift.batch, images_per_step
            )
            results[name][shift.name] = {metric: float(value.mean()) for metric, value in values.items()}
    return results


def _in_steps(measure: Callable[[Arrays], Any], batch: Arrays, size: int) -> dict[str, np.ndarray]:
    """What is measured of each image; every step has as many, the last filled with repetitions."""
    count = len(batch["image"])
    parts = []
    for start in range(0, count, size):
        rows = np.resize(np.arange(start, min(start + size, count)), size)
        parts.append(jax.device_get(measure({name: array[rows] for name, array in batch.items()})))
    return {name: np.concatenate([part[name] for part in parts])[:count] for name in parts[0]}
