"""The memory that the presets need on a device at full size: weights, and steps as XLA plans them.

    python -m benchmarks.memory                                        # weights, from the networks' shapes
    python -m benchmarks.memory --kept                                 # what gradients keep of each network
    python -m benchmarks.memory --plan finetune                        # what a step takes besides
    python -m benchmarks.memory --plan optimize --prompts 1 --images 4
    python -m benchmarks.memory --run optimize --prompts 1 --images 4  # the same, measured on a GPU or TPU

`--images` is the number of images that a device computes at a time. A plan holds for the backend of this
machine; `python -m gap_jax.planning` plans for TPUs. Compiling `optimize` takes minutes. Only `--run` runs a
step, with weights of 0.
"""

import argparse
import time
from functools import partial
from typing import Any, get_args

import jax
import jax.numpy as jnp
import numpy as np

from benchmarks.device import peak_memory
from gap_jax.chips import chip_of
from gap_jax.experiments.depth.settings import PRESETS
from gap_jax.models.attention import Form
from gap_jax.models.layers import Recompute
from gap_jax.parallel import make_mesh
from gap_jax.planning.compiled import compile_step, describe
from gap_jax.planning.networks import Networks, Step


def size(tree: Any) -> str:
    """Return the number of parameters and their size, as text."""
    leaves = jax.tree.leaves(tree)
    count, total = sum(leaf.size for leaf in leaves), sum(leaf.size * leaf.dtype.itemsize for leaf in leaves)
    return f"{count / 1e6:9.1f} M {total / 1e9:7.2f} GB"


def kept(networks: Networks, part: str) -> int:
    """Return the bytes that a gradient through a network keeps of each guided image between its passes."""
    pipe, side = networks.pipe, networks.side // networks.pipe.downscale
    network = getattr(pipe, part)
    rows = 1 if part == "vae" else 2  # the UNet and the ControlNet see each image with and without the prompt

    def run(params, latents, context, control):
        if part == "vae":
            return network.apply({"params": params}, latents, method="decode")
        condition = (control,) if part == "controlnet" else ()
        return network.apply({"params": params}, latents, 0, context, *condition)

    def residuals(images):
        latents = jax.ShapeDtypeStruct((rows * images, side, side, pipe.vae.latent_channels), jnp.float32)
        context = jax.ShapeDtypeStruct((rows * images, 77, pipe.text_encoder.hidden_size), jnp.float32)
        control = jax.ShapeDtypeStruct((rows * images, networks.side, networks.side, 3), jnp.float32)

        def pull_back(params, latents, context, control):
            return jax.vjp(lambda *x: run(params, *x, control), latents, context)[1]

        leaves = jax.tree.leaves(jax.eval_shape(pull_back, networks.params[part], latents, context, control))
        return sum(leaf.size * leaf.dtype.itemsize for leaf in leaves)

    return residuals(2) - residuals(1)  # without the weights


def measure(step: Step) -> str:
    """Compile a step and run it once; return the memory that was planned and taken, as text."""
    compiled = jax.jit(step.function).lower(*step.arguments).compile()
    plan, of_compiling = compiled.memory_analysis(), peak_memory()
    sizes = plan.argument_size_in_bytes, plan.temp_size_in_bytes + plan.output_size_in_bytes
    planned = f"arguments {sizes[0] / 1e9:.2f} GB, temporary {sizes[1] / 1e9:.2f} GB planned"
    jax.block_until_ready(compiled(*jax.tree.map(filled, step.arguments)))
    peak = peak_memory()
    if peak is None or of_compiling is None:
        return f"{planned}; not measured on a CPU"
    above = (peak - sizes[0]) / 1e9
    return (
        f"{planned}; peak {peak / 1e9:.2f} GB, {above:.2f} above the arguments (compiling: "
        f"{of_compiling / 1e9:.2f})"
    )


def filled(leaf: jax.ShapeDtypeStruct) -> jax.Array:
    """Return an array of zeros, or of keys, on the devices of its shape."""
    if jnp.issubdtype(leaf.dtype, jax.dtypes.prng_key):
        return jax.device_put(jax.random.split(jax.random.key(0), leaf.shape), leaf.sharding)
    return jax.device_put(np.zeros(leaf.shape, leaf.dtype), leaf.sharding)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--preset", choices=PRESETS, default="taskonomy-unet")
    parser.add_argument("--dtype", default="float32", help="precision of Stable Diffusion and CLIP")
    parser.add_argument("--attention", choices=get_args(Form), default="auto")
    parser.add_argument("--recompute", choices=get_args(Recompute), default="auto")
    parser.add_argument("--kept", action="store_true", help="print what gradients keep of each network")
    stages = ("optimize", "generate", "finetune")
    parser.add_argument("--plan", nargs="*", choices=stages, default=[], help="plan these stages' steps")
    parser.add_argument("--run", nargs="*", choices=stages, default=[], help="measure these stages' steps")
    parser.add_argument("--prompts", type=int, default=1, help="number of prompts that are optimised at once")
    parser.add_argument("--images", type=int, default=4, help="images that a device computes at a time")
    args = parser.parse_args()
    make = partial(Networks, args.preset, args.dtype)
    networks = make(args.attention, args.recompute)
    named = {**networks.params, "clip": networks.clip_params, "depth model": networks.model_params}
    for name, tree in {**named, "together": named}.items():
        print(f"{name:14}{size(tree)}")
    for part in ("unet", "controlnet", "vae") if args.kept else ():
        everything, inputs = (
            kept(make("xla" if value == "nothing" else args.attention, value), part) / 1e9
            for value in ("nothing", "blocks")
        )
        print(
            f"{part}: a gradient keeps {everything:.2f} GB an image with whole maps and nothing recomputed, "
            f"{inputs:.2f} GB with recomputed blocks",
            flush=True,
        )
    for name, runs in [(name, False) for name in args.plan] + [(name, True) for name in args.run]:
        start, mesh, kind = time.perf_counter(), make_mesh(), jax.devices()[0].device_kind
        step = getattr(networks, name)(mesh, args.prompts, args.images)
        text = measure(step) if runs else describe(compile_step(step, mesh.size), chip_of(kind))
        print(
            f"{name}, {args.preset}, {args.dtype}, prompts: {args.prompts}, images: {args.images}, attention "
            f"{args.attention}, recompute {args.recompute}, {kind}: {text} "
            f"({time.perf_counter() - start:.0f} s)",
            flush=True,
        )


if __name__ == "__main__":
    main()
