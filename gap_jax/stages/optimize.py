"""The stage that optimises a population of prompts: progress, metrics, pictures, checkpoints and resume.

Its folder holds `checkpoints/` (Orbax); `metrics.jsonl` and TensorBoard's event files; `trajectory/`, the
embeddings and losses of every step (safetensors); `pictures/` (PNG); and, at the end, one file for each
prompt, `prompts/{i}/learned_embeds.safetensors`.
"""

import functools
from collections.abc import Callable, Mapping, Sequence
from contextlib import ExitStack
from pathlib import Path
from typing import Any, NamedTuple

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
from gap_jax.stages.joined import join
from gap_jax.stages.prompt_optimizer import PromptOptimizer, PromptState, PromptWeights

_Draw = Callable[[jax.Array], np.ndarray]


class PopulationRun(NamedTuple):
    """A population of prompts to optimise in a folder of its own; `optimize` explains the fields."""

    optimizer: PromptOptimizer
    initial_embeddings: np.ndarray
    load: Callable[[int, slice], HostBatch]
    steps: int
    key: jax.Array
    folder: Path
    config: Mapping[str, Any]
    examples: HostBatch | None = None
    tokens: Sequence[str] | None = None


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
    run = PopulationRun(
        optimizer, initial_embeddings, load, steps, key, Path(folder), config, examples, tokens
    )
    [embeddings] = optimize_together(
        pipe,
        [run],
        images_per_step=images_per_step,
        mesh=mesh,
        check=check,
        checkpoint_every=checkpoint_every,
        picture_every=picture_every,
        max_skipped=max_skipped,
    )
    return embeddings


def optimize_together(
    pipe: Pipeline,
    runs: Sequence[PopulationRun],
    *,
    images_per_step: int,
    mesh: Mesh | None = None,
    check: Callable[[HostBatch], None] = lambda batch: None,
    checkpoint_every: int = 50,
    picture_every: int = 50,
    max_skipped: int = 10,
) -> list[np.ndarray]:
    """Optimise several populations of prompts as one, and return the final embeddings of each.

    Every population has the objective, data, noise, steps and folder of its own run, and ends as if it had
    run alone, up to rounding. One program computes all their prompts, so that they share the devices. Each
    continues from its own last checkpoint. One that ends before the others stays as it is.

    The runs' optimisers must be the same but for their weights, have no set terms, and have weights of the
    same shapes. The other arguments and errors are those of `optimize`.
    """
    sizes = [len(run.initial_embeddings) for run in runs]
    population = sum(sizes)
    if mesh is None:
        chosen = parallel.layout(jax.device_count(), images_per_step, population)
        mesh = chosen.mesh()
        if chosen.devices > 1:
            parallel.announce(chosen.describe("optimise"))
    members = [
        _Member(run, mesh, slice(stop - size, stop))
        for run, size, stop in zip(runs, sizes, np.cumsum(sizes).tolist(), strict=True)
    ]
    running = [member for member in members if member.goes_on(0, member.state.stopped.all())]
    if not running:
        return [member.finish(pipe) for member in members]
    rows = parallel.local_rows(mesh, images_per_step)
    placed = parallel.replicate(mesh, [run.optimizer.weights for run in runs])
    program = join([run.optimizer for run in runs], placed, sizes, mesh)
    state = parallel.split_prompts(mesh, _concatenated([member.state for member in members]))

    def on_host(tree: Any) -> Any:
        return jax.tree.map(lambda leaf: leaf[:population], parallel.to_host(mesh, tree))

    def save_running() -> None:
        for member in running:
            member.save(rounds, state)

    rounds, begun = 0, min(member.first for member in running)
    steps = begun + max(member.run.steps - member.first for member in running)
    flops: float | None = None
    silent = jax.process_index() != 0
    bar = tqdm(total=steps, initial=begun, desc="optimise", unit="step", disable=silent)
    with ExitStack() as files, bar, traced_steps("optimize") as begin_step:
        for member in running:
            member.open(files, placed[members.index(member)])
        try:
            while running:
                begin_step()
                batches = {member: member.run.load(member.first + rounds, rows) for member in running}
                for batch in batches.values():
                    check(batch)
                any_batch = next(iter(batches.values()))  # for members that have ended
                fed = program.feed(images_per_step, [batches.get(member, any_batch) for member in members])
                with compiling(bar, rounds == 0):
                    new_state, metrics = program.step(program.weights, state, fed)
                if rounds == 0:
                    flops = flops_to_report(program.step, program.weights, state, fed, devices=mesh.size)
                record = on_host({"embeddings": state.embeddings, **metrics})
                for member in running:
                    member.record(rounds, record)
                    member.picture(rounds + 1, picture_every, new_state)
                state, rounds = new_state, rounds + 1  # a stop before this line takes back the step
                bar.update()
                means = {name: f"{np.mean(record[name]):.4g}" for name in metrics}
                bar.set_postfix({**speed(bar, images_per_step * population, flops), **means})
                for member in running:
                    failed = np.flatnonzero(record["skipped"][member.rows] >= max_skipped).tolist()
                    if failed:
                        save_running()
                        raise FloatingPointError(
                            f"{max_skipped} updates in a row were not finite, of prompts {failed}; the last "
                            f"good state is saved in {member.run.folder / 'checkpoints'}. Lower the learning "
                            "rate, or compute in float32"
                        )
                stopped = on_host(state.stopped)
                going = [member for member in running if member.goes_on(rounds, stopped[member.rows].all())]
                for member in running:
                    if member not in going or (member.first + rounds) % checkpoint_every == 0:
                        member.save(rounds, state)
                running = going
                parallel.stop_if_preempted()
        except KeyboardInterrupt:
            save_running()
            for member in running:
                saved = f"step {member.first + rounds} is saved in {member.run.folder}"
                print(f"\nInterrupted: {saved}. Run the same command again to go on.")
            raise
    return [member.finish(pipe) for member in members]


def _concatenated(states: Sequence[PromptState]) -> PromptState:
    if len(states) == 1:
        return states[0]
    return jax.tree.map(lambda *parts: jnp.concatenate(parts), *states)


class _Member:
    """One of the populations that run as one: its rows of all prompts, and what it leaves in its folder.

    `first` is the number of steps that it begins with, and `saved` that of its last checkpoint, whose state
    is `state`. A round is one more step of all that go on.
    """

    def __init__(self, run: PopulationRun, mesh: Mesh, rows: slice):
        self.run, self.rows, self._mesh = run, rows, mesh
        keys = jax.random.split(run.key, rows.stop - rows.start)
        state = jax.vmap(run.optimizer.init)(keys, jnp.asarray(run.initial_embeddings))
        self._checkpoints = Checkpoints(run.folder / "checkpoints", dict(run.config))
        self.first: int
        self.state: PromptState
        self.first, self.state = self._checkpoints.restore(state) or (0, state)
        self.saved = self.first
        self._trajectory = _TrajectoryWriter(run.folder / "trajectory", self.first)

    def goes_on(self, rounds: int, stopped: np.bool_ | jax.Array) -> bool:
        return self.first + rounds < self.run.steps and not stopped

    def open(self, files: ExitStack, weights: PromptWeights) -> None:
        """Open its metrics; `weights` are the run's, on the mesh."""
        self._writer = files.enter_context(MetricsWriter(self.run.folder, self.first or None))
        self._draw = _make_draw(self.run, weights, self._mesh)

    def record(self, rounds: int, record: Mapping[str, np.ndarray]) -> None:
        """Keep its rows of what all prompts started a round with and measured in it."""
        own, done = {name: value[self.rows] for name, value in record.items()}, self.first + rounds
        values = {name: value for name, value in own.items() if name != "embeddings"}
        optimizer = self.run.optimizer
        if done == 0 and optimizer.early_stop is not None and np.isfinite(optimizer.weights.threshold):
            optimizer.early_stop.check_first(float(np.mean(values["adversarial"])))
        self._trajectory.records[done] = own
        self._writer.write(done + 1, values)

    def picture(self, rounds: int, every: int, state: PromptState) -> None:
        done = self.first + rounds
        if self._draw is not None and done % every == 0:
            own = parallel.some_prompts(self._mesh, state.embeddings, self.rows)
            self._writer.image(done, "examples", self._draw(own))

    def save(self, rounds: int, state: PromptState) -> None:
        """Save its rows of the state of all prompts, unless that was done."""
        done = self.first + rounds
        if self.saved < done:
            with held_back():
                self._trajectory.write(done)
                self.state = parallel.some_prompts(self._mesh, state, self.rows)
                self._checkpoints.save(done, self.state)
                self.saved = done

    def finish(self, pipe: Pipeline) -> np.ndarray:
        """Write the files of its prompts, and return their embeddings."""
        run, optimizer = self.run, self.run.optimizer
        ends = np.asarray(self.state.embeddings)
        embeddings = np.stack([optimizer.spoken(optimizer.weights, jnp.asarray(end)) for end in ends])
        if jax.process_index() == 0:
            metadata = {"steps": self.saved, "config": dict(run.config)}
            names = run.tokens or [f"<gap-{i}>" for i in range(len(embeddings))]
            params = optimizer.weights.pipeline
            save_prompts(pipe, params, embeddings, run.folder / "prompts", names, metadata)
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


def _make_draw(run: PopulationRun, weights: PromptWeights, mesh: Mesh) -> _Draw | None:
    """Return `draw(embeddings) -> [H,W,3]`: a grid of prompts (rows) and examples (columns).

    `weights` are the run's, on the mesh. None if it has no examples.
    """
    if run.examples is None:
        return None
    count = len(next(iter(run.examples.values())))
    batch = parallel.replicate(mesh, {name: np.asarray(array) for name, array in run.examples.items()})
    keys = parallel.replicate(mesh, jax.random.split(jax.random.key(0), count))
    program = _compiled_render(run.optimizer.render, mesh)

    def draw(embeddings: jax.Array) -> np.ndarray:
        prompts = parallel.split_prompts(mesh, embeddings)
        images = parallel.to_host(mesh, program(weights, prompts, batch, keys))[: len(embeddings)]
        height, width = images.shape[2:4]
        return images.transpose(0, 2, 1, 3, 4).reshape(len(embeddings) * height, count * width, 3)

    return draw


@functools.cache
def _compiled_render(render: Callable[..., jax.Array], mesh: Mesh) -> Callable[..., jax.Array]:
    """Map `render` over the prompts and compile it, once for all arms that share it."""
    of_prompts = jax.vmap(render, (None, 0, None, None))
    specs = P(), P("prompt"), P(), P()
    mapped = jax.shard_map(of_prompts, mesh=mesh, in_specs=specs, out_specs=P("prompt"), check_vma=False)
    return jax.jit(mapped)


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
