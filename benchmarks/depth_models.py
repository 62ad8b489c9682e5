"""The full-size depth models against torch's, with the same random weights, in one run.

    python -m benchmarks.depth_models [--repeats 5] [--batch 1] [--train]

transformers' DPT-hybrid at 384² and the XTC U-Net at 256², forward in float32: median seconds, ours and
torch's in turn, the ratio ours / torch of each pair, and the memory that each takes above its weights and
images: ours as XLA plans it, torch's as its process (on Linux) or its GPU allocator holds it at the peak.
`--train` adds a training step of the U-Net: the gradient of the L1 loss, and Adam with AMSGrad. Where a
maximum or a ReLU is undecided to rounding, a part of the gradient goes another way.
"""

import argparse
import copy
import json
import os
from collections.abc import Callable
from functools import partial
from pathlib import Path

import jax
import numpy as np
import optax
import torch
import transformers

from benchmarks.device import describe_device
from benchmarks.unet import compare, from_torch
from gap_jax.models.bit import BitConfig
from gap_jax.models.depth_unet import DepthUNet
from gap_jax.models.dpt import DPT
from gap_jax.stages.optimizers import amsgrad
from gap_jax.tasks.depth import l1
from gap_jax.weights.configs import describe
from tests.models.test_depth_unet import TorchUNet
from tests.torch_references.folders import nchw, nhwc, relative_error

HYBRID = DPT(neck_hidden_sizes=(256, 512, 768, 768), backbone_config=BitConfig())


def torch_dpt() -> transformers.DPTForDepthEstimation:
    config = json.loads(json.dumps(describe(HYBRID)))  # lists for tuples, as in its file
    network = transformers.DPTForDepthEstimation(transformers.DPTConfig(**config))
    for parameter in (network.dpt.embeddings.cls_token, network.dpt.embeddings.position_embeddings):
        parameter.data.normal_(0, 0.02)
    return network


MODELS = {  # name: (ours, torch's, its prediction [B,1,H,W] from images in [0,1], side)
    "DPT-hybrid": (HYBRID, torch_dpt, lambda net, x: net(2 * x - 1).predicted_depth[:, None], 384),
    "XTC U-Net": (DepthUNet(), lambda: TorchUNet(6, 16), lambda net, x: net(x), 256),
}


def measure(name: str, batch: int, repeats: int) -> None:
    ours, make, predict, side = MODELS[name]
    gpu = jax.default_backend() == "gpu"
    theirs = make().eval().requires_grad_(False)
    params = from_torch(theirs, ours, "float32")
    theirs.to("cuda" if gpu else "cpu")
    images = np.random.default_rng(0).random((batch, side, side, 3), np.float32)
    x, images = nchw(images).to("cuda" if gpu else "cpu"), jax.device_put(images)
    forward = jax.jit(ours.apply).lower({"params": params}, images).compile()

    @torch.no_grad()
    def run() -> torch.Tensor:
        depth = predict(theirs, x)
        if gpu:
            torch.cuda.synchronize()
        return depth

    peak = torch_peak(run, gpu)  # first: a process' peak does not go down
    depth = forward({"params": params}, images)
    expected = nhwc(run().cpu())
    million = sum(leaf.size for leaf in jax.tree.leaves(params)) / 1e6
    print(
        f"{name}: {million:.1f} M parameters, {batch} × {side}², relative error "
        f"{relative_error(depth, expected):.1e} (depth {expected.mean():.2g} ± {expected.std():.2g})"
    )
    times = compare(lambda: forward({"params": params}, images).block_until_ready(), run, repeats)
    print(f"  seconds   {times}")
    memory = forward.memory_analysis().temp_size_in_bytes / 1e6
    print(f"  MB        {memory:9.1f} {peak / 1e6:9.1f} {memory / peak * 1e6:7.2f}", flush=True)


def measure_training(batch: int, repeats: int) -> None:
    """Measure a training step of the U-Net, and compare the weights after the first one."""
    ours, make, _, side = MODELS["XTC U-Net"]
    theirs, rng = make(), np.random.default_rng(0)
    images = rng.random((batch, side, side, 3), np.float32)
    depth, mask = rng.random((batch, side, side, 1), np.float32), np.ones((batch, side, side, 1), bool)
    params, adam = from_torch(theirs, ours, "float32"), amsgrad(3e-5)
    torch_adam = torch.optim.Adam(theirs.parameters(), lr=3e-5, amsgrad=True)
    x, target = nchw(images), nchw(depth)

    def loss(params: dict) -> jax.Array:
        return l1(ours.apply({"params": params}, images), depth, mask).mean()

    @partial(jax.jit, donate_argnums=(0, 1))
    def step(params: dict, state: optax.OptState) -> tuple[dict, optax.OptState]:
        updates, state = adam.update(jax.grad(loss)(params), state)
        return optax.apply_updates(params, updates), state

    held = [params, jax.jit(adam.init)(params)]

    def run() -> None:
        held[:] = jax.block_until_ready(step(*held))

    def torch_run() -> None:
        torch_adam.zero_grad()
        (theirs(x) - target).abs().mean().backward()
        torch_adam.step()

    of_torch = copy.deepcopy(theirs)  # with the gradient in place of the weights
    torch_run()
    with torch.no_grad():
        for parameter, its in zip(of_torch.parameters(), theirs.parameters(), strict=True):
            parameter.copy_(its.grad)
    gradients = jax.jit(jax.grad(loss))(params), from_torch(of_torch, ours, "float32")
    error = relative_error(*(np.concatenate([*map(np.ravel, jax.tree.leaves(g))]) for g in gradients))
    print(f"XTC U-Net, training step, {batch} × {side}², relative error of the gradient {error:.1e}")
    print(f"  seconds   {compare(run, torch_run, repeats)}", flush=True)


def torch_peak(run: Callable[[], object], gpu: bool) -> int:
    """Return the bytes that `run` takes at its peak, above those held before."""
    if gpu:
        torch.cuda.reset_peak_memory_stats()
        before = torch.cuda.memory_allocated()
        run()
        return torch.cuda.max_memory_allocated() - before
    Path("/proc/self/clear_refs").write_text("5")  # resets the peak
    before = status("VmRSS")
    run()
    return status("VmHWM") - before


def status(key: str) -> int:
    """Return a number of bytes from this process's status."""
    return 1024 * int(Path("/proc/self/status").read_text().split(f"{key}:")[1].split()[0])


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--models", nargs="+", choices=MODELS, default=list(MODELS))
    parser.add_argument("--batch", type=int, default=1)
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--train", action="store_true", help="measure a training step of the U-Net on a CPU")
    args = parser.parse_args()
    os.environ.setdefault("XLA_PYTHON_CLIENT_PREALLOCATE", "false")  # torch needs the GPU's memory too
    transformers.utils.logging.set_verbosity_error()
    torch.manual_seed(0)
    print(describe_device())
    print("                 ours     torch   ratio")
    for name in args.models:
        measure(name, args.batch, args.repeats)
    if args.train:
        measure_training(args.batch, args.repeats)


if __name__ == "__main__":
    main()
