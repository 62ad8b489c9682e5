"""The needs of a compiled step on each chip: memory, operations, traffic, and exchange between chips."""

import re
from math import prod
from typing import NamedTuple

import jax

from gap_jax.chips import Chip
from gap_jax.flops import count_flops
from gap_jax.planning.networks import Step

_SIZES = {"pred": 1, "s8": 1, "u8": 1, "bf16": 2, "f16": 2, "s32": 4, "u32": 4, "f32": 4, "s64": 8, "f64": 8}
_COLLECTIVE = re.compile(
    r" = (.*?) (all-reduce|all-gather|reduce-scatter|all-to-all|collective-permute)(?:-start)?\("
)
_ARRAY = re.compile(r"(\w+)\[([\d,]*)\]")


class StepCost(NamedTuple):
    """The needs of one call of a step, on one chip.

    - `arguments`, `temporary`: bytes of the arguments, and of everything else at the peak.
    - `flops`: operations of matrix products and convolutions, as `count_flops` counts them.
    - `traffic`: bytes to and from the chip's memory, as XLA counts them: the body of a loop once, whatever
      the number of its rounds.
    - `collectives`: kind and bytes of each exchange between chips in the program.
    - `images`: the number of images that all chips compute together.
    """

    arguments: int
    temporary: int
    flops: float
    traffic: float
    collectives: tuple[tuple[str, int], ...]
    images: int

    def fits(self, chip: Chip) -> bool:
        """Return True if arguments and temporary memory fit into a chip."""
        return self.arguments + self.temporary <= chip.memory

    def seconds(self, chip: Chip) -> float:
        """Return the least time that a chip's peaks allow, in seconds."""
        return max(self.flops / chip.flops, self.traffic / chip.bandwidth)


def compile_step(step: Step, devices: int) -> StepCost:
    """Compile a step for the devices that its arguments are on, `devices` in number; nothing is run."""
    compiled = jax.jit(step.function).lower(*step.arguments).compile()
    memory, cost = compiled.memory_analysis(), compiled.cost_analysis() or {}
    assert memory is not None, "XLA analyses the memory of programs for CPUs, GPUs and TPUs"
    return StepCost(
        memory.argument_size_in_bytes,
        memory.temp_size_in_bytes + memory.output_size_in_bytes - memory.alias_size_in_bytes,
        count_flops(step.function, *step.arguments, devices=devices),
        cost.get("bytes accessed", 0.0),
        collectives(compiled.as_text() or ""),
        step.images,
    )


def collectives(program: str) -> tuple[tuple[str, int], ...]:
    """Return the kind and the bytes of each exchange between devices in a program, XLA's text."""
    found = []
    for shape, kind in _COLLECTIVE.findall(program):
        arrays = _ARRAY.findall(shape)
        sizes = [_SIZES[dtype] * prod(int(n) for n in dims.split(",") if n) for dtype, dims in arrays]
        found.append((kind, sum(sizes)))
    return tuple(found)


def describe(plan: StepCost, chip: Chip | None) -> str:
    """Return the plan as a line of text, with what a chip's peaks say about it, if they are known."""
    parts = [
        f"arguments {plan.arguments / 1e9:.2f} GB, temporary {plan.temporary / 1e9:.2f} GB a chip",
        f"{plan.flops / 1e9:.3g} GFLOP, {plan.traffic / 1e9:.3g} GB of traffic",
    ]
    if chip is not None:
        verdict = "fits" if plan.fits(chip) else "does not fit"
        parts.append(f"{verdict} {chip.memory / 1e9:.0f} GB")
        seconds = plan.seconds(chip)
        parts.append(f"at least {seconds * 1e3:.3g} ms, at most {plan.images / seconds:.3g} images/s")
    if plan.collectives:
        names = sorted({kind for kind, _ in plan.collectives})
        total = sum(size for _, size in plan.collectives)
        parts.append(f"{len(plan.collectives)} × {', '.join(names)}, {total / 1e3:.3g} kB")
    else:
        parts.append("no collectives")
    return "; ".join(parts)
