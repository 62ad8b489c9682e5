"""Checkpoints: equal to the bit, on other devices and processes, after damage, a kill or a full disk."""

import contextlib
import json
import os
import random
import re
import resource
import shutil
import signal
import socket
import subprocess
import sys
import time
from pathlib import Path
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from gap_jax.checkpoint import Checkpoints

ROOT = Path(__file__).parents[2]


class State(NamedTuple):
    embeddings: jax.Array
    opt: Any
    key: jax.Array
    step: jax.Array
    window: np.ndarray
    empty: jax.Array
    count: int = 0
    best: float = 0.0
    extra: Any = None


def state(seed: int = 0, width: int = 5) -> State:
    """Return every kind of value that a stage may keep, NaN, -0.0 and infinity among them."""
    numbers = np.random.default_rng(seed)
    embeddings = jnp.asarray(numbers.standard_normal((3, width), np.float32))
    optimizer = optax.adamw(optax.warmup_cosine_decay_schedule(0.0, 0.1, 2, 10))
    _, opt = optimizer.update(embeddings * 2, optimizer.init(embeddings), embeddings)
    return State(
        embeddings=embeddings,
        opt=opt,
        key=jax.random.split(jax.random.key(seed)),
        step=jnp.int32(seed),
        window=np.array([np.nan, -0.0, np.inf, seed], np.float64),
        empty=jnp.zeros((0, 4)),
        count=seed,
        best=0.1 * seed,
        extra={
            "half": jnp.asarray(numbers.standard_normal(7), jnp.bfloat16),
            "seen.1": [np.array([True, False])],
        },
    )


def assert_identical(actual, expected):
    """Compare structures, types and bits."""
    assert jax.tree.structure(actual) == jax.tree.structure(expected)
    for a, b in zip(jax.tree.leaves(actual), jax.tree.leaves(expected), strict=True):
        assert isinstance(a, jax.Array) == isinstance(b, jax.Array) and isinstance(a, type(b))
        if isinstance(a, jax.Array) and jnp.issubdtype(a.dtype, jax.dtypes.prng_key):
            assert jax.random.key_impl(a) == jax.random.key_impl(b)
            a, b = jax.random.key_data(a), jax.random.key_data(b)
        a, b = np.asarray(a), np.asarray(b)
        assert (a.dtype, a.shape, a.tobytes()) == (b.dtype, b.shape, b.tobytes())


def names(folder):
    return sorted(path.name for path in folder.iterdir())


def damage(folder):
    """Truncate each file of a checkpoint to half its size."""
    for path in folder.rglob("*"):
        if path.is_file():
            path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])


def test_a_state_is_restored_to_the_bit_with_its_types(tmp_path):
    assert Checkpoints(tmp_path, {}).restore(state()) is None
    Checkpoints(tmp_path, {}).save(7, state(3))
    step, restored = Checkpoints(tmp_path, {}).restore(state())
    assert step == 7
    assert_identical(restored, state(3))


@pytest.mark.parametrize("impl", ["threefry2x32", "rbg", "unsafe_rbg"])
def test_random_keys_keep_their_kind(tmp_path, impl):
    checkpoints = Checkpoints(tmp_path, {})
    checkpoints.save(1, {"key": jax.random.key(5, impl=impl)})
    _, restored = checkpoints.restore({"key": jax.random.key(0, impl=impl)})
    assert_identical(restored, {"key": jax.random.key(5, impl=impl)})
    assert jax.random.normal(restored["key"]) == jax.random.normal(jax.random.key(5, impl=impl))
    other = "unsafe_rbg" if impl == "rbg" else "rbg"
    with (
        pytest.warns(UserWarning, match="does not fit this program"),
        pytest.raises(ValueError, match="key<"),
    ):
        checkpoints.restore({"key": jax.random.key(0, impl=other)})


def test_orbax_alone_reads_it(tmp_path):
    import orbax.checkpoint as ocp

    Checkpoints(tmp_path, {}).save(7, state(3))
    arrays = ocp.PyTreeCheckpointer().restore(tmp_path / "7")
    np.testing.assert_array_equal(arrays["state.embeddings"], state(3).embeddings)
    np.testing.assert_array_equal(arrays["state.opt[0].mu"], state(3).opt[0].mu)
    np.testing.assert_array_equal(arrays["state.extra['seen.1'][0]"], [True, False])


def test_the_latest_are_kept(tmp_path):
    checkpoints = Checkpoints(tmp_path, {}, keep=2)
    for step in (0, 8, 9, 10):
        checkpoints.save(step, {"x": jnp.float32(step)})
    assert names(tmp_path) == ["10", "9", "config.json"]
    assert checkpoints.restore({"x": jnp.float32(0)}) == (10, {"x": 10.0})


def test_saving_a_step_replaces_it_and_removes_later_ones(tmp_path):
    checkpoints = Checkpoints(tmp_path, {}, keep=1)
    checkpoints.save(3, {"x": 1})
    checkpoints.save(3, {"x": 2})
    assert checkpoints.restore({"x": 0}) == (3, {"x": 2})
    checkpoints.save(2, {"x": 3})
    assert checkpoints.restore({"x": 0}) == (2, {"x": 3})
    assert names(tmp_path) == ["2", "config.json"]


def test_another_structure_is_skipped_or_reported(tmp_path):
    checkpoints = Checkpoints(tmp_path, {})
    checkpoints.save(1, {"a": jnp.zeros(3), "b": np.float32(1)})
    with pytest.warns(UserWarning), pytest.raises(ValueError) as raised:
        checkpoints.restore({"a": jnp.zeros(3, int), "c": jnp.zeros((2, 2))})
    assert str(raised.value) == (
        f"checkpoint {tmp_path}/1 does not fit this program: "
        "state['a'] is 'int32[3]', saved was 'float32[3]'; "
        "state['c'] is 'float32[2, 2]', saved was absent; "
        "state['b'] is absent, saved was 'float32[]'. "
        f"Delete {tmp_path} to start anew, or use the settings and the version of gap_jax that wrote it"
    )
    checkpoints.save(2, {"other": 1})
    with pytest.warns(UserWarning, match="2 does not fit this program, skipped"):
        assert checkpoints.restore({"a": np.zeros(3, np.float32), "b": np.float32(0)})[0] == 1
    assert names(tmp_path) == ["1", "2", "config.json"]


@pytest.mark.parametrize("function", ["os.rename", "os.fsync", "shutil.rmtree"])
def test_a_kill_while_the_only_checkpoint_is_replaced_loses_nothing(tmp_path, monkeypatch, function):
    class Killed(BaseException):
        pass

    real, calls = getattr(*KILLED_AT[function]), []

    def kill(*args, **kwargs):
        calls.append(args)
        if len(calls) == nth:
            raise Killed
        return real(*args, **kwargs)

    for nth in range(1, 100):
        shutil.rmtree(tmp_path)
        checkpoints = Checkpoints(tmp_path, {}, keep=1)
        checkpoints.save(3, {"x": 1})
        calls.clear()
        with monkeypatch.context() as patched, contextlib.suppress(Killed):
            patched.setattr(*KILLED_AT[function], kill)
            checkpoints.save(3, {"x": 2})
        step, restored = Checkpoints(tmp_path, {}, keep=1).restore({"x": 0})
        assert step == 3 and restored["x"] in (1, 2)
        assert names(tmp_path) == ["3", "config.json"]
        if len(calls) < nth:
            assert nth > 1 and restored["x"] == 2
            return
    raise AssertionError


KILLED_AT = {"os.rename": (os, "rename"), "os.fsync": (os, "fsync"), "shutil.rmtree": (shutil, "rmtree")}

SAVING = """
import sys, itertools
sys.path.insert(0, {root!r})
from tests.checkpoints.test_checkpoint import Checkpoints, state
checkpoints = Checkpoints({folder!r}, {{}}, keep=2)
for step in itertools.count(1):
    checkpoints.save(step, state(step, 400))
    print(step, flush=True)
"""


def test_a_kill_at_a_random_moment_leaves_the_previous_state(tmp_path):
    script = SAVING.format(root=str(ROOT), folder=str(tmp_path))
    process = subprocess.Popen([sys.executable, "-c", script], stdout=subprocess.PIPE, text=True)
    for _ in range(3):
        last = int(process.stdout.readline())
    time.sleep(random.uniform(0, 0.3))
    os.kill(process.pid, signal.SIGKILL)
    last = int((process.stdout.read().split() or [last])[-1])
    process.wait()
    checkpoints = Checkpoints(tmp_path, {}, keep=2)
    step, restored = checkpoints.restore(state(0, 400))
    assert step in (last, last + 1)
    assert_identical(restored, state(step, 400))
    checkpoints.save(step + 1, state(step + 1, 400))
    assert names(tmp_path) == sorted([str(step), str(step + 1), "config.json"])


@pytest.mark.filterwarnings("error::pytest.PytestUnraisableExceptionWarning")  # a trace on stderr
def test_a_full_disk_is_reported_and_leaves_earlier_checkpoints(tmp_path):
    checkpoints = Checkpoints(tmp_path, {})
    checkpoints.save(1, state(1, 4000))
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (1000, limits[1]))
    try:
        with pytest.raises(
            OSError, match=rf"{re.escape(str(tmp_path))}: the checkpoint of step 2 .* earlier ones are intact"
        ):
            checkpoints.save(2, state(2, 4000))
        with pytest.raises(OSError, match="the checkpoint of step 1 could not be written"):
            checkpoints.save(1, state(2, 4000))
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
    assert_identical(checkpoints.restore(state(0, 4000))[1], state(1, 4000))
    checkpoints.save(3, state(3, 4000))  # removes what Orbax's threads may have written after the errors
    assert names(tmp_path) == ["1", "3", "config.json"]


def test_another_configuration_is_refused_field_by_field(tmp_path):
    config = {"lr": 0.1, "model": {"id": "sd15", "size": [8, 8]}, "seed": None}
    Checkpoints(tmp_path, config)
    Checkpoints(tmp_path, {"seed": None, "model": {"size": (8, 8), "id": "sd15"}, "lr": 0.1})
    with pytest.raises(ValueError) as raised:
        Checkpoints(tmp_path, {"lr": 0.2, "model": {"id": "sd15", "size": [4, 8]}, "words": "a"})
    assert str(raised.value) == (
        f"{tmp_path} holds a run of another configuration: lr is 0.2, saved was 0.1; "
        "model.size is [4, 8], saved was [8, 8]; words is 'a', saved was absent; seed is absent, "
        f"saved was None. Use another folder, use the configuration in {tmp_path}/config.json, or delete "
        f"{tmp_path} to start anew"
    )
    assert json.loads((tmp_path / "config.json").read_text()) == config
    with pytest.raises(
        ValueError, match=r"e is 4, saved was absent; .* absent; and 4 more\. Use another folder"
    ):
        Checkpoints(tmp_path, config | {name: 4 for name in "efghijklmn"})


def test_invalid_arguments_are_refused(tmp_path):
    with pytest.raises(ValueError, match="keep must be 1 or more"):
        Checkpoints(tmp_path, {}, keep=0)
    with pytest.raises(TypeError, match="JSON"):
        Checkpoints(tmp_path, {"f": print})
    assert names(tmp_path) == []
    with pytest.raises(
        TypeError, match=r"state\['a'\] must be an array, a random key or a number, found str"
    ):
        Checkpoints(tmp_path, {}).save(1, {"a": "word"})
    with pytest.raises(ValueError, match="step must be 0 or more, found -1"):
        Checkpoints(tmp_path, {}).save(-1, {"a": 1})
    (tmp_path / "config.json").write_text("{")
    with pytest.raises(ValueError, match=r"config\.json is not the configuration of a run"):
        Checkpoints(tmp_path, {})


def test_importing_the_package_does_not_import_orbax():
    code = "import gap_jax, sys; assert 'orbax' not in sys.modules"
    subprocess.run([sys.executable, "-c", code], check=True, cwd=ROOT)


def state_of_all_devices(seed: int) -> dict[str, Any]:
    """Return arrays and keys that are split over, or replicated on, all devices of all processes."""
    mesh = jax.sharding.Mesh(np.array(jax.devices()), ("prompt",))
    split = jax.sharding.NamedSharding(mesh, jax.sharding.PartitionSpec("prompt"))
    everywhere = jax.sharding.NamedSharding(mesh, jax.sharding.PartitionSpec())
    numbers = np.random.default_rng(seed).standard_normal((4, 3), np.float32)
    numbers[0, 0] = -0.0
    return {
        "w": jax.make_array_from_callback((4, 3), split, lambda index: numbers[index]),
        "key": jax.jit(lambda: jax.random.split(jax.random.key(seed), 4), out_shardings=split)(),
        "step": jax.make_array_from_callback((), everywhere, lambda _: np.int32(seed)),
        "count": seed,
    }


def assert_same_shards(actual, expected):
    for name in ("w", "key", "step"):
        assert actual[name].sharding == expected[name].sharding
        for a, b in zip(actual[name].addressable_shards, expected[name].addressable_shards, strict=True):
            assert_identical(a.data, b.data)
    assert actual["count"] == expected["count"]


DISTRIBUTED = """
import sys, warnings
import jax
jax.config.update("jax_num_cpu_devices", 2)
jax.distributed.initialize("localhost:{port}", 2, int(sys.argv[1]))
sys.path.insert(0, {root!r})
from tests.checkpoints.test_checkpoint import Checkpoints, assert_same_shards, state_of_all_devices

checkpoints = Checkpoints({folder!r}, {{}})
assert len(jax.devices()) == 4
step, restored = checkpoints.restore(state_of_all_devices(0))
assert step == 1
assert_same_shards(restored, state_of_all_devices(1))
checkpoints.save(2, state_of_all_devices(2))
try:
    Checkpoints({folder!r}, {{"lr": 1}})
except ValueError as error:
    print(error)
"""


def test_the_numbers_of_processes_and_devices_may_change(tmp_path):
    Checkpoints(tmp_path, {}).save(1, state_of_all_devices(1))
    with socket.socket() as free:
        free.bind(("localhost", 0))
        script = DISTRIBUTED.format(root=str(ROOT), folder=str(tmp_path), port=free.getsockname()[1])
    processes = [
        subprocess.Popen(
            [sys.executable, "-c", script, str(i)], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
        )
        for i in range(2)
    ]
    for process in processes:
        out, err = process.communicate(timeout=120)
        assert process.returncode == 0 and "lr is 1, saved was absent" in out, err
    step, restored = Checkpoints(tmp_path, {}).restore(state_of_all_devices(0))
    assert step == 2
    assert_same_shards(restored, state_of_all_devices(2))
