"""The stage that generates a training set: labels kept, every image known by (seed, source, prompt).

In its folder: `chunks/`, while it runs; `images/` and `tfds/` (`data.generated`); and, written last,
`summary.json`.
"""

import json
import shutil
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import jax
import numpy as np
from jax.sharding import Mesh
from tqdm import tqdm

from gap_jax import parallel
from gap_jax.checkpoint import check_config
from gap_jax.data import generated
from gap_jax.data.batch import HostBatch
from gap_jax.files import write_whole

GenerationStep = Callable[[Any, dict[str, jax.Array], jax.Array], tuple[jax.Array, dict[str, jax.Array]]]


class Filter(NamedTuple):
    """Drop images whose measured `value` is outside `low` to `high`, e.g. the critic's error."""

    value: str
    low: float = -np.inf
    high: float = np.inf


class Plan(NamedTuple):
    """Which source and which prompt each image has, int `[count]`."""

    source: np.ndarray
    prompt: np.ndarray


def plan(count: int, pools: Sequence[np.ndarray], seed: int) -> Plan:
    """Prompts in turn, so that a few images have all, each with a source of its pool, int `[n]`.

    Prompts of the same pool repeat none of its sources as long as there are some left.
    """
    if count < 1 or not pools or not all(map(len, pools)):
        sizes = list(map(len, pools))
        raise ValueError(f"nothing to generate: {count} images with prompts for {sizes} sources")
    random = np.random.default_rng([seed, 1])
    prompt, source = _rounds(random, np.arange(len(pools)), count), np.zeros(count, int)
    shared = np.array(
        [next(i for i, other in enumerate(pools) if np.array_equal(other, pool)) for pool in pools]
    )
    for first in np.unique(shared):
        mine = shared[prompt] == first
        source[mine] = _rounds(random, pools[first], mine.sum())
    return Plan(source, prompt)


def _rounds(random: np.random.Generator, values: np.ndarray, count: int) -> np.ndarray:
    """All values in a random order, again and again in others, until there are `count`."""
    return np.concatenate([random.permutation(values) for _ in range(-(-count // len(values)))])[:count]


def generate(
    step: GenerationStep,
    weights: Any,
    load: Callable[[np.ndarray], HostBatch],
    planned: Plan,
    *,
    images_per_step: int,
    seed: int,
    folder: str | Path,
    config: Mapping[str, Any],
    prompt_names: tuple[str, ...],
    mesh: Mesh | None = None,
    filters: tuple[Filter, ...] = (),
    class_names: tuple[str, ...] | None = None,
) -> dict[str, Any]:
    """Generate what is planned and not there yet, write the data set; returns and keeps the summary.

    - `make(weights, batch, keys) -> (images, values)`: images `[B,H,W,3]` in [0,1] and what was measured of
      them, `[B]` each; pure, jitted here, its batch split over all devices. The batch is `load`'s with
      `prompt`, each image's prompt number. Keys depend on (seed, source, prompt, how often that pair was).
    - `load(sources)`: the batch of these sources; its labels are kept.
    - `filters`: off by default; what they drop is counted, as are images of one colour, always dropped.

    Killed and started again, it makes what is missing, and nothing twice. Raises OSError for a full disk, all
    chunks so far kept; ValueError for another config.
    """
    folder = Path(folder)
    mesh = mesh or parallel.make_mesh()
    check_config(folder / "config.json", dict(config))
    if (folder / "summary.json").exists():
        shutil.rmtree(folder / "chunks", ignore_errors=True)  # a kill may have come before that
        return json.loads((folder / "summary.json").read_text())
    rows = parallel.local_rows(mesh, images_per_step)
    weights = parallel.replicate(mesh, weights)
    program = jax.jit(step)
    count, process = len(planned.source), jax.process_index()
    repeats = _repeats(planned)
    chunks = folder / "chunks"
    if process == 0:
        generated.drop_chunks_of_other_lengths(chunks, rows.stop - rows.start)
    parallel.barrier("chunks")
    bar = tqdm(total=count, desc="generate", unit="image", disable=process != 0)
    with bar:
        for first in range(0, count, images_per_step):
            name = f"{first:08d}-{rows.start:04d}-{rows.stop:04d}"
            real = min(images_per_step, count - first)
            if not parallel.all_agree((chunks / f"{name}.npz").exists()):
                numbers = (
                    first + np.arange(images_per_step) % real
                )  # the last step is filled with repetitions
                mine = numbers[rows]
                keys = image_keys(seed, planned.source[mine], planned.prompt[mine], repeats[mine])
                batch = {**load(planned.source[mine]), "prompt": planned.prompt[mine]}
                fed = parallel.feed(mesh, images_per_step, {**batch, "key": keys})
                fed_keys = jax.random.wrap_key_data(fed.pop("key"))
                images, values = parallel.local_values(program(weights, fed, fed_keys))
                records = {
                    "image": np.round(np.clip(images, 0, 1) * 255).astype(np.uint8),
                    **{name: array for name, array in batch.items() if name not in ("image", "prompt")},
                    **{name: np.asarray(value, np.float32) for name, value in values.items()},
                    "text": np.array(prompt_names)[planned.prompt[mine]],
                    "source_id": planned.source[mine],
                    "prompt_id": planned.prompt[mine],
                    "seed": np.full(len(mine), seed),
                    "dropped": _reasons(images, values, filters),
                }
                filled = np.arange(images_per_step)[rows] >= real
                generated.write_chunk(chunks, name, {n: array[~filled] for n, array in records.items()})
            bar.update(real)
    parallel.barrier("generated")
    if process == 0:
        _finish(folder, count, class_names)
    parallel.barrier("written")
    return json.loads((folder / "summary.json").read_text())


def _repeats(planned: Plan) -> np.ndarray:
    """How often each image's pair of source and prompt was there before."""
    seen: Counter = Counter()
    repeats = np.zeros(len(planned.source), int)
    for i, pair in enumerate(zip(planned.source.tolist(), planned.prompt.tolist(), strict=True)):
        repeats[i] = seen[pair]
        seen[pair] += 1
    return repeats


def image_keys(seed: int, sources: np.ndarray, prompts: np.ndarray, repeats: np.ndarray) -> np.ndarray:
    """Return the data of each image's random key, from its source, prompt and repeat number, each `[n]`."""

    def key(source, prompt, repeat):
        folded = jax.random.fold_in(jax.random.fold_in(jax.random.key(seed), source), prompt)
        return jax.random.key_data(jax.random.fold_in(folded, repeat))

    return np.asarray(jax.vmap(key)(sources, prompts, repeats))


def _reasons(images: np.ndarray, values: Mapping[str, np.ndarray], filters: tuple[Filter, ...]) -> np.ndarray:
    """Why each image is dropped, "" if it is not."""
    reasons = np.full(len(images), "", object)
    for rule in filters:
        outside = ~((values[rule.value] >= rule.low) & (values[rule.value] <= rule.high))
        reasons[outside] = rule.value
    finite = np.isfinite(images).all((1, 2, 3))
    reasons[np.ptp(images, (1, 2, 3)) < 2 / 255] = "one colour"
    reasons[~finite] = "not finite"
    return reasons.astype(str)


def _finish(folder: Path, count: int, class_names: tuple[str, ...] | None) -> None:
    """Make the data set of the chunks, then say so."""
    dropped = Counter(record["dropped"].item() for record in generated.read_chunks(folder / "chunks"))
    kept = dropped.pop("", 0)
    if kept + dropped.total() != count:
        raise ValueError(f"{folder / 'chunks'} holds {kept + dropped.total()} images of {count}")
    generated.write_images(folder / "chunks", folder / "images", class_names)
    data = generated.write_tfds(folder / "chunks", folder / "tfds")
    summary = {"images": kept, "dropped": dict(dropped), "tfds": str(data.relative_to(folder))}
    write_whole(folder / "summary.json", (json.dumps(summary, indent=1) + "\n").encode())
    shutil.rmtree(folder / "chunks")
