"""The stage that optimises a population of prompts: progress, metrics, pictures, checkpoints and resume.

Its folder holds `checkpoints/` (Orbax); `metrics.jsonl` and TensorBoard's event files; `trajectory/`, the
embeddings and losses of every step (safetensors); `pictures/` (PNG); and, at the end, one file for each
prompt, `prompts/{i}/learned_embeds.safetensors`.
"""

import functools
import warnings
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import Mesh
from jax.sharding import PartitionSpec as P
from tqdm import tqdm

from gap_jax import parallel, prompts
from gap_jax.checkpoint import Checkpoints, digest
from gap_jax.data.batch import HostBatch
from gap_jax.diffusion.pipeline import Params, Pipeline
from gap_jax.errors import held_back
from gap_jax.files import write_whole
from gap_jax.flops import flops_to_report
from gap_jax.metrics import MetricsWriter
from gap_jax.progress import compiling, speed, traced_steps
from gap_jax.stages.prompt_optimizer import EarlyStop, PromptOptimizer, PromptWeights


def optimize(
    pipe: Pipeline,
    optimizer: PromptOptimizer,
    initial_embeddings: np.ndarray,
    load: Callable[[int, slice], HostBatch],
    *,
    images_per_step: int,
    steps: int,
    key: jax.Array,
    folder: str | Path,
    config: Mapping[str, Any],
    mesh: Mesh | None = None,
    check: Callable[[HostBatch], None] = lambda batch: None,
    checkpoint_every: int = 50,
    examples: HostBatch | None = None,
    picture_every: int = 50,
    max_skipped: int = 10,
    tokens: Sequence[str] | None = None,
) -> np.ndarray:
    """Optimise prompts from `initial_embeddings` `[prompts,n,D]` and return the final ones, also float32.

    - `optimizer`: from `prompt_optimizer`, with `axis_name="data"`.
    - `load(step, rows)`: returns these rows of the step's global batch of `images_per_step` images, which
      covers all micro-batches and devices. It must depend on its arguments alone, so that a resumed run sees
      the same data.
    - `steps`: the number of updates; the run ends earlier once all prompts have stopped.
    - `config`: JSON values that tell this run from others. A folder of another config is refused.
    - `mesh`: from `parallel.make_mesh`; None spreads images and prompts over all devices by
      `parallel.layout`. The images must divide over its `data` axis; the prompts need not divide over
      `prompt`.
    - `check(batch)`: raises ValueError for labels that make no sense; called before each step.
    - `examples`: a batch for which every prompt's images are drawn, always with the same noise; None: no
      pictures.
    - `picture_every`: the number of steps between pictures.
    - `max_skipped`: this many skipped updates in a row are an error.
    - `tokens`: the token of each prompt in its file; None: `<gap-0>`, `<gap-1>`, ….

    If it is started again with the same folder, it continues from the last checkpoint and ends with
    bit-identical embeddings. Ctrl-C saves a checkpoint first.

    Raises ValueError for another config, a threshold of the wrong sign, numbers that do not divide, or labels
    that `check` refuses; FloatingPointError after `max_skipped`, once the last good state is saved.
    """
    folder = Path(folder)
    population = len(initial_embeddings)
    if mesh is None:
        chosen = parallel.layout(jax.device_count(), images_per_step, population)
        mesh = chosen.mesh()
        if chosen.devices > 1:
            parallel.announce(chosen.describe("optimise"))
    rows = parallel.local_rows(mesh, images_per_step)
    weights = parallel.replicate(mesh, optimizer.weights)
    state = jax.vmap(optimizer.init)(jax.random.split(key, population), jnp.asarray(initial_embeddings))
    step = parallel.population_step(optimizer.step, mesh)
    draw = None if examples is None else _make_draw(optimizer, mesh, examples, population)
    checkpoints = Checkpoints(folder / "checkpoints", dict(config))
    first, state = checkpoints.restore(state) or (0, state)
    state = parallel.split_prompts(mesh, state)
    trajectory = _TrajectoryWriter(folder / "trajectory", first)

    done = saved = first

    def save() -> None:
        nonlocal saved
        if saved < done:
            with held_back():
                trajectory.write(done)
                checkpoints.save(done, parallel.first_prompts(mesh, state, population))
                saved = done

    def on_host(tree: Any) -> Any:
        return jax.tree.map(lambda leaf: leaf[:population], parallel.to_host(mesh, tree))

    def is_unfinished() -> bool:
        return done < steps and not on_host(state.stopped).all()

    is_main = jax.process_index() == 0
    flops: float | None = None
    silent = not is_unfinished() or not is_main
    bar = tqdm(total=steps, initial=first, desc="optimise", unit="step", disable=silent)
    with MetricsWriter(folder, first or None) as writer, bar, traced_steps("optimize") as begin_step:
        try:
            while is_unfinished():
                begin_step()
                batch = load(done, rows)
                check(batch)
                fed = parallel.feed(mesh, images_per_step, batch)
                with compiling(bar, done == first):
                    new_state, metrics = step(weights, state, fed)
                if done == first:
                    flops = flops_to_report(step, weights, state, fed, devices=mesh.size)
                record = on_host({"embeddings": state.embeddings, **metrics})
                values = {name: value for name, value in record.items() if name != "embeddings"}
                if done == 0:
                    _check_threshold(optimizer.early_stop, values)
                trajectory.records[done] = record
                writer.write(done + 1, values)
                if draw is not None and (done + 1) % picture_every == 0:
                    writer.image(done + 1, "examples", draw(weights, new_state.embeddings))
                state, done = new_state, done + 1  # a stop before this line takes back the step
                bar.update()
                means = {name: f"{np.mean(value):.4g}" for name, value in values.items()}
                bar.set_postfix({**speed(bar, images_per_step * population, flops), **means})
                failed = np.flatnonzero(values["skipped"] >= max_skipped).tolist()
                if failed:
                    save()
                    raise FloatingPointError(
                        f"{max_skipped} updates in a row were not finite, of prompts {failed}; the last good "
                        f"state is saved in {folder / 'checkpoints'}. Lower the learning rate, or compute in "
                        "float32"
                    )
                if done % checkpoint_every == 0:
                    save()
                parallel.stop_if_preempted()
            save()
        except KeyboardInterrupt:
            save()
            print(f"\nInterrupted: step {done} is saved in {folder}. Run the same command again to go on.")
            raise
    embeddings = on_host(state.embeddings)
    embeddings = np.stack([optimizer.spoken(optimizer.weights, jnp.asarray(e)) for e in embeddings])
    if is_main:
        metadata = {"steps": done, "config": dict(config)}
        names = tokens or [f"<gap-{i}>" for i in range(population)]
        save_prompts(pipe, optimizer.weights.pipeline, embeddings, folder / "prompts", names, metadata)
    return embeddings


def load_trajectory(folder: str | Path) -> dict[str, np.ndarray]:
    """Return what every step started with and measured, from the folder of `optimize`.

    `embeddings` float32 `[steps,prompts,n,D]` are those before each step; every metric is `[steps,prompts]`.
    Raises FileNotFoundError if no step has been saved yet, and ValueError if a file is damaged or missing.
    """
    chunks, done = [], 0
    for path in sorted((Path(folder) / "trajectory").glob("*.safetensors")):
        chunks.append(_read_chunk(path))
        done += len(chunks[-1]["embeddings"])
        if done != int(path.stem):
            raise ValueError(
                f"{path.parent} lacks a file: {path.name} must end with step {int(path.stem)}, but the files "
                f"have {done} steps up to there. Delete {folder} and run the same command again, which makes "
                "it anew"
            )
    if not chunks:
        raise FileNotFoundError(f"{folder} has no trajectory: no step has been saved yet")
    return {name: np.concatenate([chunk[name] for chunk in chunks]) for name in chunks[0]}


def _read_chunk(path: Path) -> dict[str, np.ndarray]:
    from safetensors import SafetensorError, safe_open

    try:
        with safe_open(path, "numpy") as file:
            chunk = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
            if (file.metadata() or {}).get("digest") != digest(chunk):
                raise SafetensorError("its digest is that of other tensors")
    except SafetensorError as error:
        raise ValueError(
            f"{path} is damaged: delete {path.parent.parent} and run the same command again, which makes it "
            "anew"
        ) from error
    return chunk


class _TrajectoryWriter:
    """A writer of steps' records, with one file between checkpoints, named by its last step.

    Files of steps after `first`, from which the run continues, are deleted.
    """

    def __init__(self, folder: Path, first: int):
        self.folder = folder
        self.records: dict[int, Mapping[str, np.ndarray]] = {}  # by the number of steps before
        if jax.process_index() == 0:
            for path in folder.glob("*.safetensors"):
                if int(path.stem) > first:
                    path.unlink()

    def write(self, done: int) -> None:
        """Write the records of all steps up to `done` that are in no file yet."""
        from safetensors.numpy import save

        records = [record for step, record in self.records.items() if step < done]
        if records and jax.process_index() == 0:
            stacked = {name: np.stack([r[name] for r in records]) for name in records[0]}
            write_whole(self.folder / f"{done:06d}.safetensors", save(stacked, {"digest": digest(stacked)}))
        self.records = {}


def _make_draw(
    optimizer: PromptOptimizer, mesh: Mesh, examples: HostBatch, population: int
) -> Callable[[PromptWeights, jax.Array], np.ndarray]:
    """Return `draw(weights, embeddings) -> [H,W,3]`: a grid of prompts (rows) and examples (columns)."""
    count = len(next(iter(examples.values())))
    batch = parallel.replicate(mesh, {name: np.asarray(array) for name, array in examples.items()})
    keys = parallel.replicate(mesh, jax.random.split(jax.random.key(0), count))
    program = _compiled_render(optimizer.render, mesh)

    def draw(weights, embeddings):
        images = parallel.to_host(mesh, program(weights, embeddings, batch, keys))[:population]
        height, width = images.shape[2:4]
        return images.transpose(0, 2, 1, 3, 4).reshape(population * height, count * width, 3)

    return draw


@functools.cache
def _compiled_render(render: Callable[..., jax.Array], mesh: Mesh) -> Callable[..., jax.Array]:
    """Map `render` over the prompts and compile it, once for all arms that share it."""
    of_prompts = jax.vmap(render, (None, 0, None, None))
    specs = P(), P("prompt"), P(), P()
    mapped = jax.shard_map(of_prompts, mesh=mesh, in_specs=specs, out_specs=P("prompt"), check_vma=False)
    return jax.jit(mapped)


def _check_threshold(early_stop: EarlyStop | None, values: Mapping[str, np.ndarray]) -> None:
    """Raise ValueError if the threshold of early stopping and the first adversarial loss differ in sign.

    Warn if the first loss is below the threshold already.
    """
    if early_stop is None:
        return
    loss = float(np.mean(values["adversarial"]))
    if np.sign(loss) * np.sign(early_stop.threshold) < 0:
        raise ValueError(
            f"early_stop's threshold {early_stop.threshold} has the wrong sign: the adversarial loss, which "
            f"is minimised, begins at {loss:.4g}; did you mean {-early_stop.threshold}?"
        )
    if loss < early_stop.threshold:
        warnings.warn(
            f"early_stop's threshold {early_stop.threshold} is passed at the first step, where the "
            f"adversarial loss is {loss:.4g}: prompts are not optimised any further. Set a lower threshold, "
            f"such as {loss - abs(loss) / 2:.2g}, or None",
            stacklevel=3,
        )


def save_prompts(
    pipe: Pipeline,
    params: Params,
    embeddings: np.ndarray,
    folder: Path,
    tokens: Sequence[str],
    metadata: Mapping[str, Any],
) -> None:
    """Save each prompt in `{folder}/{i}`, with its token, metadata and the words nearest to its embeddings.

    `embeddings` are `[prompts,n,D]`, and `params` the pipeline's.
    """
    for i, (prompt, token) in enumerate(zip(embeddings, tokens, strict=True)):
        words = prompts.nearest_words(pipe, params, prompt)
        nearest = {"nearest_words": [[f"{word} {cosine:.3f}" for word, cosine in row] for row in words]}
        path = folder / str(i) / "learned_embeds.safetensors"
        prompts.save(path, prompt, token=token, metadata=dict(metadata) | nearest)
