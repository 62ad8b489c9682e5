"""How much of a prompt's gradient survives in float16 and bfloat16, at full size with random weights.

    python -m benchmarks.precision [--side 256] [--steps 5] [--at-once 1]

Stable Diffusion 1.5 with ControlNet generates one image, in float32, bfloat16 and float16. The gradient of
the depth U-Net's negative L1 with respect to float32's pixels is pulled back to the prompt in each of them.
It is made as small as that of an image of 384², the presets' size. In float16, it is multiplied by several
loss scales before, and the result is divided by them.

Prints the part of float32's gradient that is left (1: all of it), the cosine with it, and the share of the
pixels' gradient that becomes 0. Linux; one process for each precision, 16 GB of memory. `--at-once 2`
measures both half precisions at the same time.
"""

import argparse
import os
import time
from concurrent.futures import ThreadPoolExecutor
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from benchmarks import device
from benchmarks.full_size import in_new_process, peak_memory
from gap_jax.diffusion.align import Sampling, controlnet_depth, generate
from gap_jax.models.layers import Layer
from gap_jax.planning.networks import Networks, shapes

PLACEHOLDERS = 4
SCALES = {"float32": (1.0,), "bfloat16": (1.0,), "float16": (1.0, 2.0**16, 1 / 16)}
XLA_FLAGS = (
    # round wherever the program does, as the memory of a GPU makes it
    " --xla_allow_excess_precision=false"
    # keep no float32 copies of all half-precision weights, which only a CPU needs
    " --xla_disable_hlo_passes=while-loop-invariant-code-motion,while-loop-expensive-invariant-code-motion"
)


class Measured(NamedTuple):
    """The gradient with respect to pixels, and those of the prompt's embeddings and text states by scale.

    `peak` is in bytes: the device's or, on a CPU, the process's.
    """

    pixels: np.ndarray
    gradients: dict[float, dict[str, np.ndarray]]
    seconds: float
    peak: int


def random_weights(network: Layer, seed: int) -> Any:
    """Return weights with which every layer keeps the size of its input, and no layer is zero."""

    def draw(path, leaf):
        name = path[-1].key
        rng = np.random.default_rng([seed, *map(ord, jax.tree_util.keystr(path))])
        if name == "scale":
            return jnp.ones(leaf.shape, leaf.dtype)
        if leaf.ndim < 2:
            return jnp.zeros(leaf.shape, leaf.dtype)
        deviation = 0.02 if name == "embedding" else float(np.prod(leaf.shape[:-1])) ** -0.5
        return jnp.asarray(rng.standard_normal(leaf.shape, np.float32) * np.float32(deviation), leaf.dtype)

    return jax.tree_util.tree_map_with_path(draw, shapes(network))


def measure(preset: str, dtype: str, side: int, steps: int, pixels: np.ndarray | None) -> Measured:
    """Return the gradients in one precision; without `pixels`, those of the depth U-Net are computed here."""
    if dtype == "float32":
        jax.config.update("jax_default_matmul_precision", "highest")  # on GPUs, it is TF32 otherwise
    networks = Networks(preset, dtype)
    pipe = networks.pipe
    params = {part: random_weights(getattr(pipe, part), i) for i, part in enumerate(networks.params)}
    rng = np.random.default_rng(0)
    coarse = rng.random((1, side // 16, side // 16, 1), np.float32)
    batch = {"depth": coarse.repeat(16, 1).repeat(16, 2), "mask": np.ones((1, side, side, 1), bool)}
    width = pipe.text_encoder.hidden_size
    embeddings = rng.standard_normal((PLACEHOLDERS, width), np.float32) * np.float32(0.02)
    token_ids = pipe.tokenize([",".join(f"<{i}>" for i in range(PLACEHOLDERS))], PLACEHOLDERS)
    uncond = pipe.encode_text(params, pipe.tokenize(["cartoon"]))
    keys = jax.random.split(jax.random.key(0), 1)

    def draw(params, embeddings, change):
        context = pipe.encode_text(params, token_ids, embeddings) + change
        return generate(pipe, params, context, uncond, batch, keys, controlnet_depth(), Sampling(steps, 7.0))

    def depth_loss(images, model_params):
        return networks.task.adversarial(networks.predict(model_params, images), batch).mean()

    @jax.jit
    def pull(params, model_params, pixels, scale):
        images, pull_back = jax.vjp(
            lambda *x: draw(params, *x),
            embeddings,
            jnp.zeros((1, pipe.text_encoder.max_position_embeddings, width)),
        )
        if pixels is None:
            pixels = (side / networks.side) ** 2 * jax.grad(depth_loss)(images, model_params)
        return pixels, *(gradient / scale for gradient in pull_back(scale * pixels))

    start, gradients = time.perf_counter(), {}
    model_params = random_weights(networks.model, len(params)) if pixels is None else None
    for scale in SCALES[dtype]:
        results = jax.device_get(pull(params, model_params, pixels, jnp.float32(scale)))
        gradients[scale] = dict(zip(("embeddings", "text states"), results[1:], strict=True))
    return Measured(results[0], gradients, time.perf_counter() - start, device.peak_memory() or peak_memory())


def print_measured(dtype: str, measured: Measured, reference: Measured) -> None:
    print(f"{dtype}: {measured.seconds:.0f} s, {measured.peak / 1e9:.1f} GB")
    pixels = np.abs(reference.pixels)
    for scale, gradients in measured.gradients.items():
        lost = (jnp.asarray(scale * pixels, dtype) == 0).mean() - (pixels == 0).mean()
        print(f"  loss scale {scale:<8g} pixels that become 0: {lost:.1%}")
        for name, gradient in gradients.items():
            expected = reference.gradients[1.0][name]
            left = np.vdot(gradient, expected) / np.vdot(expected, expected)
            norm = np.linalg.norm(gradient)
            cosine = f", cosine {left * np.linalg.norm(expected) / norm:7.4f}" if norm else ""
            print(f"    {name:12} left {left:7.4f}{cosine}", flush=True)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument(
        "--preset",
        choices=("taskonomy-unet", "small"),
        default="taskonomy-unet",
        help="small: to try the script; its networks are in float32 throughout",
    )
    parser.add_argument("--side", type=int, default=256, help="side of the image in pixels")
    parser.add_argument("--steps", type=int, default=5, help="denoising steps")
    parser.add_argument("--at-once", type=int, default=1, help="half precisions to measure at the same time")
    args = parser.parse_args()
    os.environ.setdefault("XLA_PYTHON_CLIENT_PREALLOCATE", "false")  # processes share a GPU
    os.environ["XLA_FLAGS"] = os.environ.get("XLA_FLAGS", "") + XLA_FLAGS
    reference = in_new_process(measure, args.preset, "float32", args.side, args.steps, None)
    pixels = np.abs(reference.pixels)
    print(
        f"gradient with respect to a pixel: median {np.median(pixels):.1e}, largest {pixels.max():.1e}",
        flush=True,
    )
    print_measured("float32", reference, reference)
    halves = [dtype for dtype in SCALES if dtype != "float32"]
    with ThreadPoolExecutor(args.at_once) as pool:
        results = pool.map(
            lambda dtype: in_new_process(
                measure, args.preset, dtype, args.side, args.steps, reference.pixels
            ),
            halves,
        )
        for dtype, measured in zip(halves, results, strict=True):
            print_measured(dtype, measured, reference)


if __name__ == "__main__":
    main()
