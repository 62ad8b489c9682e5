"""States on disk, by Orbax: what a killed run goes on from, on any number of devices and processes.

A folder holds one run: `config.json`, and one Orbax checkpoint for each step kept, `120/`. In it, arrays are
named by their path in the state, `state.opt[0].mu['w']`; Orbax alone reads them as a dict by these names.
"""

import json
import logging
import os
import pickle
import shutil
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

Result = TypeVar("Result")


class Checkpoints:
    """The checkpoints of one run, in a folder that all processes see.

    - `config`: what the states depend on, of JSON's types. The first to open the folder leaves it there;
      whoever opens it later must bring the same.
    - `keep`: how many of the latest checkpoints stay, from 1 on.

    Every process opens, saves and restores, after `jax.distributed.initialize`; what fails on one, fails on
    all. Raises ValueError naming each field that differs from the saved configuration's, with both values;
    TypeError for a config that is not JSON.
    """

    def __init__(self, folder: str | Path, config: Mapping[str, Any], keep: int = 3):
        if keep < 1:
            raise ValueError(f"keep must be 1 or more checkpoints, found {keep}")
        self.folder, self.keep = Path(folder).absolute(), keep
        check_config(self.folder / "config.json", config)
        # Only process 0 reads and writes: for Orbax it is alone.
        alone = ocp.options.MultiprocessingOptions(0, {0}, barrier_sync_key_prefix="gap_jax")
        with _quiet():
            self._orbax = ocp.Checkpointer(ocp.PyTreeCheckpointHandler(), multiprocessing_options=alone)

    def save(self, step: int, state: Any) -> None:
        """Write `state`, a pytree of arrays, random keys and numbers; returns when it is safe on disk.

        A kill at any moment leaves the checkpoint before as the latest. One of the same step is replaced;
        those of later steps, which this run will come to anew, and all but the latest `keep` are removed.
        Raises OSError when it cannot be written (a full disk), all earlier ones intact; TypeError for a leaf
        that is no number, ValueError for a step below 0.
        """
        if step < 0:
            raise ValueError(f"step must be 0 or more, found {step}")
        arrays = {name: _to_host(leaf, name) for name, leaf in _by_name(state).items()}
        _on_first(lambda: self._write(int(step), arrays))

    def restore(self, template: Any) -> tuple[int, Any] | None:
        """The latest step saved and its state, bit for bit; None if there is none.

        `template` is a state as `save` was given: its structure, shapes and types are required, types,
        devices and sharding of the result are its, its values are not used. A checkpoint that is damaged or
        of another structure is passed over, with a warning, for the one before. Raises ValueError if some
        are readable and none has the template's structure.
        """
        leaves = _by_name(template)
        expected = {name: _shape_dtype(leaf, name) for name, leaf in leaves.items()}
        found = _on_first(lambda: self._read(expected))
        if found is None:
            return None
        step, arrays = found
        restored = [_like(leaf, arrays[name]) for name, leaf in leaves.items()]
        return step, jax.tree.unflatten(jax.tree.structure(template), restored)

    def _write(self, step: int, arrays: dict[str, np.ndarray]) -> None:
        self._publish()
        complete = self.folder / f"{step}.new"
        arrays = {name: array for name, array in arrays.items() if array.size}  # Orbax refuses empty ones
        try:
            with _quiet():
                self._orbax.save(complete, args=ocp.args.PyTreeSave(arrays))
            _flush(complete)
        except Exception as error:
            self._discard(f"{step}.new*")
            raise OSError(
                f"{self.folder}: the checkpoint of step {step} could not be written, "
                f"earlier ones are intact: {_brief(error)}"
            ) from error
        self._publish()
        kept = [saved for saved in self._steps() if saved <= step][-self.keep :]
        for saved in set(self._steps()).difference(kept):
            shutil.rmtree(self.folder / str(saved))

    def _publish(self) -> None:
        """Let what is written completely take its place, also when a kill came in between."""
        for complete in self.folder.glob("*.new"):
            target = complete.with_suffix("")
            if target.exists():
                shutil.rmtree(target)
            os.rename(complete, target)
        self._discard("*.new.*")
        _fsync(self.folder)

    def _discard(self, unfinished: str) -> None:
        """Remove as far as possible: Orbax's threads may still be writing there. The next to come goes on."""
        for path in self.folder.glob(unfinished):
            shutil.rmtree(path, ignore_errors=True)

    def _read(self, expected: dict[str, jax.ShapeDtypeStruct]) -> tuple[int, dict[str, np.ndarray]] | None:
        self._publish()
        mismatch = None
        for step in reversed(self._steps()):
            path = self.folder / str(step)
            try:
                with _quiet():
                    found = self._orbax.restore(path, args=ocp.args.PyTreeRestore())
            except Exception as error:
                warnings.warn(f"{path} is damaged, passed over: {_brief(error)}", stacklevel=5)
                continue
            arrays = {name: np.zeros(x.shape, x.dtype) for name, x in expected.items() if not x.size} | found
            differing = _differences(_described(expected), _described(arrays))
            if not differing:
                return step, arrays
            warnings.warn(f"{path} holds a state of another structure, passed over", stacklevel=5)
            mismatch = mismatch or f"{path} holds a state of another structure: {differing}"
        if mismatch:
            raise ValueError(mismatch)
        return None

    def _steps(self) -> list[int]:
        return sorted(int(path.name) for path in self.folder.iterdir() if path.name.isdecimal())


def _on_first(work: Callable[[], Result]) -> Result:
    """`work()` on process 0, and what it gives or raises on all."""
    if jax.process_count() == 1:
        return work()
    outcome = b""
    if jax.process_index() == 0:
        try:
            outcome = pickle.dumps((work(), None))
        except Exception as error:
            outcome = pickle.dumps((None, error))
    # As bytes: sums over processes, by which JAX broadcasts, would turn -0.0 into 0.0.
    size = multihost_utils.broadcast_one_to_all(np.int32(len(outcome)))
    padded = np.frombuffer(outcome.ljust(size, b"\0"), np.uint8)
    result, error = pickle.loads(multihost_utils.broadcast_one_to_all(padded).tobytes())
    if error is not None:
        raise error
    return result


def check_config(path: Path, config: Mapping[str, Any]) -> None:
    """Leave the configuration of a run in the file, or compare it with what an earlier run left there.

    Raises ValueError naming each field that differs, with both values; TypeError for what is not JSON.
    """
    text = json.dumps(dict(config), indent=2)
    _on_first(lambda: _check_config(path, text))


def _check_config(path: Path, text: str) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    if not path.exists():
        scratch = path.with_name(f".{path.name}.{os.getpid()}")
        try:
            scratch.write_text(text)
            _fsync(scratch)
            os.replace(scratch, path)
        finally:
            scratch.unlink(missing_ok=True)
        return
    try:
        saved = json.loads(path.read_text())
    except ValueError as error:
        raise ValueError(f"{path} is not the configuration of a run: {error}") from error
    differing = _differences(_dotted(json.loads(text)), _dotted(saved))
    if differing:
        raise ValueError(
            f"{path.parent} belongs to another configuration: {differing}. Use another folder, or "
            f"the configuration in {path}"
        )


def _differences(given: Mapping[str, Any], saved: Mapping[str, Any]) -> str:
    """`a is 1, saved was 2; …`, empty if there are none."""

    def shown(fields: Mapping[str, Any], name: str) -> str:
        return repr(fields[name]) if name in fields else "absent"

    return "; ".join(
        f"{name} is {shown(given, name)}, saved was {shown(saved, name)}"
        for name in {**given, **saved}
        if given.get(name, ...) != saved.get(name, ...)
    )


def _dotted(config: Any, name: str = "") -> dict[str, Any]:
    """`{"a": {"b": 1}}` as `{"a.b": 1}`."""
    if not isinstance(config, dict) or not config:
        return {name: config}
    prefix = f"{name}." if name else ""
    fields = [_dotted(value, f"{prefix}{key}") for key, value in config.items()]
    return {name: value for part in fields for name, value in part.items()}


def _described(arrays: Mapping[str, Any]) -> dict[str, str]:
    return {name: f"{np.dtype(x.dtype).name}{list(x.shape)}" for name, x in arrays.items()}


def _by_name(state: Any) -> dict[str, Any]:
    """The leaves by their paths; the kind of random keys, which their numbers do not tell, is in the name."""
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


def _shape_dtype(leaf: Any, name: str) -> jax.ShapeDtypeStruct | np.ndarray:
    if _is_key(leaf):
        return jax.eval_shape(jax.random.key_data, leaf)
    return leaf if isinstance(leaf, jax.Array) else _to_host(leaf, name)


def _like(leaf: Any, value: np.ndarray) -> Any:
    """`value` with the type of `leaf`, and where it is."""
    if _is_key(leaf):
        data = _like(jax.random.key_data(leaf), value)
        return jax.random.wrap_key_data(data, impl=jax.random.key_impl(leaf))
    if isinstance(leaf, jax.Array):
        if not leaf.committed:  # it goes where it is used, as does what is restored
            return jnp.array(value)
        return jax.make_array_from_callback(value.shape, leaf.sharding, lambda index: value[index])
    if isinstance(leaf, np.ndarray):
        return value
    return value[()] if isinstance(leaf, np.generic) else type(leaf)(value.item())


@contextmanager
def _quiet() -> Iterator[None]:
    """Without Orbax's log: what goes wrong, we say."""
    logger = logging.getLogger("absl")
    level = logger.level
    logger.setLevel(logging.CRITICAL + 1)
    try:
        yield
    finally:
        logger.setLevel(level)


def _brief(error: Exception) -> str:
    return textwrap.shorten(f"{type(error).__name__}: {error}", 400)


def _flush(folder: Path) -> None:
    """Have the system write out all of the folder: Orbax does so for the arrays, not for its metadata."""
    for parent, _, files in os.walk(folder):
        for path in (*(Path(parent, name) for name in files), Path(parent)):
            _fsync(path)


def _fsync(path: Path) -> None:
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
