"""Compile stages for TPUs that are not there, or for this machine: `python -m gap_jax.planning`.

The programs of a preset of the depth experiment are compiled, and nothing is run. With `--topology v5e:2x2`,
the compiler is that of TPUs, from the extra `tpu`.
"""

import dataclasses
import time
from collections.abc import Sequence
from typing import Literal

import tyro


@dataclasses.dataclass(frozen=True, kw_only=True)
class PlanOptions:
    """The command line."""

    # preset of the depth experiment
    preset: Literal["small", "taskonomy-unet", "taskonomy-dpt", "replica"] = "taskonomy-unet"
    # TPUs to compile for: a generation (v4, v5e, v5p or v6e) and a grid of chips, such as v5e:2x2; None: this
    # machine's devices
    topology: str | None = None
    # programs to compile: the gradient of the UNet's first self-attention, or a step of a stage. At full
    # size, attention takes seconds, fine-tuning minutes, and the other two much longer
    steps: tuple[Literal["attention", "optimize", "generate", "finetune"], ...] = ("attention",)
    dtype: Literal["float32", "bfloat16", "float16"] = "bfloat16"  # precision of Stable Diffusion and CLIP
    prompts: int = 1  # number of prompts that are optimised together
    prompt_axis: int = 1  # number of parts of the devices that prompts are split over
    images: int = 1  # number of images that a device computes at a time (per prompt, when optimising)
    # how long sequences attend; auto is a TPU's fused kernel for a topology, else what suits this machine
    attention: Literal["auto", "xla", "blocks", "flash"] = "auto"
    recompute: Literal["auto", "nothing", "blocks"] = "auto"  # what gradients compute again to save memory


def main(options: PlanOptions) -> None:
    """Compile the steps and print a line for each.

    Raises ValueError or ImportError if there is no such topology, or no compiler for it.
    """
    import jax

    from gap_jax.models.attention import Form
    from gap_jax.parallel import make_mesh
    from gap_jax.planning.chips import absent_tpus, chip_of
    from gap_jax.planning.compiled import compile_step, describe
    from gap_jax.planning.networks import Networks

    form: Form = options.attention
    devices: Sequence[jax.Device] | None = None
    if options.topology is not None:
        jax.config.update("jax_platforms", "cpu")
        devices = absent_tpus(options.topology)
        form = "flash" if form == "auto" else form
    mesh = make_mesh(options.prompt_axis, devices)
    kind = mesh.devices.flat[0].device_kind
    chip = chip_of(kind)
    networks = Networks(options.preset, options.dtype, form, options.recompute)
    axes = " × ".join(f"{name} {size}" for name, size in mesh.shape.items())
    print(f"{options.preset}: {mesh.size} × {chip.name if chip else kind}, mesh {axes}")
    for name in options.steps:
        start = time.perf_counter()
        step = getattr(networks, name)(mesh, options.prompts, options.images)
        plan = compile_step(step, mesh.size)
        print(f"{name}: {describe(plan, chip)} (compiled in {time.perf_counter() - start:.0f} s)", flush=True)


if __name__ == "__main__":
    try:
        main(tyro.cli(PlanOptions, prog="python -m gap_jax.planning", description=__doc__))
    except (ValueError, ImportError) as error:
        raise SystemExit(f"error: {error}") from error
