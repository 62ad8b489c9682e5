"""Compile stages for TPUs that are not there, or for this machine: `python -m gap_jax.planning`.

The programs of a preset of the depth experiment are compiled, and nothing is run. With `--topology v5e:2x2`,
the compiler is that of TPUs, from the extra `tpu`.
"""

import dataclasses
import time
from collections.abc import Callable, Sequence
from functools import partial
from typing import Annotated, Literal

import tyro

from gap_jax.errors import one_line_errors
from gap_jax.ranges import DISTINCT, Count, Text, check_ranges


@dataclasses.dataclass(frozen=True, kw_only=True)
class PlanOptions:
    """The command line."""

    # preset of the depth experiment
    preset: Literal["small", "taskonomy-unet", "taskonomy-dpt", "replica"] = "taskonomy-unet"
    # TPUs to compile for: a generation (v4, v5e, v5p or v6e) and a grid of chips, such as v5e:2x2; None: this
    # machine's devices
    topology: Text | None = None
    # programs to compile: the gradient of the UNet's first self-attention, or a step of a stage; "parts" are
    # those of an optimisation step, with their sum. At full size, attention takes seconds, fine-tuning
    # minutes, generation and the parts up to an hour of one core, and the whole optimisation step longer
    steps: Annotated[
        tuple[Literal["attention", "parts", "optimize", "generate", "finetune"], ...], DISTINCT
    ] = ("attention",)
    dtype: Literal["float32", "bfloat16", "float16"] = "bfloat16"  # precision of Stable Diffusion and CLIP
    prompts: Count = 1  # number of prompts that are optimised together
    # number of parts of the devices that prompts are spread over; None: as experiments do
    prompt_axis: Count | None = None
    images: Count = 1  # number of images that a device computes at a time (per prompt, when optimising)
    # how long sequences attend; auto is a TPU's fused kernel for a topology, else what suits this machine
    attention: Literal["auto", "xla", "blocks", "flash"] = "auto"
    recompute: Literal["auto", "nothing", "blocks"] = "auto"  # what gradients compute again to save memory


def main(options: PlanOptions) -> None:
    """Compile the steps and print a line for each.

    Raises ValueError or ImportError if there is no such topology, or no compiler for it, and ValueError for
    an option outside its range.
    """
    check_ranges(options)
    import jax

    from gap_jax.chips import chip_of
    from gap_jax.models.attention import Form
    from gap_jax.parallel import layout, make_mesh
    from gap_jax.planning.compiled import StepCost, compile_step, describe
    from gap_jax.planning.networks import Networks
    from gap_jax.planning.parts import add_up, parts
    from gap_jax.planning.topologies import absent_tpus

    form: Form = options.attention
    devices: Sequence[jax.Device] = jax.devices() if options.topology is None else ()
    if options.topology is not None:
        jax.config.update("jax_platforms", "cpu")
        devices = absent_tpus(options.topology)
        form = "flash" if form == "auto" else form
    networks = Networks(options.preset, options.dtype, form, options.recompute)
    chosen = layout(len(devices), networks.settings.optimizing.batch, options.prompts)
    mesh = make_mesh(options.prompt_axis or chosen.parts, devices)
    kind = mesh.devices.flat[0].device_kind
    chip = chip_of(kind)
    axes = " × ".join(f"{name} {size}" for name, size in mesh.shape.items())
    print(f"{options.preset}: {mesh.size} × {chip.name if chip else kind}, mesh {axes}", flush=True)
    if options.prompt_axis is None and "optimize" in options.steps:
        print(chosen.describe("optimize"), flush=True)

    def show(name: str, compiled: Callable[[int], StepCost]) -> StepCost:
        start = time.perf_counter()
        cost = compiled(mesh.size)
        print(f"{name}: {describe(cost, chip)} (compiled in {time.perf_counter() - start:.0f} s)", flush=True)
        return cost

    where = mesh, options.prompts, options.images
    for name in options.steps:
        if name == "parts":
            costs = [show(part.title, part.cost) for part in parts(networks, *where)]
            total = add_up(costs, networks.optimize(*where))
            print(f"optimize, by its parts: {describe(total, chip)}", flush=True)
        else:
            show(name, partial(compile_step, getattr(networks, name)(*where)))


if __name__ == "__main__":
    with one_line_errors():
        main(tyro.cli(PlanOptions, prog="python -m gap_jax.planning", description=__doc__))
