"""Data parallelism: the mesh of all devices of all processes, and the arrays and programs on it.

The mesh has two axes: a batch is split over `data`, and a population of prompts over `prompt`. One device
is a mesh of one, on which the same programs run.
"""

import functools
import itertools
import os
from collections.abc import Callable, Mapping, Sequence
from math import gcd
from typing import Any, NamedTuple, TypeVar

import jax
import numpy as np
from jax.experimental import multihost_utils
from jax.sharding import Mesh, NamedSharding
from jax.sharding import PartitionSpec as P

from gap_jax.errors import Terminated

_Tree = TypeVar("_Tree")
POPULATION_AXES = ("prompt", "population")  # over which a `population_step` maps its prompts, outermost first


def initialize(
    coordinator_address: str | None = None, num_processes: int | None = None, process_id: int | None = None
) -> None:
    """Join the other processes of the job; must be called before JAX is used. A single process does nothing.

    Under SLURM, Open MPI, GKE and on TPU pods, `jax.distributed` detects the job. Elsewhere, give all three:

    - `coordinator_address`: `host:port` of process 0.
    - `num_processes`: number of processes of the job.
    - `process_id`: number of this process, from 0.

    Raises ValueError if only some are given.
    """
    given: dict[str, Any] = {
        name: value
        for name, value in (
            ("coordinator_address", coordinator_address),
            ("num_processes", num_processes),
            ("process_id", process_id),
        )
        if value is not None
    }
    if given and len(given) < 3:
        raise ValueError(
            f"coordinator_address, num_processes and process_id must be given together, found {given}"
        )
    try:
        jax.distributed.initialize(**given)
    except ValueError as error:
        if given or "coordinator_address should be defined" not in str(error):
            raise  # otherwise JAX detected no job, and this process is alone


_calls = itertools.count(1)  # of `stop_if_preempted`, equal on all processes, as JAX's protocol needs


def stop_if_preempted() -> None:
    """Raise `Terminated` on all processes of a job after any of them got SIGTERM, at the same call on each.

    Every process must call it equally often, such as after each step. JAX looks for the signal once a second,
    then lets the processes agree on a later call. A single process does nothing.
    """
    if jax.process_count() > 1 and multihost_utils.reached_preemption_sync_point(next(_calls)):
        raise Terminated


def use_all_cores() -> None:
    """Make each CPU core a JAX device, up to 8; must be called before JAX is used.

    Small networks run faster this way than with all cores on one device. Accelerators are not affected. The
    number of devices is a power of 2, as are batch sizes. A number set by the user, in
    `jax_num_cpu_devices` or by `--xla_force_host_platform_device_count` in XLA_FLAGS, is kept.
    """
    configured = jax.config.jax_num_cpu_devices  # type: ignore[attr-defined]
    if (configured or 0) > 0 or "xla_force_host_platform_device_count" in os.environ.get("XLA_FLAGS", ""):
        return
    cores = os.cpu_count() or 1
    jax.config.update("jax_num_cpu_devices", min(2 ** (cores.bit_length() - 1), 8))


class DeviceLayout(NamedTuple):
    """The images of a step and the prompts of a population on devices; each prompt has all images.

    A device computes `images_each` images of each of its `prompts_each` prompts. The images divide evenly
    over `data` parts of the devices. Prompts need not: the last parts compute copies, which count for
    nothing.
    """

    devices: int
    images: int
    prompts: int
    data: int

    @property
    def parts(self) -> int:
        """The number of parts of the devices that prompts are spread over."""
        return self.devices // self.data

    @property
    def images_each(self) -> int:
        """The number of images of each prompt that a device computes in a step."""
        return self.images // self.data

    @property
    def prompts_each(self) -> int:
        """The number of prompts that a device computes."""
        return -(-self.prompts // self.parts)

    @property
    def padded_prompts(self) -> int:
        """The number of prompts with the copies that fill up the last parts."""
        return self.parts * self.prompts_each

    @property
    def idle(self) -> int:
        """The number of devices that compute copies only."""
        return self.data * (self.parts - -(-self.prompts // self.prompts_each))

    def mesh(self, devices: Sequence[jax.Device] | None = None) -> Mesh:
        """Return the mesh of this layout; `devices` None: all devices of all processes."""
        return make_mesh(self.parts, devices)

    def describe(self, stage: str) -> str:
        """Return a line of text: what a device computes, how many idle, and what would use them."""
        work, each = _count(self.images, "image"), _count(self.images_each, "image")
        enough = f"a batch of {self.devices * self.images_each}"
        if self.prompts > 1:
            work = f"{_count(self.prompts, 'prompt')} × {work}"
            each = f"{_count(self.prompts_each, 'prompt')} × {each}"
            enough = f"{self.padded_prompts} prompts"
        text = f"{stage}: {work} a step on {self.devices} devices, at most {each} on each"
        if self.images * self.prompts == self.devices * self.images_each * self.prompts_each:
            return text
        idle = f"{self.idle} of them only repeat work, and " if self.idle else ""
        return f"{text}; {idle}{enough} would keep all of them busy"


def _count(number: int, thing: str) -> str:
    return f"{number} {thing}" + ("" if number == 1 else "s")


def layout(devices: int, images: int, prompts: int = 1) -> DeviceLayout:
    """Return the layout in which the busiest device computes the fewest images in a step.

    Of several, it is the one that spreads images most: a device then holds fewer images of more prompts.
    """
    choices = [
        DeviceLayout(devices, images, prompts, data)
        for data in range(gcd(devices, images), 0, -1)
        if devices % data == 0 and images % data == 0
    ]
    return min(choices, key=lambda choice: choice.images_each * choice.prompts_each)


@functools.cache
def announce(line: str) -> None:
    """Print a line on process 0, once however often it is announced."""
    if jax.process_index() == 0:
        print(line, flush=True)


def make_mesh(prompts: int = 1, devices: Sequence[jax.Device] | None = None) -> Mesh:
    """Return the mesh `data` × `prompt` of `devices`, with `prompts` along the second.

    `devices` None: all devices of all processes. Raises ValueError unless `prompts` divides their number.
    """
    devices = jax.devices() if devices is None else devices
    if prompts < 1 or len(devices) % prompts:
        raise ValueError(
            f"the prompt axis must have a size that divides the {len(devices)} devices, found {prompts}"
        )
    return Mesh(np.array(devices).reshape(-1, prompts), ("data", "prompt"))


@functools.cache
def population_step(
    step: Callable[[Any, Any, Any], tuple[Any, Any]], mesh: Mesh, joined: bool = False
) -> Callable[[Any, Any, Any], tuple[Any, Any]]:
    """Map `step(weights, state, batch) -> (state, metrics)` of one prompt over a population, and compile it.

    In the returned function, states and metrics have a leading axis of prompts, which is split over `prompt`;
    each leaf of the batch is split along its first axis over `data`; weights are replicated. `step` may name
    `data` and POPULATION_AXES in collectives. The function is cached: it is compiled once for each step and
    mesh.

    If `joined`, weights are a pair: one part for all prompts, and one with an axis of prompts; and each
    prompt has its own batch, from `feed_each`.
    """
    population = jax.vmap(
        step, ((None, 0), 0, 0) if joined else (None, 0, None), axis_name=POPULATION_AXES[1]
    )
    each: Any = ((P(), P("prompt")), P("prompt"), P("prompt", "data"))
    per_device = jax.shard_map(
        population,
        mesh=mesh,
        in_specs=each if joined else (P(), P("prompt"), P("data")),
        out_specs=(P("prompt"), P("prompt")),
        check_vma=False,  # gradients are averaged by the step itself, with pmean
    )
    return jax.jit(per_device)


@functools.cache
def image_step(step: Callable[[Any, Any, Any], _Tree], mesh: Mesh) -> Callable[[Any, Any, Any], _Tree]:
    """Map `step(weights, batch, keys)`, which computes each image by itself, over the mesh, and compile it.

    Each leaf of the batch, the keys and each leaf of the result are split along their first axis over `data`;
    weights are replicated. The function is cached, as in `population_step`.
    """
    split = P("data")
    return jax.jit(
        jax.shard_map(step, mesh=mesh, in_specs=(P(), split, split), out_specs=split, check_vma=False)
    )


def local_rows(mesh: Mesh, rows: int) -> slice:
    """Return the rows of a global batch of `rows` that this process feeds.

    Raises ValueError unless `rows` is a multiple of the size of the `data` axis.
    """
    shards = mesh.shape["data"]
    if rows % shards:
        raise ValueError(
            f"the batch must be a multiple of the {shards} devices on the data axis; found {rows} images"
        )
    held = NamedSharding(mesh, P("data")).addressable_devices_indices_map((rows,)).values()
    bounds = [index[0].indices(rows)[:2] for index in held if index is not None]
    return slice(min(start for start, _ in bounds), max(stop for _, stop in bounds))


def feed(mesh: Mesh, rows: int, batch: Mapping[str, np.ndarray]) -> dict[str, jax.Array]:
    """Return a global batch of `rows`, split over `data`, made from the `local_rows` that each process gives.

    Raises ValueError if this process gives another number of rows, or integers that JAX cannot hold.
    """
    sharding = NamedSharding(mesh, P("data"))

    def put(local: np.ndarray) -> jax.Array:
        def part(index: Any) -> np.ndarray:
            return local[_shifted(index[0], rows, fed.start)]

        return jax.make_array_from_callback((rows, *local.shape[1:]), sharding, part)

    fed = local_rows(mesh, rows)
    return {name: put(local) for name, local in _checked(batch, fed, rows).items()}


def feed_each(mesh: Mesh, rows: int, batches: Sequence[Mapping[str, np.ndarray]]) -> dict[str, jax.Array]:
    """Return global batches of `rows`, one for each prompt, as arrays `[prompts,rows,…]`.

    They are split over `prompt` and `data`, with copies of the last as in `split_prompts`. Every process
    gives the `local_rows` of all batches. Raises ValueError if it gives another number of rows.
    """
    sharding = NamedSharding(mesh, P("prompt", "data"))
    fed, parts = local_rows(mesh, rows), mesh.shape["prompt"]
    checked = {id(batch): _checked(batch, fed, rows) for batch in batches}
    padded = [checked[id(batch)] for batch in batches]
    padded += padded[-1:] * (-len(padded) % parts)

    def put(name: str, shape: tuple[int, ...]) -> jax.Array:
        def part(index: Any) -> np.ndarray:
            chosen = _shifted(index[1], rows, fed.start)
            return np.stack([batch[name][chosen] for batch in padded[index[0]]])

        return jax.make_array_from_callback((len(padded), rows, *shape), sharding, part)

    return {name: put(name, local.shape[1:]) for name, local in padded[0].items()}


def _checked(batch: Mapping[str, np.ndarray], fed: slice, rows: int) -> dict[str, np.ndarray]:
    """Return a batch as NumPy arrays; raise ValueError unless it has the rows `fed`."""
    arrays = {name: np.asarray(local) for name, local in batch.items()}
    for name, local in arrays.items():
        if len(local) != fed.stop - fed.start:
            raise ValueError(
                f"{name} must have rows {fed.start} to {fed.stop} of {rows}, which this process feeds; found "
                f"{len(local)} rows"
            )
        held = jax.dtypes.canonicalize_dtype(local.dtype)  # 32 bits for 64
        narrowed = local.dtype.kind in "iu" and held != local.dtype
        if narrowed and (changed := local[local.astype(held) != local]).size:
            raise ValueError(
                f"{name} must be in the range of {held}, which JAX computes with, found {changed[0]}: leave "
                "it out of the examples, or make it a string"
            )
    return arrays


def _shifted(index: slice, rows: int, first: int) -> slice:
    """Return a slice of `rows` global rows as one of the rows from `first` on."""
    start, stop, _ = index.indices(rows)
    return slice(start - first, stop - first)


def replicate(mesh: Mesh, tree: _Tree) -> _Tree:
    """Copy each leaf to every device of the mesh; an array that occurs twice in the tree is copied once."""
    return _put(mesh, tree, P())


def split_prompts(mesh: Mesh, tree: _Tree) -> _Tree:
    """Split the first axis of each leaf, the prompts, over `prompt`; copies of the last fill up the parts."""
    parts = mesh.shape["prompt"]

    def pad(leaf):
        return leaf[np.minimum(np.arange(-(-len(leaf) // parts) * parts), len(leaf) - 1)]

    divides = all(len(leaf) % parts == 0 for leaf in jax.tree.leaves(tree))
    return _put(mesh, tree if divides else jax.tree.map(pad, tree), P("prompt"))


def some_prompts(mesh: Mesh, tree: _Tree, rows: slice) -> _Tree:
    """Return these rows of each leaf that `split_prompts` split, on all devices."""
    chosen = jax.jit(_rows, static_argnums=(1, 2), out_shardings=NamedSharding(mesh, P()))
    return chosen(tree, rows.start, rows.stop)


def _put(mesh: Mesh, tree: _Tree, spec: P) -> _Tree:
    sharding = NamedSharding(mesh, spec)
    placed: dict[int, jax.Array] = {}

    def put(leaf):
        if jax.dtypes.issubdtype(leaf.dtype, jax.dtypes.prng_key):
            return jax.random.wrap_key_data(put(jax.random.key_data(leaf)), impl=jax.random.key_impl(leaf))
        if sharding.is_fully_addressable:
            return jax.device_put(leaf, sharding)
        host = np.asarray(leaf)  # device_put would first compare the whole array between all processes
        return jax.make_array_from_callback(host.shape, sharding, lambda index: host[index])

    def put_once(leaf):
        if id(leaf) not in placed:
            placed[id(leaf)] = put(leaf)
        return placed[id(leaf)]

    return jax.tree.map(put_once, tree)


def to_host(mesh: Mesh, tree: Any) -> Any:
    """Return each leaf as a whole NumPy array, on every process."""
    whole = jax.jit(_identity, out_shardings=NamedSharding(mesh, P()))(tree)
    return jax.tree.map(lambda leaf: np.asarray(leaf.addressable_data(0)), whole)


def local_values(tree: Any) -> Any:
    """Return this process's rows of each leaf, split along its first axis over `data`, as a NumPy array."""

    def rows(leaf: jax.Array) -> np.ndarray:
        shards = {shard.index[0].start or 0: shard for shard in leaf.addressable_shards}
        return np.concatenate([np.asarray(shards[start].data) for start in sorted(shards)])

    return jax.tree.map(rows, tree)


def all_agree(condition: bool) -> bool:
    """Return True if `condition` holds on all processes; every process must call this."""
    return bool(multihost_utils.process_allgather(np.array(condition)).all())


def barrier(name: str) -> None:
    """Wait until all processes have called this with the same name."""
    if jax.process_count() > 1:
        multihost_utils.sync_global_devices(name)


def _identity(tree: _Tree) -> _Tree:  # one function for all calls, so that jit's cache is used
    return tree


def _rows(tree: _Tree, start: int, stop: int) -> _Tree:
    return jax.tree.map(lambda leaf: leaf[start:stop], tree)
