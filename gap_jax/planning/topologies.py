"""The machines that the TPU compiler can be asked to compile for."""

import os
from collections.abc import Sequence
from math import prod

import jax

from gap_jax.errors import how_to_install

ACCELERATORS = {"v4": ("v4", 2), "v5e": ("v5litepod", 1), "v5p": ("v5p", 2), "v6e": ("v6e", 1)}


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
            f"libtpu, which compiles for TPUs, is not installed: {how_to_install('tpu')}"
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
