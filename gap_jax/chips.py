"""The published peaks of chips."""

from typing import NamedTuple


class Chip(NamedTuple):
    """A chip: its memory in bytes, and its peaks, each a second.

    `flops` are operations in bfloat16, and `bandwidth` bytes to and from the memory.
    """

    name: str
    memory: float
    flops: float
    bandwidth: float


# By a part of JAX's `device_kind`. From cloud.google.com/tpu/docs/v4, v5e, v5p and v6e, and from NVIDIA's
# data sheets of the A100 80GB SXM, the H100 SXM and the H200 SXM (nvidia.com/data-center), without sparsity.
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
