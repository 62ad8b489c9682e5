"""The stage that measures models on test sets: clean images, corrupted images and other domains.

A test set is a batch of labelled images of any size, identified by a `SetKey`.
"""

import functools
import operator
from collections.abc import Callable, Container, Iterable, Iterator, Mapping
from itertools import product
from typing import Any, Literal, NamedTuple, TypeVar

import jax
import numpy as np
from jax.sharding import Mesh, NamedSharding
from jax.sharding import PartitionSpec as P
from tqdm import tqdm

from gap_jax import parallel
from gap_jax.data.batch import HostBatch
from gap_jax.data.corruptions.apply import SEVERITIES
from gap_jax.data.corruptions.common import CORRUPTIONS, corrupt
from gap_jax.data.corruptions.three_d import CORRUPTIONS_3D, corrupt_3d
from gap_jax.flops import flops_to_report
from gap_jax.progress import compiling, speed, traced_steps
from gap_jax.tasks.metric import Metric

Key = TypeVar("Key")
_Tree = TypeVar("_Tree")


class SetKey(NamedTuple):
    """The identity of a test set.

    - `kind`: `clean`; `cc`, Common Corruptions; `3dcc`, 3D Common Corruptions; `domain`, another data set;
      `training`, the images that the model is trained on; `generated`, images of one kind of prompt.
    - `severity`: 1 to 5 for corruptions, else None.
    """

    kind: Literal["clean", "cc", "3dcc", "domain", "training", "generated"]
    name: str
    severity: int | None = None


CLEAN = SetKey("clean", "clean")
Sets = Iterable[tuple[SetKey, HostBatch]]


def domain_sets(domains: Mapping[str, HostBatch]) -> dict[SetKey, HostBatch]:
    """Return domains, images and labels by name, as test sets."""
    return {SetKey("domain", name): batch for name, batch in domains.items()}


def corrupted_sets(
    batch: HostBatch, severities: Iterable[int] = SEVERITIES, without: Container[SetKey] = ()
) -> Iterator[tuple[SetKey, HostBatch]]:
    """Yield a batch under the 15 Common Corruptions and, if it has depth, the 3D ones, at every severity.

    `batch` has `image`, float32 `[n,H,W,3]` in [0,1], and labels. The 3D corruptions need the labels `depth`,
    float `[n,H,W,1]`, and `mask`, bool of the same shape. The random numbers of a corruption depend only on
    an image's position in the batch. Sets in `without` are left out.
    """
    severities = tuple(severities)
    positions = np.arange(len(batch["image"]))
    for name, severity in product(CORRUPTIONS, severities):
        if (key := SetKey("cc", name, severity)) not in without:
            yield key, {**batch, "image": corrupt(batch["image"], name, severity, ids=positions)}
    if "depth" not in batch:
        return
    for name, severity in product(CORRUPTIONS_3D, severities):
        if (key := SetKey("3dcc", name, severity)) not in without:
            images = corrupt_3d(batch["image"], batch["depth"], batch["mask"], name, severity, ids=positions)
            yield key, {**batch, "image": images}


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
    measured: Mapping[Key, Mapping[SetKey, dict[str, float]]] | None = None,
    save: Callable[[dict[Key, dict[SetKey, dict[str, float]]]], None] = lambda results: None,
) -> dict[Key, dict[SetKey, dict[str, float]]]:
    """Measure every model on every test set and return the metrics by model and set.

    - `predict(params, images)`: the network that all models share.
    - `models`: the parameters of each model, by any key. Those of one model at a time are copied to the
      devices, so they should be on the host.
    - `sets`: test sets with their batches: `image`, float32 `[n,H,W,3]` in [0,1], and labels. Only one is
      held at a time, so it may be a generator; all models see it before the next one is made.
    - `metrics`: the metrics by name.
    - `images_per_step`: the number of images per call of the compiled program, rounded up to a multiple of
      the number of devices.
    - `total`: the number of sets, for the progress bar.
    - `measured`: results of an earlier call, which become part of the results. A model is not measured again
      on a set that it has there.
    - `save(results)`: called after each set with all results so far.

    The program is compiled once for the same `predict` and metrics, in this call and all later ones.
    """
    measure = _compiled_measure(predict, tuple(metrics.items()))
    order = list(models)
    on_devices: Key | None = None
    params: Any = None
    each: float | None = None  # operations of a device for an image
    results = {key: dict((measured or {}).get(key, {})) for key in models}
    total, done = total or operator.length_hint(sets) or None, min(map(len, results.values()), default=0)
    bar = tqdm(total=total, initial=done, desc="evaluate", unit="set", disable=jax.process_index() != 0)
    with bar, traced_steps("evaluate") as begin_step:
        new_sets = (each for each in sets if any(each[0] not in by_set for by_set in results.values()))
        for number, (test_set, batch) in enumerate(new_sets):
            begin_step()
            with compiling(bar, number == 0):
                missing = [key for key in order if test_set not in results[key]]
                for key in missing:
                    if key != on_devices:
                        params = None  # the memory of the last model is free before the next one needs it
                        params, on_devices = to_local_devices(models[key]), key
                    values = in_steps(measure, params, batch, images_per_step)
                    results[key][test_set] = {
                        name: float(metrics[name].over_set(value)) for name, value in values.items()
                    }
            order.reverse()  # the last model is on the devices already
            if number == 0:
                flops = flops_to_report(measure, params, batch, devices=jax.local_device_count())
                each = None if flops is None else flops / len(batch["image"])
            save(results)
            parallel.stop_if_preempted()
            bar.update()
            images = len(batch["image"]) * len(missing)
            bar.set_postfix(speed(bar, images, None if each is None else each * images))
    return results


@functools.cache
def _compiled_measure(predict: Callable[[Any, jax.Array], Any], metrics: tuple[tuple[str, Metric], ...]):
    """Return the jitted `measure(params, batch)`: each metric's values of each image."""

    def measure(params, batch):
        prediction = predict(params, batch["image"])
        return {name: metric.per_image(prediction, batch) for name, metric in metrics}

    return jax.jit(measure)


def to_local_devices(tree: _Tree) -> _Tree:
    """Copy each leaf to every device of this process; a leaf that `to_local_devices` returned stays."""
    return jax.device_put(tree, NamedSharding(_local_mesh(), P()))


def _local_mesh() -> Mesh:
    return Mesh(np.array(jax.local_devices()), ("data",))


def in_steps(
    measure: Callable[[Any, HostBatch], Any], params: Any, batch: HostBatch, images_per_step: int = 32
) -> Any:
    """Return the results of the jitted `measure(params, rows)` for a batch of any size, on the host.

    `measure` returns a tree of arrays `[rows,…]`; so does this function, for all n rows of the batch. Rows
    are spread over this process's devices. All steps have the same size, the last one being filled up with
    repetitions, so that the program is compiled once. Parameters that are used for several batches are copied
    to the devices once if they come from `to_local_devices`.
    """
    mesh = _local_mesh()
    split = NamedSharding(mesh, P("data"))
    size = -(-images_per_step // mesh.size) * mesh.size
    params, count = to_local_devices(params), len(batch["image"])
    chunks = []
    for start in range(0, count, size):
        rows = np.resize(np.arange(start, min(start + size, count)), size)
        chunk = jax.device_put({name: np.asarray(array)[rows] for name, array in batch.items()}, split)
        chunks.append(jax.device_get(measure(params, chunk)))
    return jax.tree.map(lambda *arrays: np.concatenate(arrays)[:count], *chunks)
