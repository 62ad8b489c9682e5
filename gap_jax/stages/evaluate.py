"""The stage that measures models: on clean images, under corruptions and on other domains."""

from collections.abc import Callable, Iterable, Iterator, Mapping
from typing import Any, Literal, NamedTuple, TypeVar

import jax
import numpy as np
from jax.sharding import Mesh, NamedSharding
from jax.sharding import PartitionSpec as P
from tqdm import tqdm

from gap_jax.data.batch import HostBatch
from gap_jax.data.corruptions.apply import SEVERITIES
from gap_jax.data.corruptions.common import CORRUPTIONS, corrupt
from gap_jax.data.corruptions.three_d import CORRUPTIONS_3D, corrupt_3d
from gap_jax.tasks.metric import Metric

Key = TypeVar("Key")


class TestSet(NamedTuple):
    """The identity of a test set.

    - `kind`: `clean`; `cc`, Common Corruptions; `3dcc`, 3D Common Corruptions; `domain`, another data set;
      `training`, the images that the model is trained on.
    - `severity`: 1 to 5 for corruptions, else None.
    """

    kind: Literal["clean", "cc", "3dcc", "domain", "training"]
    name: str
    severity: int | None = None

    __test__ = False  # pytest would take the class for tests


CLEAN = TestSet("clean", "clean")
Sets = Iterable[tuple[TestSet, HostBatch]]


def domain_sets(domains: Mapping[str, HostBatch]) -> dict[TestSet, HostBatch]:
    """Return domains, images and labels by name, as test sets."""
    return {TestSet("domain", name): batch for name, batch in domains.items()}


def corrupted_sets(
    batch: HostBatch, severities: Iterable[int] = SEVERITIES
) -> Iterator[tuple[TestSet, HostBatch]]:
    """Yield a batch under the 15 Common Corruptions and, if it has depth, the 3D ones, at every severity.

    `batch` has `image`, float32 `[n,H,W,3]` in [0,1], and its labels; `depth` and `mask` `[n,H,W,1]` among
    them call for 3D corruptions. What a corruption draws for an image depends on the image's position only.
    """
    severities = tuple(severities)
    positions = np.arange(len(batch["image"]))
    for name in CORRUPTIONS:
        for severity in severities:
            images = corrupt(batch["image"], name, severity, ids=positions)
            yield TestSet("cc", name, severity), {**batch, "image": images}
    if "depth" not in batch:
        return
    for name in CORRUPTIONS_3D:
        for severity in severities:
            images = corrupt_3d(batch["image"], batch["depth"], batch["mask"], name, severity, ids=positions)
            yield TestSet("3dcc", name, severity), {**batch, "image": images}


def num_corrupted_sets(batch: HostBatch, severities: Iterable[int] = SEVERITIES) -> int:
    """Return how many test sets `corrupted_sets` yields for the same arguments."""
    return len(tuple(severities)) * (len(CORRUPTIONS) + ("depth" in batch) * len(CORRUPTIONS_3D))


def evaluate(
    predict: Callable[[Any, jax.Array], Any],
    models: Mapping[Key, Any],
    sets: Sets,
    metrics: Mapping[str, Metric],
    *,
    images_per_step: int = 32,
    total: int | None = None,
) -> dict[Key, dict[TestSet, dict[str, float]]]:
    """Measure every model on every test set and return the metrics by model and set.

    - `predict(params, images)`: the network that all models share.
    - `models`: parameters by any key.
    - `sets`: test sets with their batches, `image` float32 `[n,H,W,3]` in [0,1] and labels; consumed one at a
      time.
    - `total`: the number of sets, for the progress bar.
    """

    @jax.jit
    def measure(params, batch):
        prediction = predict(params, batch["image"])
        return {name: metric.per_image(prediction, batch) for name, metric in metrics.items()}

    results: dict[Key, dict[TestSet, dict[str, float]]] = {key: {} for key in models}
    for test_set, batch in tqdm(sets, total=total, desc="evaluate", unit="set"):
        for key, params in models.items():
            values = in_steps(measure, params, batch, images_per_step)
            results[key][test_set] = {
                name: float(metrics[name].over_set(value)) for name, value in values.items()
            }
    return results


def in_steps(
    measure: Callable[[Any, HostBatch], Any], params: Any, batch: HostBatch, images_per_step: int = 32
) -> Any:
    """Apply the jitted `measure(params, rows)` to a batch of any size and return its results on the host.

    The result is a tree of arrays `[n,…]`, a row for each image. Rows are spread over this process's devices;
    all steps have the same size, the last one filled up with repetitions, so that one program is compiled.
    """
    mesh = Mesh(np.array(jax.local_devices()), ("data",))
    replicated, split = (NamedSharding(mesh, spec) for spec in (P(), P("data")))
    size = -(-images_per_step // mesh.size) * mesh.size
    params, count = jax.device_put(params, replicated), len(batch["image"])
    chunks = []
    for start in range(0, count, size):
        rows = np.resize(np.arange(start, min(start + size, count)), size)
        chunk = jax.device_put({name: np.asarray(array)[rows] for name, array in batch.items()}, split)
        chunks.append(jax.device_get(measure(params, chunk)))
    return jax.tree.map(lambda *arrays: np.concatenate(arrays)[:count], *chunks)
