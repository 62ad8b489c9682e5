"""Our UNet against torch diffusers', with the same weights, side by side in one run.

    python -m benchmarks.unet [--sizes small-8x8 small-16x16 sd15] [--repeats 7] [--dtype float32]

Prints, for each size, the median seconds of a forward pass and of a gradient to the context (weights
frozen, as in prompt optimisation), ours and torch's in turn, and the ratio ours / torch of each pair. On a
CPU, one device has all cores; "spread" is the gradient with the batch over a device for each core, as
experiments run it.
"""

import argparse
import statistics

import diffusers
import jax
import jax.numpy as jnp
import numpy as np
import torch

from benchmarks.device import describe_device, seconds
from gap_jax import parallel
from gap_jax.models.unet import UNet2DCondition
from gap_jax.weights.configs import build
from gap_jax.weights.convert import load_tree
from gap_jax.weights.tensors import Tensor

SMALL = dict(
    block_out_channels=(64, 128, 128),
    down_block_types=("CrossAttnDownBlock2D", "CrossAttnDownBlock2D", "DownBlock2D"),
    up_block_types=("UpBlock2D", "CrossAttnUpBlock2D", "CrossAttnUpBlock2D"),
    cross_attention_dim=128,
)
SIZES = {  # name: (configuration, latents' side, batch)
    "small-8x8": (SMALL, 8, 32),
    "small-16x16": (SMALL, 16, 32),
    "sd15": (dict(cross_attention_dim=768), 32, 1),
}


def from_torch(module: torch.nn.Module, ours, dtype: str) -> dict:
    """Return a torch module's weights as our parameters."""
    tensors = {
        name: Tensor("memory", tuple(value.shape), value.detach().cpu().numpy)
        for name, value in module.state_dict().items()
    }
    shapes = jax.eval_shape(ours.init, jax.random.key(0), *ours.example_inputs())["params"]
    return load_tree(shapes, tensors, jnp.dtype(dtype))


def compare(ours, theirs, repeats: int) -> str:
    """Run both in turn and format their medians and the median of the paired ratios."""
    ours(), theirs()
    pairs = [(seconds(ours), seconds(theirs)) for _ in range(repeats)]
    ratio = statistics.median(a / b for a, b in pairs)
    medians = [statistics.median(column) for column in zip(*pairs, strict=True)]
    return f"{medians[0]:9.4f} {medians[1]:9.4f} {ratio:7.2f}"


def measure(name: str, repeats: int, dtype: str) -> None:
    config, side, batch = SIZES[name]
    theirs = diffusers.UNet2DConditionModel(**config).eval().requires_grad_(False)
    ours = build(UNet2DCondition, dict(theirs.config), name, {"dtype": jnp.dtype(dtype)})
    params = from_torch(theirs, ours, dtype)
    rng = np.random.default_rng(0)
    sample = rng.standard_normal((batch, side, side, 4), dtype=np.float32)
    context = rng.standard_normal((batch, 77, config["cross_attention_dim"]), dtype=np.float32)
    timesteps = np.full(batch, 500)
    torch_inputs = torch.from_numpy(sample).permute(0, 3, 1, 2).contiguous(), torch.from_numpy(timesteps)
    torch_context = torch.from_numpy(context)

    def predict(params, context, sample):
        return ours.apply({"params": params}, sample, jnp.full(len(sample), 500), context)

    forward = jax.jit(predict)
    gradient = jax.jit(jax.grad(lambda *inputs: jnp.mean(predict(*inputs) ** 2), 1))
    inputs = params, context, sample

    @torch.no_grad()
    def torch_forward():
        return theirs(*torch_inputs, torch_context).sample

    def torch_gradient():
        leaf = torch_context.clone().requires_grad_()
        torch.mean(theirs(*torch_inputs, leaf).sample ** 2).backward()
        return leaf.grad

    error = np.linalg.norm(nchw(forward(*inputs)) - torch_forward().numpy())
    error /= np.linalg.norm(torch_forward().numpy())
    million = sum(p.numel() for p in theirs.parameters()) / 1e6
    print(
        f"{name}: {million:.1f} M parameters, batch {batch}, latents {side}x{side}, "
        f"relative error {error:.1e}"
    )
    row = compare(lambda: forward(*inputs).block_until_ready(), torch_forward, repeats)
    print(f"  forward             {row}", flush=True)
    row = compare(lambda: gradient(*inputs).block_until_ready(), torch_gradient, repeats)
    print(f"  gradient to context {row}", flush=True)
    if jax.device_count() > 1 and batch % jax.device_count() == 0:
        mesh = parallel.make_mesh()
        spread = parallel.image_step(gradient, mesh)
        rows = parallel.feed(mesh, batch, {"context": context, "sample": sample})
        inputs = parallel.replicate(mesh, params), rows["context"], rows["sample"]
        row = compare(lambda: spread(*inputs).block_until_ready(), torch_gradient, repeats)
        print(f"  the same, spread    {row}", flush=True)


def nchw(array: jax.Array) -> np.ndarray:
    return np.moveaxis(np.asarray(array), -1, 1)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--sizes", nargs="+", choices=SIZES, default=list(SIZES))
    parser.add_argument("--repeats", type=int, default=7)
    parser.add_argument("--dtype", default="float32", help="precision of our UNet; torch runs in float32")
    args = parser.parse_args()
    parallel.use_all_cores()
    print(f"seconds on {describe_device()}")
    print("                           ours     torch   ratio")
    for name in args.sizes:
        measure(name, args.repeats, args.dtype)


if __name__ == "__main__":
    main()
