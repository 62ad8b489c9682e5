"""The training loop of all networks: progress, metrics, probes, checkpoints and resume.

A probe is a function that measures and draws what the parameters can do, now and then during training.

A training folder holds `checkpoints/` (Orbax); `pending/`, for each checkpoint, what its last steps have left
to do, such as metrics that are not in a line of `metrics.jsonl` yet; `metrics.jsonl` and TensorBoard's event
files; `pictures/`, the probes' PNG files; and, if the best parameters are selected, `best/` (Orbax).
"""

import functools
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax
from jax.sharding import Mesh, NamedSharding, PartitionSpec
from tqdm import tqdm

from gap_jax import parallel
from gap_jax.checkpoint import Checkpoints
from gap_jax.data.batch import Batch
from gap_jax.data.loader import Batches
from gap_jax.errors import held_back
from gap_jax.files import read_json, write_json
from gap_jax.flops import flops_to_report
from gap_jax.metrics import MetricsWriter
from gap_jax.progress import compiling, speed, traced_steps

Params = Any
Loss = Callable[[Params, Params, Batch, jax.Array], tuple[jax.Array, dict[str, jax.Array]]]
Probe = Callable[[Params], tuple[dict[str, float], dict[str, np.ndarray]]]


class TrainState(NamedTuple):
    """The state that a checkpoint keeps.

    `average` is the exponential moving average of the parameters, or () without one.
    """

    step: jax.Array
    params: Params
    opt: optax.OptState
    average: Params


def train(
    loss: Loss,
    params: Params,
    optimizer: optax.GradientTransformation,
    batches: Batches,
    *,
    steps: int,
    key: jax.Array,
    folder: str | Path,
    config: Mapping[str, Any],
    frozen: Params = (),
    average: float | None = None,
    mesh: Mesh | None = None,
    probe: Probe | None = None,
    probe_every: int = 500,
    select: str | None = None,
    checkpoint_every: int = 500,
    log_every: int = 20,
    max_skipped: int = 10,
) -> Params:
    """Train `params` for `steps` steps and return them, or their moving average, replicated over the mesh.

    - `loss(params, frozen, batch, keys) -> (scalar, metrics)`: the loss of a global batch. `keys` holds one
      random key per row; `frozen` holds the parameters that are needed but not trained. Batches are split
      over all devices.
    - `average`: the decay of the moving average of the parameters, which is warmed up as
      `min(average, (1 + step) / (10 + step))`. None: no average.
    - `config`: JSON values that tell this run from others. A folder of another config is refused.
    - `mesh`: from `parallel.make_mesh`; None uses as many of all devices as divide the batch, and the others
      repeat their work.
    - `probe(params) -> (numbers, pictures)`: called every `probe_every` steps and after the last one, with
      the averaged parameters if there are any. Numbers go to the metrics; pictures are float `[H,W,3]` in
      [0,1].
    - `select`: one of the probe's numbers. The parameters for which it was smallest are returned, instead of
      the last ones.
    - `max_skipped`: an update that is not finite is skipped; this many in a row are an error.

    If it is started again with the same folder, it continues from the last checkpoint and reaches the same
    result. Ctrl-C saves a checkpoint first.

    Raises ValueError for another config, and FloatingPointError after `max_skipped` updates that are not
    finite, once the last good state is saved.
    """
    folder = Path(folder)
    if mesh is None:
        chosen = parallel.layout(jax.device_count(), batches.size)
        mesh = chosen.mesh()
        if chosen.devices > 1:
            parallel.announce(chosen.describe(folder.name))
    rows = parallel.local_rows(mesh, batches.size)
    optimizer = _skip_nonfinite(optimizer, max_skipped)
    params, frozen, key = parallel.replicate(mesh, (params, frozen, key))
    state = _compiled_start(mesh, optimizer, average is not None)(params)
    checkpoints = Checkpoints(folder / "checkpoints", dict(config), keep=2)
    best = Checkpoints(folder / "best", dict(config), keep=1) if select else None
    first, state = checkpoints.restore(state) or (0, state)
    step = _compiled_step(loss, optimizer, average)
    is_main = jax.process_index() == 0
    flops: float | None = None
    bar = tqdm(total=steps, initial=first, desc=folder.name, unit="step", disable=not is_main)
    with MetricsWriter(folder, first or None) as writer, bar, traced_steps("finetune") as begin_step:
        done = saved = first
        unlogged, probed = _read_pending(folder, first)

        def save() -> None:
            nonlocal saved
            if saved < done:
                with held_back():
                    if is_main:
                        _write_pending(folder, done, unlogged, probed)
                    checkpoints.save(done, state)
                    saved = done

        def log() -> None:
            nonlocal unlogged
            if not unlogged or (done % log_every and done != steps):
                return
            values = {name: float(np.mean([float(m[name]) for m in unlogged])) for name in unlogged[-1]}
            with held_back():
                writer.write(done, values)
                unlogged = []
            means = {name: f"{value:.4g}" for name, value in values.items()}
            bar.set_postfix({**speed(bar, batches.size, flops), **means})
            if state.opt.notfinite_count >= max_skipped:
                raise FloatingPointError(
                    f"{max_skipped} updates in a row were not finite, up to step {done}: lower the "
                    f"learning rate; the last good parameters are in {folder / 'checkpoints'}"
                )

        def run_probe() -> None:
            nonlocal probed
            if probe is None or probed or (done % probe_every and done != steps):
                return
            values, pictures = probe(_result_params(state))
            with held_back():
                _write_probe(writer, done, values, pictures)
                if best is not None and select is not None:
                    _save_if_best(best, done, values[select], _result_params(state))
                probed = True
            shown = ", ".join(f"{name} {value:.4g}" for name, value in values.items())
            bar.write(f"{folder.name} {done}: {shown}")

        try:
            log()  # what a stop prevented in the last step
            run_probe()
            for batch in batches(first, steps, rows) if first < steps else ():
                begin_step()
                fed = parallel.feed(mesh, batches.size, batch)
                if done == first:
                    flops = flops_to_report(step, state, frozen, dict(fed), key, devices=mesh.size)
                # The first step may compile for minutes; if it is interrupted, nothing is lost.
                with compiling(bar, done == first), held_back(done > first):
                    state, metrics = step(state, frozen, fed, key)
                    unlogged.append(metrics)
                    done, probed = done + 1, False
                bar.update()
                log()
                run_probe()
                if done % checkpoint_every == 0 or done == steps:
                    save()
                parallel.stop_if_preempted()
        except (KeyboardInterrupt, FloatingPointError) as stop:
            if state.step.is_deleted() or int(state.step) != done:  # the first step was interrupted
                bar.write(f"stopped after step {done} of {folder}: run the same command to go on")
                raise
            save()
            if isinstance(stop, KeyboardInterrupt):
                bar.write(f"stopped at step {done}, saved in {folder}: run the same command to go on")
            raise
    return _result_params(state) if best is None else _restore_best(best, _result_params(state))[1]


def _write_pending(folder: Path, done: int, unlogged: list[dict[str, jax.Array]], probed: bool) -> None:
    """Write what the steps up to a checkpoint have left to do, and delete the files of older ones.

    These are the metrics that the next line will average, and the probe of the last step, unless it was made.
    """
    values = [{name: float(value) for name, value in metrics.items()} for metrics in unlogged]
    write_json(folder / "pending" / f"{done}.json", {"unlogged": values, "probed": probed})
    for path in sorted((folder / "pending").glob("*.json"), key=lambda path: int(path.stem))[:-3]:
        path.unlink()


def _read_pending(folder: Path, done: int) -> tuple[list[dict[str, Any]], bool]:
    path = folder / "pending" / f"{done}.json"
    if not path.exists():
        return [], True
    pending = read_json(path, f"delete {folder} and run the same command again, which trains anew")
    return pending["unlogged"], pending["probed"]


# Cached, so that equal arguments give the same optimiser and thereby the same compiled step.
_skip_nonfinite = functools.cache(optax.apply_if_finite)


def _result_params(state: TrainState) -> Params:
    """Return the averaged parameters if there are any, else the trained ones."""
    return state.params if isinstance(state.average, tuple) else state.average


@functools.cache
def _compiled_start(mesh: Mesh, optimizer: optax.GradientTransformation, averaged: bool):
    """Return the jitted `start(params) -> state`; the state has copies, because steps donate it."""

    def start(params):
        copies = [jax.tree.map(jnp.copy, params) for _ in range(1 + averaged)]
        return TrainState(
            jnp.zeros((), jnp.int32), copies[0], optimizer.init(params), copies[1] if averaged else ()
        )

    return jax.jit(start, out_shardings=NamedSharding(mesh, PartitionSpec()))


@functools.cache
def _compiled_step(loss: Loss, optimizer: optax.GradientTransformation, decay: float | None):
    """Return the jitted `step(state, frozen, batch, key) -> (state, metrics)`, which donates the state."""

    def step(state, frozen, batch, key):
        rows = batch.pop("row")
        keys = jax.vmap(jax.random.fold_in, (None, 0))(key, rows)
        value_and_gradient = jax.value_and_grad(loss, has_aux=True)
        (value, metrics), gradient = value_and_gradient(state.params, frozen, batch, keys)
        updates, opt = optimizer.update(gradient, state.opt, state.params)
        params, average = optax.apply_updates(state.params, updates), state.average
        if decay is not None:
            warmed_up = jnp.minimum(decay, (1 + state.step) / (10 + state.step))
            average = optax.incremental_update(params, average, 1 - warmed_up)
        return TrainState(state.step + 1, params, opt, average), {"loss": value, **metrics}

    return jax.jit(step, donate_argnums=0)


def _restore_best(best: Checkpoints, params: Params) -> tuple[float, Params]:
    """Return the smallest value so far and its parameters; infinity and `params` if there is none."""
    saved = best.restore({"value": np.float64(0), "params": params})
    return (np.inf, params) if saved is None else (saved[1]["value"], saved[1]["params"])


def _save_if_best(best: Checkpoints, done: int, value: float, params: Params) -> None:
    if value < _restore_best(best, params)[0]:
        best.save(done, {"value": np.float64(value), "params": params})


def _write_probe(
    writer: MetricsWriter, done: int, values: Mapping[str, float], pictures: Mapping[str, np.ndarray]
) -> None:
    writer.write(done, values)
    for name, picture in pictures.items():
        writer.image(done, name, picture)
