"""Devices and hosts: one mesh of all of them, programs mapped over it, batches fed per process.

The mesh has two axes: `data`, over which a batch is spread, and `prompt`, over which a population of
prompts is. One device is a mesh of one: the same program.
"""

import functools
import os
from collections.abc import Callable
from typing import Any, TypeVar

import jax
import numpy as np
from jax.experimental import multihost_utils
from jax.sharding import Mesh, NamedSharding
from jax.sharding import PartitionSpec as P

_T = TypeVar("_T")


def initialize(
    coordinator_address: str | None = None, num_processes: int | None = None, process_id: int | None = None
) -> None:
    """Join the other processes of the job, before JAX is used; does nothing where there is only one.

    Under SLURM, Open MPI, GKE and on TPU pods, `jax.distributed` finds out by itself; elsewhere give the
    address (`host:port`) of process 0, how many processes there are, and which this is.
    """
    given = {
        name: value
        for name, value in (
            ("coordinator_address", coordinator_address),
            ("num_processes", num_processes),
            ("process_id", process_id),
        )
        if value is not None
    }
    if given and len(given) < 3:
        raise ValueError(f"give coordinator_address, num_processes and process_id together, found {given}")
    try:
        jax.distributed.initialize(**given)
    except ValueError as error:
        if given or "coordinator_address should be defined" not in str(error):
            raise  # else: JAX found no cluster, and this process is alone


def use_all_cores() -> None:
    """Without accelerators, make each core a device, up to 8; before JAX is used.

    Small networks run faster so than with all cores on one device. The number is a power of 2, as batches
    are. A number of devices that was asked for, by `jax_num_cpu_devices` or XLA's flag, stays.
    """
    asked = jax.config.jax_num_cpu_devices
    if (asked or 0) > 0 or "xla_force_host_platform_device_count" in os.environ.get("XLA_FLAGS", ""):
        return
    cores = os.cpu_count() or 1
    jax.config.update("jax_num_cpu_devices", min(2 ** (cores.bit_length() - 1), 8))


def make_mesh(prompts: int = 1) -> Mesh:
    """All devices of all processes as `data` × `prompt`, `prompts` of them along the second.

    Raises ValueError where they do not divide.
    """
    devices = jax.devices()
    if prompts < 1 or len(devices) % prompts:
        raise ValueError(f"{len(devices)} devices do not divide into {prompts} along the prompt axis")
    return Mesh(np.array(devices).reshape(-1, prompts), ("data", "prompt"))


@functools.cache
def spread(
    step: Callable[[Any, Any, Any], tuple[Any, Any]], mesh: Mesh
) -> Callable[[Any, Any, Any], tuple[Any, Any]]:
    """`step(weights, state, batch) -> (state, metrics)` for one prompt, as one program for a population.

    States, old and new, and metrics have a leading axis of prompts, split over `prompt`; every leaf of the
    batch is split along its first axis over `data`, whose name `step` may use in collectives; weights are
    everywhere. Of one step on one mesh there is one program, however often it is asked for.
    """
    population = jax.vmap(step, (None, 0, None))
    per_device = jax.shard_map(
        population,
        mesh=mesh,
        in_specs=(P(), P("prompt"), P("data")),
        out_specs=(P("prompt"), P("prompt")),
        check_vma=False,  # gradients are averaged by the step itself, with pmean
    )
    return jax.jit(per_device)


def local_rows(mesh: Mesh, rows: int) -> slice:
    """Which of a global batch's rows this process feeds.

    Raises ValueError unless the batch divides over the mesh's `data` axis.
    """
    shards = mesh.shape["data"]
    if rows % shards:
        raise ValueError(
            f"a batch of {rows} images does not divide over {shards} devices along the data axis"
        )
    held = NamedSharding(mesh, P("data")).addressable_devices_indices_map((rows,)).values()
    bounds = [index[0].indices(rows)[:2] for index in held]
    return slice(min(start for start, _ in bounds), max(stop for _, stop in bounds))


def feed(mesh: Mesh, rows: int, batch: dict[str, np.ndarray]) -> dict[str, jax.Array]:
    """A global batch of `rows`, split over `data`, from each process's own `local_rows` of it."""
    sharding = NamedSharding(mesh, P("data"))
    mine = local_rows(mesh, rows)

    def put(name: str, local: np.ndarray) -> jax.Array:
        if len(local) != mine.stop - mine.start:
            raise ValueError(
                f"{name} has {len(local)} rows, this process feeds rows {mine.start} to {mine.stop} of {rows}"
            )

        def rows_of(index: tuple[slice, ...]) -> np.ndarray:
            start, stop, _ = index[0].indices(rows)
            return local[start - mine.start : stop - mine.start]

        return jax.make_array_from_callback((rows, *local.shape[1:]), sharding, rows_of)

    return {name: put(name, np.asarray(local)) for name, local in batch.items()}


def replicate(mesh: Mesh, tree: _T) -> _T:
    """Every leaf on every device of the mesh; an array that the tree holds twice is copied once."""
    return _put(mesh, tree, P())


def split_prompts(mesh: Mesh, tree: _T) -> _T:
    """Every leaf's first axis, of prompts, split over `prompt`."""
    return _put(mesh, tree, P("prompt"))


def _put(mesh: Mesh, tree: _T, spec: P) -> _T:
    sharding = NamedSharding(mesh, spec)
    placed: dict[int, jax.Array] = {}

    def put(leaf):
        if jax.dtypes.issubdtype(leaf.dtype, jax.dtypes.prng_key):
            return jax.random.wrap_key_data(put(jax.random.key_data(leaf)), impl=jax.random.key_impl(leaf))
        if sharding.is_fully_addressable:
            return jax.device_put(leaf, sharding)
        host = np.asarray(leaf)  # device_put would first compare it, whole, between all hosts
        return jax.make_array_from_callback(host.shape, sharding, lambda index: host[index])

    def put_once(leaf):
        if id(leaf) not in placed:
            placed[id(leaf)] = put(leaf)
        return placed[id(leaf)]

    return jax.tree.map(put_once, tree)


def to_host(mesh: Mesh, tree: Any) -> Any:
    """Every leaf as a whole numpy array, on every process."""
    whole = jax.jit(_identity, out_shardings=NamedSharding(mesh, P()))(tree)
    return jax.tree.map(lambda leaf: np.asarray(leaf.addressable_data(0)), whole)


def local_values(tree: Any) -> Any:
    """Of every leaf, split along its first axis over `data`, the rows that this process fed, as numpy."""

    def rows(leaf: jax.Array) -> np.ndarray:
        shards = {shard.index[0].start or 0: shard for shard in leaf.addressable_shards}
        return np.concatenate([np.asarray(shards[start].data) for start in sorted(shards)])

    return jax.tree.map(rows, tree)


def all_agree(holds: bool) -> bool:
    """Whether it holds on all processes, each of which calls this."""
    return bool(multihost_utils.process_allgather(np.array(holds)).all())


def barrier(name: str) -> None:
    """Wait until all processes have come here."""
    if jax.process_count() > 1:
        multihost_utils.sync_global_devices(name)


def _identity(tree: _T) -> _T:  # one function for all calls, so that jit compiles it once for each structure
    return tree
