"""The stage that generates a training set: new images for original labels.

- A source is an original example, known by its number; the image keeps its label.
- A prompt is known by its number too. A plan says which source and which prompt each image has.
- An image depends on its seed, source, prompt and repeat number alone: the number of earlier images in the
  plan with the same source and prompt.

The folder holds `chunks/` while the stage runs; `images/` and `tfds/`, the data set in the two formats of
`data.generated`; and `summary.json`, which is written last.
"""

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
from gap_jax.data.batch import Batch, HostBatch
from gap_jax.data.loader import Source
from gap_jax.data.prepared import Prepared
from gap_jax.files import read_json, write_json, writing
from gap_jax.flops import flops_to_report
from gap_jax.progress import compiling, speed, traced_steps
from gap_jax.stages.band import Band, Selection

_LARGEST = float(np.finfo(np.float32).max)
GenerationStep = Callable[[Any, Batch, jax.Array], tuple[jax.Array, dict[str, jax.Array]]]
Summaries = Mapping[str, Callable[[np.ndarray], float]]


class Filter(NamedTuple):
    """A rule that drops images whose `value`, such as the critic's loss, is outside `low` to `high`."""

    value: str
    low: float = -np.inf
    high: float = np.inf


class Plan(NamedTuple):
    """The numbers of the original example, `source`, and of the prompt of each image; int `[count]`."""

    source: np.ndarray
    prompt: np.ndarray


def plan(count: int, pools: Sequence[np.ndarray], seed: int, proportional: bool = False) -> Plan:
    """Return a plan of `count` images: the prompt and the original example that each one is generated from.

    - `pools`: for each prompt, the numbers of the original examples that it may use, int `[n]`. Prompts with
      equal pools share one, and use no example again before all of its examples were used.
    - `seed`: chooses the order of prompts and examples.
    - `proportional`: if False, the prompts take turns, so that any stretch of the plan has them in even
      shares; if True, their shares are random, in proportion to the sizes of their pools.

    Raises ValueError if there is nothing to generate: no image, no prompt or an empty pool.
    """
    if count < 1 or not pools or not all(map(len, pools)):
        sizes = list(map(len, pools))
        raise ValueError(
            f"nothing to generate: found {count} images, {len(pools)} prompts, and {sizes} source examples "
            "for these prompts; each number must be 1 or more"
        )
    random = np.random.default_rng([seed, 1])
    turns = np.repeat(np.arange(len(pools)), [len(pool) if proportional else 1 for pool in pools])
    prompt, source = _repeated_shuffles(random, turns, count), np.zeros(count, int)
    pool_of_prompt = np.array(
        [next(i for i, other in enumerate(pools) if np.array_equal(other, pool)) for pool in pools]
    )
    for number in np.unique(pool_of_prompt[prompt]):
        uses_pool = pool_of_prompt[prompt] == number
        source[uses_pool] = _repeated_shuffles(random, pools[number], uses_pool.sum())
    return Plan(source, prompt)


def _repeated_shuffles(random: np.random.Generator, values: np.ndarray, count: int) -> np.ndarray:
    """Return the first `count` of all values in a random order, followed by all in another one, and so on."""
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
    band: Band | None = None,
    class_names: tuple[str, ...] | None = None,
    summaries: Summaries | None = None,
) -> dict[str, Any]:
    """Generate the planned images that do not exist yet, write the data set and return its summary.

    - `step(weights, batch, keys) -> (images, values)`: a pure function, which is jitted here. It returns
      images float32 `[B,H,W,3]` in [0,1] and measured values by name, `[B]` or `[B,n]` each. Its batch is
      that of `load` with `prompt`, the number of each image's prompt. Every device calls it with its part of
      the batch, so that an image must not depend on the others.
    - `load(sources)`: returns the batch of the original examples with these numbers, whose labels are kept.
    - `images_per_step`: the number of images in a global batch, rounded up to a multiple of the devices.
    - `config`: JSON values that tell this run from others. A folder of another config is refused.
    - `prompt_names`: a name for each prompt, kept as `text` with its images.
    - `mesh`: from `parallel.make_mesh`; None uses all devices.
    - `filters`: rules that drop images. Images of a single colour and images that are not finite are always
      dropped.
    - `band`: keeps images of middle difficulty; None: keep all. The stage then generates planned images in
      their order until enough are kept, which needs a plan of more images.
    - `class_names`: the folders of `images/`, indexed by `label`; None: one folder for all.
    - `summaries`: for measured values by name, the function that makes one number of those of all kept
      images; None, or no function for a value: the mean.

    The summary says how many images there are (`images`), how many were dropped for each reason (`dropped`),
    what their measured values come to (`means`) and where the TFDS data set is (`tfds`). If the process is
    killed and started again, only missing images are generated.

    All fields of an example but `image` are kept as they are: docs/data.md, "Labels of any kind".

    Raises OSError for a full disk, with all earlier chunks kept; ValueError for another config, for class
    names that folders cannot have, for a field that cannot be kept, before the first image, and if the plan
    ends before a band has enough images.
    """
    folder = Path(folder)
    mesh = mesh or parallel.make_mesh()
    generated.check_class_names(class_names or (), {})
    check_config(folder / "config.json", dict(config))
    if (folder / "summary.json").exists():
        shutil.rmtree(
            folder / "chunks", ignore_errors=True
        )  # left over if the process was killed just before
        return read_summary(folder)
    shards = mesh.shape["data"]
    images_per_step = -(-images_per_step // shards) * shards
    if shards > 1:
        each = images_per_step // shards
        parallel.announce(f"generate: {images_per_step} images a step on {shards} devices, {each} each")
    rows = parallel.local_rows(mesh, images_per_step)
    weights = parallel.replicate(mesh, weights)
    program = parallel.image_step(step, mesh)
    count, process = len(planned.source), jax.process_index()
    repeats = _repeat_numbers(planned)
    chunks = folder / "chunks"
    if process == 0:
        generated.drop_chunks_of_other_lengths(chunks, rows.stop - rows.start)
    parallel.barrier("chunks")
    selection, expected, made, made_here = None, count, 0, False
    flops: float | None = None
    if band is not None:
        selection, expected = Selection(band, chunks), min(count, band.expected_candidates)
        filters += (Filter(band.value, -_LARGEST, _LARGEST),)  # only finite values have ranks
    bar = tqdm(total=expected, desc="generate", unit="image", disable=process != 0)
    with bar, traced_steps("generate") as begin_step:
        for first in range(0, count, images_per_step):
            begin_step()
            chunk_name = f"{first:08d}-{rows.start:04d}-{rows.stop:04d}"
            num_new = min(images_per_step, count - first)
            if not parallel.all_agree((chunks / f"{chunk_name}.npz").exists()):
                # The last batch is filled up with repetitions, so that all batches have one size.
                numbers = (first + np.arange(images_per_step) % num_new)[rows]
                sources, prompts = planned.source[numbers], planned.prompt[numbers]
                keys = image_keys(seed, sources, prompts, repeats[numbers])
                loaded = load(sources)
                generated.check_fields(loaded, class_names)
                batch = {**loaded, "prompt": prompts}
                seen = {name: array for name, array in batch.items() if array.dtype.kind != "U"}
                fed = parallel.feed(mesh, images_per_step, {**seen, "key": keys})
                fed_keys = jax.random.wrap_key_data(fed.pop("key"))
                if not made_here:
                    generated.check_names(loaded, jax.eval_shape(program, weights, fed, fed_keys)[1])
                with compiling(bar, not made_here):
                    images, values = parallel.local_values(program(weights, fed, fed_keys))
                if not made_here:
                    of_step = flops_to_report(program, weights, fed, fed_keys, devices=shards)
                    flops = None if of_step is None else of_step / images_per_step
                records = {
                    "image": np.round(np.clip(images, 0, 1) * 255).astype(np.uint8),
                    **{name: array for name, array in batch.items() if name not in ("image", "prompt")},
                    **{name: np.asarray(value, np.float32) for name, value in values.items()},
                    "text": np.array(prompt_names)[prompts],
                    "source_id": sources,
                    "prompt_id": prompts,
                    "seed": np.full(len(numbers), seed),
                    "dropped": _drop_reasons(images, values, filters),
                }
                is_new = np.arange(images_per_step)[rows] < num_new
                new_records = {name: array[is_new] for name, array in records.items()}
                generated.write_chunk(chunks, chunk_name, new_records)
                made_here = True
                parallel.stop_if_preempted()
            bar.update(num_new)
            if made_here:
                bar.set_postfix(speed(bar, 1, flops))
            made = first + num_new
            if selection is not None and selection.is_complete(first):
                break
        else:
            if band is not None:
                raise ValueError(
                    f"fewer than {band.images} of {count} generated images are kept: filters drop too many; "
                    f"relax them or the band {band.low:g} to {band.high:g}, in another folder"
                )
    parallel.barrier("generated")
    if process == 0:
        _write_data_set(
            folder, made, class_names, {} if selection is None else selection.reasons(), summaries or {}
        )
    parallel.barrier("written")
    return read_summary(folder)


def read_summary(folder: Path) -> dict[str, Any]:
    """Return the summary in the folder of `generate`; raise as `read_json`."""
    return read_json(
        folder / "summary.json", f"delete {folder} and run the same command again, which generates it anew"
    )


def _repeat_numbers(planned: Plan) -> np.ndarray:
    """Return how many earlier images have the same source and prompt, for each image, int `[count]`."""
    seen: Counter = Counter()
    repeats = np.zeros(len(planned.source), int)
    for i, pair in enumerate(zip(planned.source.tolist(), planned.prompt.tolist(), strict=True)):
        repeats[i] = seen[pair]
        seen[pair] += 1
    return repeats


def image_keys(seed: int, sources: np.ndarray, prompts: np.ndarray, repeats: np.ndarray) -> np.ndarray:
    """Return the data of each image's random key, from its source, prompt and repeat number, int `[n]`."""

    def key(source, prompt, repeat):
        folded = jax.random.fold_in(jax.random.fold_in(jax.random.key(seed), source), prompt)
        return jax.random.key_data(jax.random.fold_in(folded, repeat))

    return np.asarray(jax.vmap(key)(sources, prompts, repeats))


def _drop_reasons(
    images: np.ndarray, values: Mapping[str, np.ndarray], filters: tuple[Filter, ...]
) -> np.ndarray:
    """Return why each image is dropped, a string `[B]`; empty for an image that is kept."""
    reasons = np.full(len(images), "", object)
    for rule in filters:
        is_inside = (values[rule.value] >= rule.low) & (values[rule.value] <= rule.high)  # False for NaN
        reasons[~is_inside] = rule.value
    is_finite = np.isfinite(images).all((1, 2, 3))
    reasons[np.ptp(images, (1, 2, 3)) < 2 / 255] = "one colour"
    reasons[~is_finite] = "not finite"
    return reasons.astype(str)


def _write_data_set(
    folder: Path,
    count: int,
    class_names: tuple[str, ...] | None,
    left_out: Mapping[int, str],
    summaries: Summaries,
) -> None:
    """Write the data set of all chunks in both formats, then the summary, then delete the chunks.

    `left_out`: reasons why further images are not used, by their numbers.
    """
    dropped: Counter[str] = Counter()
    measured: dict[str, list[np.ndarray]] = {}
    for number, record in enumerate(generated.read_chunks(folder / "chunks")):
        reason = left_out.get(number, record["dropped"].item())
        dropped[reason] += 1
        for name, value in {} if reason else record.items():
            if name in summaries or (np.ndim(value) == 0 and np.issubdtype(value.dtype, np.floating)):
                measured.setdefault(name, []).append(value)
    num_kept = dropped.pop("", 0)
    if num_kept + dropped.total() != count:
        raise ValueError(
            f"{folder / 'chunks'} holds {num_kept + dropped.total()} images, but {count} are planned: delete "
            "the folder and run again"
        )
    with writing(folder / "images"):
        generated.write_images(folder / "chunks", folder / "images", class_names, left_out)
    with writing(folder / "tfds"):
        data = generated.write_tfds(folder / "chunks", folder / "tfds", class_names, left_out)
    means = {
        name: float(summaries.get(name, np.mean)(np.asarray(values, np.float64)))
        for name, values in measured.items()
    }
    place = str(data.relative_to(folder))
    summary = {"images": num_kept, "dropped": dict(dropped), "means": means, "tfds": place}
    write_json(folder / "summary.json", summary)
    shutil.rmtree(folder / "chunks")


def generated_images(folder: Path, original: Source) -> Prepared:
    """Return the images in the folder of `generate`, with the fields of the original examples.

    Raises ValueError for a data set that is damaged or missing.
    """
    try:
        images = Prepared(folder / "tfds", "train", fields=tuple(original[0]))
        if len(images) != (count := read_summary(folder)["images"]):
            raise ValueError(f"{images.folder} has {len(images)} images in place of {count}")
        return images
    except (OSError, ValueError) as error:
        raise ValueError(
            f"{folder} has lost images since they were generated; delete it and run the same command again, "
            f"which generates them anew ({str(error)[:200]})"
        ) from error
