"""A step of prompt optimisation against torch diffusers', with the same random weights, in one run.

    python -m benchmarks.prompt_step [--size small] [--repeats 5] [--dtype float32] [--parts step memory]

A step: the gradient of a depth network's negative L1 loss to placeholder embeddings through 5 DDIM steps with
guidance 7 and ControlNet; and AdamW. torch, in the same dtype, keeps its whole graph, as the authors do, or
recomputes blocks where that does not fit; on a GPU, it is left out if it has no CUDA.
"""

import argparse
import dataclasses
import os
import tempfile
from pathlib import Path
from types import SimpleNamespace

import diffusers
import jax
import jax.numpy as jnp
import numpy as np
import torch
import transformers
from torch.utils.flop_counter import FlopCounterMode

from benchmarks.unet import SMALL, compare, from_torch, seconds
from gap_jax.diffusion.align import Sampling, controlnet_depth
from gap_jax.diffusion.pipeline import Pipeline
from gap_jax.diffusion.sampler import Economy
from gap_jax.diffusion.schedule import Schedule
from gap_jax.models import clip, controlnet, unet, vae
from gap_jax.models.network import Network
from gap_jax.models.tokenizer import Tokenizer
from gap_jax.stages.objective import adversarial
from gap_jax.stages.optimizers import adamw
from gap_jax.stages.prompt_optimizer import prompt_optimizer
from gap_jax.tasks import depth
from gap_jax.weights.configs import build
from tests.diffusion.test_denoise import embed_through
from tests.stages.test_prompt_optimizer import KERNEL, image_keys, predict_depth
from tests.torch_references.folders import nchw, randomise, relative_error, write_tokenizer
from tests.torch_references.sampler import torch_denoise
from tests.weights.test_published import TEXT, VAE

STEPS, GUIDANCE, RATE, NEGATIVE = 5, 7.0, 1e-3, "cartoon"
SCHEDULE = Schedule(1000, 0.00085, 0.012, "scaled_linear", steps_offset=1, set_alpha_to_one=False)
SMALL_VAE = VAE | {key: VAE[key][1:] for key in VAE if key.endswith("block_types")}
SMALL_VAE["block_out_channels"] = (32, 64, 64)
SMALL_TEXT = TEXT | dict(hidden_size=128, intermediate_size=512, num_hidden_layers=2, num_attention_heads=4)
SIZES = {  # name: (images' side, batch, UNet, what only the ControlNet has, VAE, text encoder)
    "small": (64, 4, SMALL, {"conditioning_embedding_out_channels": (16, 32, 96)}, SMALL_VAE, SMALL_TEXT),
    "sd15": (384, 8, {"cross_attention_dim": 768}, {}, VAE, TEXT),
}


class Benchmark:
    """The networks, torch's and ours, and a batch for them."""

    def __init__(self, size: str, dtype: str):
        side, self.rows, backbone, condition, vae_config, text = SIZES[size]
        torch.manual_seed(0)
        self.networks = dict(
            text_encoder=transformers.CLIPTextModel(transformers.CLIPTextConfig(**text)),
            vae=diffusers.AutoencoderKL.from_config(vae_config),
            unet=diffusers.UNet2DConditionModel(**backbone),
            controlnet=diffusers.ControlNetModel.from_config(backbone | condition),
        )
        classes = (clip.CLIPTextModel, vae.AutoencoderKL, unet.UNet2DCondition, controlnet.ControlNet)
        dtypes, modules, self.params = dict.fromkeys(("dtype", "param_dtype"), jnp.dtype(dtype)), {}, {}
        for cls, (name, network) in zip(classes, self.networks.items(), strict=True):
            randomise(network.eval().requires_grad_(False))
            config = text if name == "text_encoder" else dict(network.config)
            modules[name] = build(cls, config, name, dtypes)
            self.params[name] = from_torch(network, modules[name], dtype)
        with tempfile.TemporaryDirectory() as folder:
            write_tokenizer(Path(folder))
            tokenizer = Tokenizer(tuple((path.name, path.read_bytes()) for path in Path(folder).iterdir()))
        self.pipe = Pipeline(**modules, schedule=SCHEDULE, tokenizer=tokenizer)
        self.dtype, rng, shape = getattr(torch, dtype), np.random.default_rng(0), (self.rows, side, side, 1)
        self.batch = {"depth": rng.random(shape, dtype=np.float32), "mask": rng.random(shape) < 0.9}
        self.start = rng.standard_normal((4, 4, text["hidden_size"]), dtype=np.float32) * 0.03

    def compiled(self, num_steps: int = STEPS, backprop_steps: int | None = None, population: int = 0):
        """Return a compiled step, and a function that runs it and returns the gradient that AdamW saw."""
        given = self.pipe, self.params, Network(predict_depth, KERNEL), [adversarial(depth.negative_l1)]
        sampling = Sampling(num_steps, GUIDANCE, economy=Economy(backprop_steps))
        options = dict(placeholders=4, negative_prompt=NEGATIVE, sampling=sampling)
        ours = prompt_optimizer(*given, controlnet_depth(), adamw(RATE), **options)
        key, step, batch = jax.random.key(0), ours.step, jax.device_put(self.batch)
        state = ours.init(key, self.start[0])
        if population:
            state = jax.vmap(ours.init)(jax.random.split(key, population), self.start[:population])
            step = jax.vmap(step, (None, 0, None))
        executable = jax.jit(step).lower(ours.weights, state, batch).compile()

        def run():
            return np.asarray(executable(ours.weights, state, batch)[0].opt_state[0].mu) / 0.1

        return executable, run

    def torch_step(self, device: str):
        """Return a function that makes the same step in torch and returns its gradient."""
        for network in self.networks.values():
            network.to(device, self.dtype)
        scheduler = diffusers.DDIMScheduler(**dataclasses.asdict(SCHEDULE), clip_sample=False)
        nets = SimpleNamespace(**self.networks, scheduler=scheduler)
        keys = image_keys(jax.random.key(0), 0, self.rows)
        begin = controlnet_depth().start(self.pipe, self.params, self.batch, keys, Sampling())
        noise, control = (nchw(np.array(x)).to(device, self.dtype) for x in (begin.latents, begin.control))
        label, mask = (nchw(self.batch[name]).to(device) for name in ("depth", "mask"))
        kernel = torch.tensor(KERNEL, device=device).permute(3, 2, 0, 1)
        ids = self.pipe.tokenize(["<0>,<1>,<2>,<3>", NEGATIVE], 4)
        ids, negative = torch.tensor(ids, device=device).long().split(1)
        table = nets.text_encoder.get_input_embeddings().weight
        uncond = nets.text_encoder(negative)[0].expand(self.rows, -1, -1)
        leaf = torch.tensor(self.start[0], device=device, requires_grad=True)
        optimizer = torch.optim.AdamW([leaf], lr=RATE, weight_decay=1e-2)
        options = dict(num_steps=STEPS, guidance_scale=GUIDANCE, control=control)

        def run():
            with torch.device(device):
                context = embed_through(nets.text_encoder, torch.cat([table, leaf.to(self.dtype)])[ids])
            latents = torch_denoise(nets, noise, context.expand(self.rows, -1, -1), uncond, **options)
            images = nets.vae.decode(latents / nets.vae.config.scaling_factor).sample.float() / 2 + 0.5
            prediction = torch.sigmoid(torch.nn.functional.conv2d(images.clamp(0, 1), kernel, padding=1))
            optimizer.zero_grad()
            (-(torch.abs(prediction - label) * mask).mean()).backward()
            optimizer.step()
            return leaf.grad.cpu().numpy()

        return run

    def flops(self) -> int:
        """Count the operations of UNet and ControlNet in sampling; torch's networks are gone afterwards."""
        rows, side, down = 2 * self.rows, self.batch["depth"].shape[1], self.pipe.downscale
        shapes = (rows, 4, side // down, side // down), (rows,), (rows, 77, self.start.shape[-1])
        *inputs, control = (torch.empty(shape, device="meta") for shape in (*shapes, (rows, 3, side, side)))
        with FlopCounterMode(display=False) as counter, torch.no_grad():
            down, mid = self.networks["controlnet"].to("meta").float()(*inputs, control, return_dict=False)
            residuals = dict(down_block_additional_residuals=down, mid_block_additional_residual=mid)
            self.networks["unet"].to("meta").float()(*inputs, **residuals)
        self.networks.clear()
        return STEPS * counter.get_total_flops()


def median(run, repeats: int) -> float:
    run()
    return float(np.median([seconds(run) for _ in range(repeats)]))


def versus_torch(bench: Benchmark, ours, repeats: int, device: str) -> None:
    theirs, gradient = bench.torch_step(device), ours()
    try:
        error = relative_error(gradient, theirs())
    except torch.OutOfMemoryError:
        print("torch's graph does not fit the device: it recomputes blocks (gradient checkpointing)")
        for name in ("unet", "controlnet"):
            bench.networks[name].enable_gradient_checkpointing()
        torch.cuda.empty_cache()
        error = relative_error(gradient, theirs())
    print("                     ours     torch   ratio   relative error of the gradient")
    print(f"step            {compare(ours, theirs, repeats)}   {error:.1e}", flush=True)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--size", choices=SIZES, default="small")
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--dtype", choices=("float32", "bfloat16"), default="float32")
    parts = ("step", "backprop", "population", "memory")
    parser.add_argument("--parts", nargs="+", choices=parts, default=parts)
    parser.add_argument(
        "--peak-tflops", type=float, default=990, help="peak of the device (default: an H100's in bfloat16)"
    )
    args = parser.parse_args()
    os.environ.setdefault("XLA_PYTHON_CLIENT_PREALLOCATE", "false")  # torch needs the GPU's memory too
    diffusers.utils.logging.set_verbosity_error()
    print(f"{args.size}, {args.dtype}; seconds on {jax.devices()[0].device_kind}")
    bench, gpu = Benchmark(args.size, args.dtype), jax.default_backend() == "gpu"
    full, run = bench.compiled()
    if "step" in args.parts:
        if not gpu or torch.cuda.is_available():
            versus_torch(bench, run, args.repeats, "cuda" if gpu else "cpu")
        if gpu:
            flops = 3 * bench.flops()  # forward, recomputed, backward
            torch.cuda.empty_cache()
            rate = flops / median(run, args.repeats) / 1e12
            print(f"{rate:.1f} TFLOP/s: model FLOP utilisation {rate / args.peak_tflops:.1%}", flush=True)
    for steps in (1, 2, STEPS) if "backprop" in args.parts else ():
        part = bench.compiled(backprop_steps=steps)[1]
        took, a, b = median(part, args.repeats), part(), run()
        cosine = np.sum(a * b) / np.linalg.norm(a) / np.linalg.norm(b)
        print(f"backprop_steps {steps}{took:9.4f}   cosine to the full gradient {cosine:.4f}", flush=True)
    for prompts in (1, 2, 4) if "population" in args.parts else ():
        try:
            took = median(bench.compiled(population=prompts)[1], args.repeats)
            print(f"population {prompts:5}{took / prompts:9.4f}   per prompt", flush=True)
        except jax.errors.JaxRuntimeError as error:  # out of memory
            print(f"population {prompts:5}  {str(error)[:80]}", flush=True)
    if "memory" in args.parts:
        steps = full, bench.compiled(num_steps=50)[0]
        few, many = (step.memory_analysis().temp_size_in_bytes / 1e6 for step in steps)
        print(f"peak temporary MB, 50 steps to 5: {many:.1f} / {few:.1f} = {many / few:.3f} (goal ≤ 1.25)")


if __name__ == "__main__":
    main()
