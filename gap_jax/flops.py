"""The floating-point operations of a function, counted in its jaxpr, and the share of a chip's peak in use.

XLA's own count takes the body of a loop once, however often it runs.
"""

from collections.abc import Callable, Iterator
from math import prod
from typing import Any

import jax

from gap_jax.chips import chip_of


def utilisation(flops: float, seconds: float, device_kind: str) -> float | None:
    """Return the share of a device's peak in bfloat16 that `flops` operations in `seconds` are.

    None for a kind of device whose peak is not known.
    """
    chip = chip_of(device_kind)
    return None if chip is None else flops / seconds / chip.flops


def flops_to_report(function: Callable, *arguments: Any, devices: int) -> float | None:
    """Return `count_flops`; None where the devices' peak is not known, so that nothing is traced for it."""
    known = chip_of(jax.devices()[0].device_kind) is not None
    return count_flops(function, *arguments, devices=devices) if known else None


def count_flops(function: Callable, *arguments: Any, devices: int = 1) -> float:
    """Return the operations of a device in matrix products and convolutions, recomputation included.

    A multiplication and an addition count as two. What is outside of `shard_map` is split over `devices`.
    `arguments` may be shapes.
    """
    return _count(jax.make_jaxpr(function)(*arguments).jaxpr, 1 / devices)


def _count(jaxpr: Any, share: float) -> float:
    return sum(_of_equation(equation, share) for equation in jaxpr.eqns)


def _of_equation(equation: Any, share: float) -> float:
    name, params = equation.primitive.name, equation.params
    if name == "dot_general":
        (contracted, _), _ = params["dimension_numbers"]
        depth = prod(equation.invars[0].aval.shape[axis] for axis in contracted)
        return 2 * share * equation.outvars[0].aval.size * depth
    if name == "conv_general_dilated":
        kernel, numbers = equation.invars[1].aval, params["dimension_numbers"]
        per_output = kernel.size / kernel.shape[numbers.rhs_spec[0]]
        inserted = prod(params["lhs_dilation"])  # zeros between the inputs
        return 2 * share * equation.outvars[0].aval.size * per_output / inserted
    inner = [_count(jaxpr, 1 if name == "shard_map" else share) for jaxpr in _jaxprs(params)]
    if name == "cond":
        return max(inner)
    times = {"scan": lambda: params["length"], "pallas_call": lambda: prod(params["grid_mapping"].grid)}
    return sum(inner) * times.get(name, lambda: 1)()


def _jaxprs(params: dict[str, Any]) -> Iterator[Any]:
    """Yield the jaxprs that an equation applies."""
    for value in params.values():
        for item in value if isinstance(value, tuple | list) else (value,):
            jaxpr = getattr(item, "jaxpr", item)
            if hasattr(jaxpr, "eqns"):
                yield jaxpr
