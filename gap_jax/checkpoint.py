"""Checkpoints of a run's state, written by Orbax and restored on any number of devices and processes.

The folder of a run holds `config.json` and, for each step that is kept, one Orbax checkpoint, such as `120/`.
A checkpoint is a flat dict of arrays, named by their paths in the state: `state.opt[0].mu['w']`. Beside
Orbax's files, `digest.json` has the digest of all arrays, so that a file that changed on the disk is noticed.

Orbax's `CheckpointManager` does not carry this. When one process fails to save or to restore, it does not
tell the others, which then wait until the job dies; and it deletes a step before it writes it again.
"""

import functools
import hashlib
import json
import logging
import os
import pickle
import shutil
import sys
import textwrap
import warnings
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any, TypeVar

import jax
import jax.numpy as jnp
import numpy as np
import orbax.checkpoint as ocp
from jax.experimental import multihost_utils

from gap_jax.files import free_space, fsync, fsync_tree, write_whole

_Result = TypeVar("_Result")
_DIGEST = "digest.json"
_MAX_DIFFERENCES = 6  # more are counted only: a state may have thousands of arrays


class Checkpoints:
    """The checkpoints of one run, in a folder that all processes see.

    - `config`: JSON values that the states depend on. The first process to open the folder saves them in
      `config.json`; whoever opens it later must give the same.
    - `keep`: number of checkpoints to keep, 1 or more; older ones are removed.

    After `jax.distributed.initialize`, every process must make the same calls; an error on one is raised on
    all. Raises ValueError naming the fields that differ from the saved configuration, with both values, and
    TypeError for a config that is not JSON.
    """

    def __init__(self, folder: str | Path, config: Mapping[str, Any], keep: int = 3):
        if keep < 1:
            raise ValueError(f"keep must be 1 or more checkpoints, found {keep}")
        self.folder, self.keep = Path(folder).absolute(), keep
        check_config(self.folder / "config.json", config)
        # Process 0 alone reads and writes. Orbax could write from all, but then an error on one leaves the
        # others waiting for it until the job is killed.
        _ignore_closed_loops()
        process_0 = ocp.options.MultiprocessingOptions(0, {0}, barrier_sync_key_prefix="gap_jax")
        with _orbax_log_off():
            self._orbax = ocp.Checkpointer(ocp.PyTreeCheckpointHandler(), multiprocessing_options=process_0)

    def save(self, step: int, state: Any) -> None:
        """Write `state`, a pytree of arrays, random keys and numbers; return when it is safe on the disk.

        If the process is killed at any moment, the previous checkpoint stays the latest. A checkpoint of the
        same step is replaced. Removed are checkpoints of later steps, which this run will reach again, and
        all but the latest `keep`.

        Raises OSError if it cannot be written (a full disk), with all earlier checkpoints intact; TypeError
        for a leaf that is not a number; ValueError for a negative step.
        """
        if step < 0:
            raise ValueError(f"step must be 0 or more, found {step}")
        arrays = {name: _to_host(leaf, name) for name, leaf in _leaves_by_name(state).items()}
        _on_first_process(lambda: self._write(int(step), arrays))

    def restore(self, template: Any) -> tuple[int, Any] | None:
        """Return the latest step saved and its state, equal to the bit; None if there is no checkpoint.

        `template` is a state like the one given to `save`. The restored state has its structure, shapes,
        types, devices and sharding; its values are not used. A checkpoint that is damaged or has another
        structure is skipped with a warning, and the one before it is tried.

        Raises ValueError if some checkpoints are readable and none has the structure of `template`, and for
        a damaged checkpoint where only one is kept.
        """
        leaves = _leaves_by_name(template)
        expected = {name: _shape_and_dtype(leaf, name) for name, leaf in leaves.items()}
        latest = _on_first_process(lambda: self._read(expected))
        if latest is None:
            return None
        step, arrays = latest
        restored = [_place_like(leaf, arrays[name]) for name, leaf in leaves.items()]
        return step, jax.tree.unflatten(jax.tree.structure(template), restored)

    def _write(self, step: int, arrays: dict[str, np.ndarray]) -> None:
        self._publish()
        complete = self.folder / f"{step}.new"
        arrays = {name: array for name, array in arrays.items() if array.size}  # Orbax refuses empty arrays
        try:
            with _orbax_log_off():
                self._orbax.save(complete, args=ocp.args.PyTreeSave(arrays))
            (complete / _DIGEST).write_text(json.dumps({"blake2b": digest(arrays)}))
            fsync_tree(complete)  # Orbax flushes the arrays, but not its own metadata
        except Exception as error:
            self._remove_unfinished(f"{step}.new*")
            raise OSError(
                f"{self.folder}: the checkpoint of step {step} could not be written, "
                f"earlier ones are intact; {free_space(self.folder)}. {_summary(error)}"
            ) from error
        self._publish()
        kept = [saved for saved in self._steps() if saved <= step][-self.keep :]
        for saved in set(self._steps()).difference(kept):
            shutil.rmtree(self.folder / str(saved))

    def _publish(self) -> None:
        """Give each complete checkpoint, `120.new`, its final name, `120`; also those of a killed process."""
        for complete in self.folder.glob("*.new"):
            if not (complete / _DIGEST).exists():  # killed between Orbax's last step and the digest
                shutil.rmtree(complete)
                continue
            target = complete.with_suffix("")
            if target.exists():
                shutil.rmtree(target)
            os.rename(complete, target)
        self._remove_unfinished("*.new.*")
        fsync(self.folder)

    def _remove_unfinished(self, pattern: str) -> None:
        """Remove files as far as possible: Orbax may still be writing some, which the next save removes."""
        for path in self.folder.glob(pattern):
            shutil.rmtree(path, ignore_errors=True)

    def _read(self, expected: Mapping[str, Any]) -> tuple[int, dict[str, np.ndarray]] | None:
        self._publish()
        mismatch = None
        for step in reversed(self._steps()):
            path = self.folder / str(step)
            try:
                with _orbax_log_off():
                    saved = self._orbax.restore(path, args=ocp.args.PyTreeRestore())
                if digest(saved) != json.loads((path / _DIGEST).read_text())["blake2b"]:
                    raise ValueError(f"its arrays are not those of {_DIGEST}: a file has changed on the disk")
            except Exception as error:
                if self.keep == 1:
                    raise ValueError(
                        f"checkpoint {path} is damaged, and there is no earlier one: {_summary(error)}. "
                        f"Delete {self.folder.parent} and run the same command again, which makes it anew"
                    ) from error
                warnings.warn(f"checkpoint {path} is damaged, skipped: {_summary(error)}", stacklevel=5)
                continue
            empty = {name: np.zeros(x.shape, x.dtype) for name, x in expected.items() if not x.size}
            arrays = empty | saved
            differences = _differences(_describe(expected), _describe(arrays))
            if not differences:
                return step, arrays
            warnings.warn(f"checkpoint {path} does not fit this program, skipped", stacklevel=5)
            mismatch = mismatch or f"checkpoint {path} does not fit this program: {differences}"
        if mismatch:
            raise ValueError(
                f"{mismatch}. Delete {self.folder} to start anew, or use the settings and the version of "
                "gap_jax that wrote it"
            )
        return None

    def _steps(self) -> list[int]:
        return sorted(int(path.name) for path in self.folder.iterdir() if path.name.isdecimal())


def check_config(path: Path, config: Mapping[str, Any], save: bool = True) -> None:
    """Compare the configuration of a run with the one that an earlier run saved as JSON, if there is one.

    If there is none, the configuration is saved, unless `save` is False. Every process must call it. Raises
    ValueError naming the fields that differ, with both values; TypeError for a configuration that is not
    JSON.
    """
    text = json.dumps(dict(config), indent=2)
    _on_first_process(lambda: _save_or_compare(path, text, save))


def _save_or_compare(path: Path, text: str, save: bool) -> None:
    if not path.exists():
        if save:
            write_whole(path, text.encode())
        return
    try:
        saved = json.loads(path.read_text(encoding="utf-8"))
    except (ValueError, RecursionError) as error:
        raise ValueError(
            f"{path} is not the configuration of a run: {error}. Delete {path.parent} to start anew"
        ) from error
    differences = _differences(_flatten(json.loads(text)), _flatten(saved))
    if differences:
        raise ValueError(
            f"{path.parent} holds a run of another configuration: {differences}. Use another folder, use the "
            f"configuration in {path}, or delete {path.parent} to start anew"
        )


def _on_first_process(function: Callable[[], _Result]) -> _Result:
    """Call `function` on process 0, and return its result, or raise its error, on all processes."""
    if jax.process_count() == 1:
        return function()
    outcome = b""
    if jax.process_index() == 0:
        try:
            outcome = pickle.dumps((function(), None))
        except Exception as error:
            outcome = pickle.dumps((None, error))
    # JAX broadcasts by summing over processes, which would turn -0.0 into 0.0: bytes are safe.
    size = multihost_utils.broadcast_one_to_all(np.int32(len(outcome)))
    padded = np.frombuffer(outcome.ljust(size, b"\0"), np.uint8)
    result, failure = pickle.loads(multihost_utils.broadcast_one_to_all(padded).tobytes())
    if failure is not None:
        raise failure
    return result


def _differences(given: Mapping[str, Any], saved: Mapping[str, Any]) -> str:
    """Return `a is 1, saved was 2; …`, empty if the two are equal."""

    def show(fields: Mapping[str, Any], name: str) -> str:
        return repr(fields[name]) if name in fields else "absent"

    differing = [name for name in {**given, **saved} if given.get(name, ...) != saved.get(name, ...)]
    shown = [f"{name} is {show(given, name)}, saved was {show(saved, name)}" for name in differing]
    if len(shown) > _MAX_DIFFERENCES:
        shown[_MAX_DIFFERENCES:] = [f"and {len(shown) - _MAX_DIFFERENCES} more"]
    return "; ".join(shown)


def _flatten(config: Any, name: str = "") -> dict[str, Any]:
    """Turn `{"a": {"b": 1}}` into `{"a.b": 1}`."""
    if not isinstance(config, dict) or not config:
        return {name: config}
    prefix = f"{name}." if name else ""
    return {
        path: value
        for key, entry in config.items()
        for path, value in _flatten(entry, f"{prefix}{key}").items()
    }


def digest(arrays: Mapping[str, Any]) -> str:
    """Return the digest of all arrays with their names, types and shapes."""
    digest = hashlib.blake2b(digest_size=16)
    for name in sorted(arrays):
        array = np.asarray(arrays[name])
        digest.update(f"{name} {array.dtype} {array.shape}".encode())
        digest.update(array.tobytes())
    return digest.hexdigest()


def _describe(arrays: Mapping[str, Any]) -> dict[str, str]:
    return {name: f"{np.dtype(x.dtype).name}{list(x.shape)}" for name, x in arrays.items()}


def _leaves_by_name(state: Any) -> dict[str, Any]:
    """Return the leaves by their paths. The name of a random key ends with its kind, which its data lacks."""
    leaves = {}
    for path, leaf in jax.tree_util.tree_leaves_with_path(state):
        kind = f"<{leaf.dtype}>" if _is_key(leaf) else ""
        leaves[f"state{jax.tree_util.keystr(path)}{kind}"] = leaf
    return leaves


def _is_key(leaf: Any) -> bool:
    return isinstance(leaf, jax.Array) and jnp.issubdtype(leaf.dtype, jax.dtypes.prng_key)


def _to_host(leaf: Any, name: str) -> np.ndarray:
    if _is_key(leaf):
        leaf = jax.random.key_data(leaf)
    if isinstance(leaf, jax.Array) and not leaf.is_fully_addressable:
        return multihost_utils.process_allgather(leaf, tiled=True)
    array = np.asarray(leaf)
    if not (jnp.issubdtype(array.dtype, jnp.number) or array.dtype == bool):
        raise TypeError(f"{name} must be an array, a random key or a number, found {type(leaf).__name__}")
    return array


def _shape_and_dtype(leaf: Any, name: str) -> jax.ShapeDtypeStruct | jax.Array | np.ndarray:
    if _is_key(leaf):
        return jax.eval_shape(jax.random.key_data, leaf)
    return leaf if isinstance(leaf, jax.Array) else _to_host(leaf, name)


def _place_like(leaf: Any, value: np.ndarray) -> Any:
    """Return `value` with the type, devices and sharding of `leaf`."""
    if _is_key(leaf):
        data = _place_like(jax.random.key_data(leaf), value)
        return jax.random.wrap_key_data(data, impl=jax.random.key_impl(leaf))
    if isinstance(leaf, jax.Array):
        if not leaf.committed:  # JAX moves such an array to where it is used, and so it does the restored one
            return jnp.array(value)
        return jax.make_array_from_callback(value.shape, leaf.sharding, lambda index: value[index])
    if isinstance(leaf, np.ndarray):
        return value
    return value[()] if isinstance(leaf, np.generic) else type(leaf)(value.item())


@contextmanager
def _orbax_log_off() -> Iterator[None]:
    """Silence Orbax's log: this module reports errors itself."""
    logger = logging.getLogger("absl")
    level = logger.level
    logger.setLevel(logging.CRITICAL + 1)
    try:
        yield
    finally:
        logger.setLevel(level)


@functools.cache
def _ignore_closed_loops() -> None:
    """Let Python be silent about threads of Orbax that answer to an event loop which an error has closed."""
    before = sys.unraisablehook

    def report(unraisable: Any) -> None:
        if str(unraisable.exc_value) != "Event loop is closed":
            before(unraisable)

    sys.unraisablehook = report


def _summary(error: Exception) -> str:
    return textwrap.shorten(f"{type(error).__name__}: {error}", 300)
