"""Training a network: one loop for all of them, with progress, metrics, probes, checkpoints and resume.

In its folder: `checkpoints/` (Orbax), `metrics.jsonl` and TensorBoard events, `pictures/` (PNG).
"""

import functools
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax
from jax.sharding import Mesh
from tqdm import tqdm

from gap_jax import parallel
from gap_jax.checkpoint import Checkpoints
from gap_jax.data.loader import Batches
from gap_jax.metrics import MetricsWriter

Params = Any
Loss = Callable[[Params, Params, dict[str, jax.Array], jax.Array], tuple[jax.Array, dict[str, jax.Array]]]
Probe = Callable[[Params], tuple[dict[str, float], dict[str, np.ndarray]]]


class TrainState(NamedTuple):
    """What a training goes on from."""

    step: jax.Array
    params: Params
    opt: optax.OptState
    average: Params  # exponential moving average of params; () if there is none


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
    best: str | None = None,
    checkpoint_every: int = 500,
    log_every: int = 20,
    max_skipped: int = 10,
) -> Params:
    """Train `params` for `steps` steps and return them, or their moving average; replicated over the mesh.

    - `loss(params, frozen, batch, keys) -> (scalar, metrics)`: over a global batch of arrays with a key for
      each row; `frozen` is what it needs and does not train. Batches are split over all devices.
    - `average`: decay of the moving average, warmed up as `min(average, (1 + step) / (10 + step))`.
    - `config`: what tells this run from another; a folder of one that differs is refused.
    - `probe(params) -> (numbers, pictures)`: what to measure and draw every `probe_every` steps and at the
      end, with the averaged parameters if there are any; pictures are float `[H,W,3]` in [0,1].
    - `best`: the probe's number whose least decides which parameters are returned, instead of the last.
    - `max_skipped`: updates that are not finite are left out; so many in a row are an error.

    Started again on its folder, it goes on from the last checkpoint to the same result; Ctrl-C saves first.
    Raises ValueError for another config, FloatingPointError after `max_skipped`, the last state saved.
    """
    folder = Path(folder)
    mesh = mesh or parallel.make_mesh()
    rows = parallel.local_rows(mesh, batches.size)
    optimizer = _skip_nonfinite(optimizer, max_skipped)
    start = TrainState(
        jnp.zeros((), jnp.int32), params, optimizer.init(params), params if average is not None else ()
    )
    state = parallel.replicate(mesh, jax.tree.map(jnp.array, start))  # copies: each step gives its own away
    frozen, key = parallel.replicate(mesh, (frozen, key))
    checkpoints = Checkpoints(folder / "checkpoints", dict(config), keep=2)
    kept = Checkpoints(folder / "best", dict(config), keep=1) if best else None
    first, state = checkpoints.restore(state) or (0, state)
    step = _step(loss, optimizer, average)
    main = jax.process_index() == 0
    bar = tqdm(total=steps, initial=first, desc=folder.name, unit="step", disable=not main)
    with MetricsWriter(folder, first or None) as writer, bar:
        done, recent = first, []
        try:
            for batch in batches(first, steps, rows) if first < steps else ():
                state, metrics = step(state, frozen, parallel.feed(mesh, batches.size, batch), key)
                done += 1
                recent.append(metrics)
                bar.update()
                if done % log_every == 0 or done == steps:
                    values = {name: float(np.mean([m[name] for m in recent])) for name in metrics}
                    recent = []
                    writer.write(done, values)
                    bar.set_postfix({name: f"{value:.4g}" for name, value in values.items()})
                    if state.opt.notfinite_count >= max_skipped:
                        raise FloatingPointError(
                            f"{max_skipped} updates in a row were not finite, up to step {done}: lower the "
                            f"learning rate; the last good parameters are in {folder / 'checkpoints'}"
                        )
                if probe is not None and (done % probe_every == 0 or done == steps):
                    values = _report(probe, state, done, folder, writer, bar)
                    if kept is not None:
                        _keep_least(kept, done, values[best], _result(state))
                if done % checkpoint_every == 0 or done == steps:
                    checkpoints.save(done, state)
        except (KeyboardInterrupt, FloatingPointError) as stop:
            if state.step.is_deleted():  # it came while a step had the state: the last checkpoint has to do
                bar.write(f"stopped after step {done} of {folder}: run the same command to go on")
                raise
            checkpoints.save(done := int(state.step), state)
            if isinstance(stop, KeyboardInterrupt):
                bar.write(f"stopped at step {done}, saved in {folder}: run the same command to go on")
            raise
    return _result(state) if kept is None else _least(kept, _result(state))[1]


_skip_nonfinite = functools.cache(optax.apply_if_finite)  # the same for the same, and so is the compiled step


def _result(state: TrainState) -> Params:
    return state.params if isinstance(state.average, tuple) else state.average


@functools.cache
def _step(loss: Loss, optimizer: optax.GradientTransformation, decay: float | None):
    def step(state, frozen, batch, key):
        rows = batch.pop("row")
        keys = jax.vmap(jax.random.fold_in, (None, 0))(key, rows)
        gradient = jax.value_and_grad(loss, has_aux=True)
        (value, metrics), grads = gradient(state.params, frozen, batch, keys)
        updates, opt = optimizer.update(grads, state.opt, state.params)
        params, average = optax.apply_updates(state.params, updates), state.average
        if decay is not None:
            warm = jnp.minimum(decay, (1 + state.step) / (10 + state.step))
            average = optax.incremental_update(params, average, 1 - warm)
        return TrainState(state.step + 1, params, opt, average), {"loss": value, **metrics}

    return jax.jit(step, donate_argnums=0)


def _least(kept: Checkpoints, params: Params) -> tuple[float, Params]:
    """The least value so far with its parameters, infinity if there is none."""
    found = kept.restore({"value": np.float64(0), "params": params})
    return (np.inf, params) if found is None else (found[1]["value"], found[1]["params"])


def _keep_least(kept: Checkpoints, done: int, value: float, params: Params) -> None:
    if value < _least(kept, params)[0]:
        kept.save(done, {"value": np.float64(value), "params": params})


def _report(
    probe: Probe, state: TrainState, done: int, folder: Path, writer: MetricsWriter, bar: tqdm
) -> dict[str, float]:
    values, pictures = probe(_result(state))
    writer.write(done, values)
    bar.write(f"{folder.name} {done}: " + ", ".join(f"{name} {value:.4g}" for name, value in values.items()))
    for name, picture in pictures.items():
        writer.image(done, name, picture)
    return values
