"""The stage that optimises a population of prompts: progress, metrics, pictures, checkpoints, resume.

In its folder: `checkpoints/` (Orbax), `metrics.jsonl` and TensorBoard events, `trajectory/` (every step's
embeddings and losses, safetensors), `pictures/` (PNG), and at the end
`prompts/{i}/learned_embeds.safetensors`.
"""

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import jax
import numpy as np
from jax.sharding import Mesh
from jax.sharding import PartitionSpec as P
from tqdm import tqdm

from gap_jax import parallel, prompts
from gap_jax.checkpoint import Checkpoints
from gap_jax.diffusion.pipeline import Pipeline
from gap_jax.metrics import MetricsWriter
from gap_jax.stages.prompt_optimizer import EarlyStop, PromptOptimizer

HostBatch = Mapping[str, np.ndarray]


def optimize(
    pipe: Pipeline,
    optimizer: PromptOptimizer,
    starts: np.ndarray,
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
) -> np.ndarray:
    """Optimise prompts from `starts` `[prompts,n,D]` and return their embeddings, float32 of that shape.

    - `optimizer`: made with `axis_name="data"`.
    - `load(step, rows)`: those rows of the step's global batch of `images_per_step` (micro-batches and
      devices included), a pure function of its arguments, so that a resumed run sees what an uninterrupted
      one does; `check(batch)` raises for labels that mean nothing.
    - `mesh`: of `parallel.make_mesh`; None: one of all devices. Prompts must divide over its `prompt` axis.
    - `config`: what tells this run from another; a folder of one that differs is refused.
    - `examples`: a batch of which pictures are drawn every `picture_every` steps, always with the same noise.
    - `max_skipped`: that many updates in a row that are not finite are an error.

    Started again on its folder, it goes on from the last checkpoint and ends with bit-identical embeddings.
    Raises ValueError for another config, a threshold of the wrong sign, labels that `check` refuses;
    FloatingPointError after `max_skipped`, with the last good state saved.
    """
    folder = Path(folder)
    mesh = mesh or parallel.make_mesh()
    population = len(starts)
    if population % mesh.shape["prompt"]:
        raise ValueError(
            f"{population} prompts do not divide over {mesh.shape['prompt']} devices of the prompt axis"
        )
    rows = parallel.local_rows(mesh, images_per_step)
    weights = parallel.replicate(mesh, optimizer.weights)
    state = jax.vmap(optimizer.init)(jax.random.split(key, population), jax.numpy.asarray(starts))
    state = parallel.split_prompts(mesh, state)
    step = parallel.spread(optimizer.step, mesh)
    draw = _painter(optimizer, mesh, examples, population)
    checkpoints = Checkpoints(folder / "checkpoints", dict(config))
    found = checkpoints.restore(state)
    first, state = found or (0, state)
    trajectory = _Trajectory(folder / "trajectory", first)

    def save(done: int) -> None:
        trajectory.write(done)
        checkpoints.save(done, state)

    def left() -> bool:
        return done < steps and not parallel.to_host(mesh, state.stopped).all()

    main, done = jax.process_index() == 0, first
    silent = not left() or not main
    bar = tqdm(total=steps, initial=first, desc="optimise", unit="step", disable=silent)
    with MetricsWriter(folder, first or None) as writer, bar:
        try:
            while left():
                batch = load(done, rows)
                check(batch)
                new_state, metrics = step(weights, state, parallel.feed(mesh, images_per_step, batch))
                record = parallel.to_host(mesh, {"embeddings": state.embeddings, **metrics})
                state, done = new_state, done + 1
                trajectory.append(record)
                values = {name: value for name, value in record.items() if name != "embeddings"}
                if done == 1:
                    _check_sign(optimizer.early_stop, values)
                writer.write(done, values)
                bar.update()
                bar.set_postfix({name: f"{np.mean(value):.4g}" for name, value in values.items()})
                if draw is not None and done % picture_every == 0:
                    grid = draw(weights, state.embeddings)
                    writer.image(done, "examples", grid)
                lost = np.flatnonzero(values["skipped"] >= max_skipped).tolist()
                if lost:
                    save(done)
                    raise FloatingPointError(
                        f"{max_skipped} updates in a row were not finite, of prompts {lost}; the last good "
                        f"state is saved in {folder / 'checkpoints'}. Lower the learning rate, or compute in "
                        "float32"
                    )
                if done % checkpoint_every == 0:
                    save(done)
        except KeyboardInterrupt:
            save(done)
            print(f"\nInterrupted: step {done} is saved in {folder}. Run the same command again to go on.")
            raise
    if done > first and done % checkpoint_every:
        save(done)
    embeddings = parallel.to_host(mesh, state.embeddings)
    if main:
        _save_prompts(
            pipe, optimizer, embeddings, folder / "prompts", {"steps": done, "config": dict(config)}
        )
    return embeddings


def load_trajectory(folder: str | Path) -> dict[str, np.ndarray]:
    """What each step began with, `embeddings` `[steps,prompts,n,D]`, and measured, `[steps,prompts]`."""
    from safetensors.numpy import load_file

    chunks = [load_file(path) for path in sorted((Path(folder) / "trajectory").glob("*.safetensors"))]
    if not chunks:
        raise FileNotFoundError(f"{folder} has no trajectory: no step has been saved yet")
    return {name: np.concatenate([chunk[name] for chunk in chunks]) for name in chunks[0]}


class _Trajectory:
    """Steps' records, in a file for each stretch between checkpoints, named by its last step."""

    def __init__(self, folder: Path, first: int):
        self.folder, self.records = folder, []
        if jax.process_index() == 0:
            folder.mkdir(parents=True, exist_ok=True)
            for path in folder.glob("*.safetensors"):
                if int(path.stem) > first:
                    path.unlink()

    def append(self, record: Mapping[str, np.ndarray]) -> None:
        self.records.append(record)

    def write(self, done: int) -> None:
        from safetensors.numpy import save_file

        if self.records and jax.process_index() == 0:
            stacked = {name: np.stack([r[name] for r in self.records]) for name in self.records[0]}
            save_file(stacked, self.folder / f"{done:06d}.safetensors")
        self.records = []


def _painter(optimizer, mesh, examples, population):
    """`draw(weights, embeddings) -> [H,W,3]`: a row for each prompt, a column for each example; or None."""
    if examples is None:
        return None
    batch = {name: np.asarray(array) for name, array in examples.items()}
    count = len(next(iter(batch.values())))
    keys = np.asarray(jax.random.key_data(jax.random.split(jax.random.key(0), count)))

    def render(weights, embeddings):
        wrapped = jax.random.wrap_key_data(keys)
        return jax.vmap(lambda w: optimizer.render(weights, w, batch, wrapped))(embeddings)

    program = jax.jit(
        jax.shard_map(render, mesh=mesh, in_specs=(P(), P("prompt")), out_specs=P("prompt"), check_vma=False)
    )

    def draw(weights, embeddings):
        images = parallel.to_host(mesh, program(weights, embeddings))
        height, width = images.shape[2:4]
        return images.transpose(0, 2, 1, 3, 4).reshape(population * height, count * width, 3)

    return draw


def _check_sign(early_stop: EarlyStop | None, values: Mapping[str, np.ndarray]) -> None:
    if early_stop is None:
        return
    loss = float(np.mean(values["adversarial"]))
    if np.sign(loss) * np.sign(early_stop.threshold) < 0:
        raise ValueError(
            f"early_stop's threshold {early_stop.threshold} has the wrong sign: the adversarial loss, which "
            f"is minimised, begins at {loss:.4g}; did you mean {-early_stop.threshold}?"
        )


def _save_prompts(pipe, optimizer, embeddings, folder, metadata) -> None:
    for i, prompt in enumerate(embeddings):
        words = prompts.nearest_words(pipe, optimizer.weights.pipeline, prompt)
        nearest = {"nearest_words": [[f"{word} {cosine:.3f}" for word, cosine in row] for row in words]}
        path = folder / str(i) / "learned_embeds.safetensors"
        prompts.save(path, prompt, token=f"<gap-{i}>", metadata=dict(metadata) | nearest)
