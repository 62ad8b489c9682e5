"""The stage that measures models: on clean images, under corruptions, on other domains."""

from collections.abc import Callable, Iterable, Iterator, Mapping
from typing import Any, NamedTuple

import jax
import numpy as np
from jax.sharding import Mesh, NamedSharding
from jax.sharding import PartitionSpec as P
from tqdm import tqdm

from gap_jax.data.corruptions.common import CORRUPTIONS, SEVERITIES, corrupt
from gap_jax.data.corruptions.three_d import CORRUPTIONS_3D, corrupt_3d
from gap_jax.report.results import Metric

Arrays = Mapping[str, np.ndarray]


class Measure(NamedTuple):
    """A metric: how it is shown, `each` image's `[B]` or `[B,n]`, and what it is `over_all` of a set's."""

    shown: Metric
    each: Callable[[Any, Arrays], jax.Array]
    over_all: Callable[[np.ndarray], float] = np.mean


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
    metrics: Mapping[str, Measure],
    *,
    images_per_step: int = 32,
    total: int | None = None,
) -> dict[str, dict[str, dict[str, float]]]:
    """`{model: {set: {metric: value}}}` of every model's parameters on every set.

    `predict(params, images)`. `total`: how many sets there are, for the progress bar.
    """

    @jax.jit
    def measure(params, batch):
        prediction = predict(params, batch["image"])
        return {name: metric.each(prediction, batch) for name, metric in metrics.items()}

    results: dict[str, dict[str, dict[str, float]]] = {name: {} for name in models}
    for shift in tqdm(sets, total=total, desc="evaluate", unit="set"):
        for name, params in models.items():
            values = in_steps(measure, params, shift.batch, images_per_step)
            results[name][shift.name] = {
                metric: float(metrics[metric].over_all(value)) for metric, value in values.items()
            }
    return results


def in_steps(
    measure: Callable[[Any, Arrays], Any], params: Any, batch: Arrays, images_per_step: int = 32
) -> Any:
    """What the jitted `measure(params, rows)` finds of each image, a tree of `[B]`, on the host.

    Rows are spread over this process's devices; every step has as many, the last filled with repetitions.
    """
    mesh = Mesh(np.array(jax.local_devices()), ("data",))
    whole, split = (NamedSharding(mesh, spec) for spec in (P(), P("data")))
    size = -(-images_per_step // mesh.size) * mesh.size
    params, count = jax.device_put(params, whole), len(batch["image"])
    parts = []
    for start in range(0, count, size):
        rows = np.resize(np.arange(start, min(start + size, count)), size)
        chunk = jax.device_put({name: np.asarray(array)[rows] for name, array in batch.items()}, split)
        parts.append(jax.device_get(measure(params, chunk)))
    return jax.tree.map(lambda *found: np.concatenate(found)[:count], *parts)
