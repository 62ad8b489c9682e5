"""The published peaks of chips, and the machines that the TPU compiler can be asked to compile for."""

import os
from collections.abc import Sequence
from math import prod
from typing import NamedTuple

import jax

ACCELERATORS = {"v4": ("v4", 2), "v5e": ("v5litepod", 1), "v5p": ("v5p", 2), "v6e": ("v6e", 1)}


class Chip(NamedTuple):
    """A chip: its memory in bytes, and its peaks, each a second.

    `flops` are operations in bfloat16, and `bandwidth` bytes to and from the memory.
    """

    name: str
    memory: float
    flops: float
    bandwidth: float


# From Google Cloud's pages about each TPU and from NVIDIA's data sheets; by a part of JAX's `device_kind`.
CHIPS = {
    "TPU v4": Chip("TPU v4", 32e9, 275e12, 1228e9),
    "TPU v5 lite": Chip("TPU v5e", 16e9, 197e12, 819e9),
    "TPU v5": Chip("TPU v5p", 95e9, 459e12, 2765e9),
    "TPU v6 lite": Chip("TPU v6e", 32e9, 918e12, 1640e9),
    "A100": Chip("NVIDIA A100", 80e9, 312e12, 2039e9),
    "H100": Chip("NVIDIA H100", 80e9, 989e12, 3350e9),
    "H200": Chip("NVIDIA H200", 141e9, 989e12, 4800e9),
}


def chip_of(device_kind: str) -> Chip | None:
    """Return the chip of a device by its `device_kind`; None for a kind whose peaks are not known here."""
    names = [name for name in CHIPS if name in device_kind]
    return CHIPS[max(names, key=len)] if names else None


def absent_tpus(topology: str) -> Sequence[jax.Device]:
    """Return the devices of TPUs that this machine does not have, to compile for.

    `topology` is a generation and a grid of chips, such as `v5e:2x2`. Needs libtpu, which comes with the
    extra `tpu`, and a process that has not used it yet. Raises ValueError for another topology, ImportError
    without libtpu.
    """
    from jax.experimental import topologies

    generation, _, grid = topology.partition(":")
    if generation not in ACCELERATORS or not all(side.isdigit() for side in grid.split("x")):
        raise ValueError(
            f"topology must be one of {', '.join(ACCELERATORS)} and a grid of chips, as in v5e:2x2; found "
            f"{topology!r}"
        )
    try:
        import libtpu  # noqa: F401
    except ImportError as error:
        raise ImportError(
            "libtpu, which compiles for TPUs, is not installed: pip install 'gap_jax[tpu]'"
        ) from error
    accelerator, cores = ACCELERATORS[generation]
    chips = prod(int(side) for side in grid.split("x"))
    os.environ |= {  # libtpu asks the machine for these, which a TPU host would know
        "TPU_SKIP_MDS_QUERY": "1",
        "TPU_ACCELERATOR_TYPE": f"{accelerator}-{chips * cores}",
        "TPU_WORKER_HOSTNAMES": "localhost",
        "TPU_WORKER_ID": "0",
    }
    return topologies.get_topology_desc(platform="tpu", topology_name=topology).devices
