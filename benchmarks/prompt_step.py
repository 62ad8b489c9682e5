"""A step of prompt optimisation against torch diffusers', with the same random weights, in one run.

    python -m benchmarks.prompt_step [--size small] [--repeats 5] [--dtype float32] [--parts step memory]

A step: the gradient of XTC's depth U-Net's negative L1 loss to placeholder embeddings through 5 DDIM steps
with guidance 7 and ControlNet; and AdamW. The depth U-Net is in float32, everything else in `--dtype`.

With random weights, the gradient is ill-conditioned: in the small size, changing the start by 1e-7 of its
size changes it by 1e-2, so that errors of this size are rounding.

torch keeps its whole graph, as the authors do, or recomputes blocks where that does not fit. On a CPU, both
run in turn; ours once on one device, which has all cores, and once spread over devices of a core each, as
experiments run it. On a GPU, torch runs first, alone, with both orders of axes; it is left out without CUDA.
There, the part `forms` adds other choices of attention and of recomputation.
"""

import argparse
import dataclasses
import gc
import os
import tempfile
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from types import SimpleNamespace
from typing import NamedTuple

import diffusers
import jax
import jax.numpy as jnp
import numpy as np
import torch
import transformers

from benchmarks.device import describe_device, median, peak_memory
from benchmarks.unet import SMALL, compare, from_torch
from gap_jax import parallel
from gap_jax.chips import chip_of
from gap_jax.diffusion.align import Sampling, controlnet_depth
from gap_jax.diffusion.pipeline import Pipeline
from gap_jax.diffusion.sampler import Economy
from gap_jax.diffusion.schedule import Schedule
from gap_jax.experiments.depth.task import depth_task, resize_labels
from gap_jax.flops import count_flops
from gap_jax.models import clip, controlnet, unet, vae
from gap_jax.models.depth_unet import DepthUNet
from gap_jax.models.network import Network
from gap_jax.models.tokenizer import Tokenizer
from gap_jax.stages.objective import adversarial
from gap_jax.stages.optimizers import adamw
from gap_jax.stages.prompt_optimizer import prompt_optimizer
from gap_jax.weights.configs import build
from tests.diffusion.test_denoise import embed_through
from tests.models.test_depth_unet import TorchUNet
from tests.stages.test_prompt_optimizer import image_keys
from tests.torch_references.folders import nchw, randomise, relative_error, write_tokenizer
from tests.torch_references.sampler import torch_denoise
from tests.weights.test_published import TEXT, VAE

STEPS, GUIDANCE, RATE, NEGATIVE = 5, 7.0, 1e-3, "cartoon"
SCHEDULE = Schedule(1000, 0.00085, 0.012, "scaled_linear", steps_offset=1, set_alpha_to_one=False)
SMALL_VAE = VAE | {key: VAE[key][1:] for key in VAE if key.endswith("block_types")}
SMALL_VAE["block_out_channels"] = (32, 64, 64)
SMALL_TEXT = TEXT | dict(hidden_size=128, intermediate_size=512, num_hidden_layers=2, num_attention_heads=4)
CLASSES = dict(
    text_encoder=clip.CLIPTextModel,
    vae=vae.AutoencoderKL,
    unet=unet.UNet2DCondition,
    controlnet=controlnet.ControlNet,
)
FORMS = (  # of attention, and of recomputation; each row is compiled at once
    (("auto", "auto"), ("auto", "nothing")),
    (("xla", "auto"), ("blocks", "auto")),
)


class Size(NamedTuple):
    """The sizes of a benchmark: images, networks, and levels, width and side of the depth U-Net."""

    side: int
    batch: int
    unet: dict
    only_controlnet: dict
    vae: dict
    text: dict
    depth: tuple[int, int, int]


SMALL_CONDITION = {"conditioning_embedding_out_channels": (16, 32, 96)}
SIZES = {
    "small": Size(64, 4, SMALL, SMALL_CONDITION, SMALL_VAE, SMALL_TEXT, (3, 8, 64)),
    "sd15": Size(384, 8, {"cross_attention_dim": 768}, {}, VAE, TEXT, (6, 16, 256)),
}


class Benchmark:
    """The networks, torch's and ours, and a batch for them; `device` is torch's."""

    def __init__(self, size: str, dtype: str, device: str):
        self.size, self.dtype, self.device = SIZES[size], dtype, device
        torch.manual_seed(0)
        with torch.device(device):
            self.networks = dict(
                text_encoder=transformers.CLIPTextModel(transformers.CLIPTextConfig(**self.size.text)),
                vae=diffusers.AutoencoderKL.from_config(self.size.vae),
                unet=diffusers.UNet2DConditionModel(**self.size.unet),
                controlnet=diffusers.ControlNetModel.from_config(self.size.unet | self.size.only_controlnet),
            )
            self.theirs = TorchUNet(*self.size.depth[:2]).requires_grad_(False)
        self.configs: dict = {"text_encoder": self.size.text}
        for name in ("vae", "unet", "controlnet"):
            self.configs[name] = dict(self.networks[name].config)
        with tempfile.TemporaryDirectory() as folder:
            write_tokenizer(Path(folder))
            self.tokenizer = Tokenizer(
                tuple((path.name, path.read_bytes()) for path in Path(folder).iterdir())
            )
        self.pipe, self.params = self.pipeline(), {}
        for name, network in self.networks.items():
            randomise(network.eval().requires_grad_(False))
            self.params[name] = from_torch(network, getattr(self.pipe, name), dtype)
        self.depth = DepthUNet(*self.size.depth[:2])
        self.depth_params = from_torch(self.theirs, self.depth, "float32")
        rng, shape = np.random.default_rng(0), (self.size.batch, self.size.side, self.size.side, 1)
        self.batch = {"depth": rng.random(shape, dtype=np.float32), "mask": rng.random(shape) < 0.9}
        width = self.pipe.text_encoder.hidden_size
        self.start = rng.standard_normal((4, 4, width), dtype=np.float32) * 0.03

    def pipeline(self, attention: str = "auto", recompute: str = "auto") -> Pipeline:
        """Return our networks with a form of attention and of recomputation."""
        modules, choices = {}, {"attention": attention, "recompute": recompute}
        for name, cls in CLASSES.items():
            options = {} if name == "text_encoder" else choices
            options |= dict.fromkeys(("dtype", "param_dtype"), jnp.dtype(self.dtype))
            modules[name] = build(cls, self.configs[name], name, options)
        return Pipeline(**modules, schedule=SCHEDULE, tokenizer=self.tokenizer)

    def predict(self, params: dict, images: jax.Array) -> jax.Array:
        """Predict depth `[B,S,S,1]` of images, resized to the depth U-Net's side S."""
        side = self.size.depth[2]
        return self.depth.apply(
            {"params": params}, jax.image.resize(images, (len(images), side, side, 3), "bilinear")
        )

    def optimizer(
        self, num_steps: int = STEPS, backprop_steps: int | None = None, spread: bool = False, **choices: str
    ):
        """Return our optimisation of a prompt; `choices` are those of `pipeline`.

        If `spread`, its step belongs into `parallel.population_step`.
        """
        axes = {"axis_name": "data", "population_axes": parallel.POPULATION_AXES} if spread else {}
        return prompt_optimizer(
            self.pipeline(**choices),
            self.params,
            Network(self.predict, self.depth_params),
            [adversarial(depth_task().adversarial)],
            controlnet_depth(),
            adamw(RATE),
            placeholders=4,
            negative_prompt=NEGATIVE,
            sampling=Sampling(num_steps, GUIDANCE, economy=Economy(backprop_steps)),
            **axes,
        )

    def spread(self) -> Callable[[], np.ndarray]:
        """Return a function that runs a step as experiments do: each device computes a part of the images."""
        ours, mesh = self.optimizer(spread=True), parallel.make_mesh()
        state = jax.tree.map(lambda x: x[None], ours.init(jax.random.key(0), self.start[0]))
        step = parallel.population_step(ours.step, mesh)
        arguments = (
            parallel.replicate(mesh, ours.weights),
            parallel.split_prompts(mesh, state),
            parallel.feed(mesh, self.size.batch, self.batch),
        )

        def run():
            return np.asarray(step(*arguments)[0].opt_state[0].mu[0]) / 0.1

        return run

    def compiled(self, population: int = 0, compiler_options: dict | None = None, **options):
        """Return a compiled step, and a function that runs it and returns the gradient that AdamW saw."""
        ours = self.optimizer(**options)
        key, step, batch = jax.random.key(0), ours.step, jax.device_put(self.batch)
        state = ours.init(key, self.start[0])
        if population:
            state = jax.vmap(ours.init)(jax.random.split(key, population), self.start[:population])
            step = jax.vmap(step, (None, 0, None))
        executable = jax.jit(step).lower(ours.weights, state, batch).compile(compiler_options)

        def run():
            return np.asarray(executable(ours.weights, state, batch)[0].opt_state[0].mu) / 0.1

        return executable, run

    def flops(self) -> float:
        """Count the operations that a gradient to the embeddings needs if it computes nothing twice.

        These are twice those of the forward pass: the weights have no gradient.
        """
        ours, keys = self.optimizer(attention="xla"), jax.random.split(jax.random.key(0), self.size.batch)

        def forward(weights, embeddings, batch, keys):
            return self.predict(weights.model, ours.render(weights, embeddings, batch, keys))

        return 2 * count_flops(forward, ours.weights, self.start[0], self.batch, keys)

    def torch_step(self, layout: torch.memory_format = torch.contiguous_format):
        """Return a function that makes the same step in torch and returns its gradient."""
        dtype, rows = getattr(torch, self.dtype), self.size.batch
        for network in self.networks.values():
            network.to(dtype=dtype, memory_format=layout)
        scheduler = diffusers.DDIMScheduler(**dataclasses.asdict(SCHEDULE), clip_sample=False)
        nets = SimpleNamespace(**self.networks, scheduler=scheduler)
        keys, labels = image_keys(jax.random.key(0), 0, rows), self.batch
        begin = controlnet_depth().start(self.pipe, self.params, labels, keys, Sampling())
        noise, control = (
            nchw(np.array(x)).to(self.device, dtype, memory_format=layout)
            for x in (begin.latents, begin.control)
        )
        labels = resize_labels(labels, self.size.depth[2:] * 2)
        label, mask = (nchw(labels[name]).to(self.device) for name in ("depth", "mask"))
        ids = self.pipe.tokenize(["<0>,<1>,<2>,<3>", NEGATIVE], 4)
        ids, negative = torch.tensor(ids, device=self.device).long().split(1)
        table = nets.text_encoder.get_input_embeddings().weight
        uncond = nets.text_encoder(negative)[0].expand(rows, -1, -1)
        leaf = torch.tensor(self.start[0], device=self.device, requires_grad=True)
        optimizer = torch.optim.AdamW([leaf], lr=RATE, weight_decay=1e-2)
        options = dict(num_steps=STEPS, guidance_scale=GUIDANCE, control=control)

        def run():
            with torch.device(self.device):
                context = embed_through(nets.text_encoder, torch.cat([table, leaf.to(dtype)])[ids])
            latents = torch_denoise(nets, noise, context.expand(rows, -1, -1), uncond, **options)
            images = nets.vae.decode(latents / nets.vae.config.scaling_factor).sample.float() / 2 + 0.5
            resized = torch.nn.functional.interpolate(
                images.clamp(0, 1), label.shape[2:], mode="bilinear", antialias=True
            )
            optimizer.zero_grad()
            (-(torch.abs(self.theirs(resized) - label) * mask).mean()).backward()
            optimizer.step()
            return leaf.grad.cpu().numpy()

        return run


def in_turn(bench: Benchmark, ours: Callable[[], np.ndarray], repeats: int) -> None:
    """Compare with torch on a CPU: a step on one device, and spread over all of them."""
    theirs = bench.torch_step()
    gradient = theirs()  # of the start, which AdamW then moves
    print("                     ours     torch   ratio   relative error of the gradient")
    for name, run in {"step, one device": ours, "step, spread": bench.spread()}.items():
        error = relative_error(run(), gradient)
        print(f"{name:16}{compare(run, theirs, repeats)}   {error:.1e}", flush=True)


def torch_on_gpu(bench: Benchmark, repeats: int) -> np.ndarray:
    """Measure torch's step, and return its gradient."""
    torch.backends.cudnn.benchmark = True
    recomputes, gradient = "nothing", None
    for layout in (torch.contiguous_format, torch.channels_last):
        run = bench.torch_step(layout)
        torch.cuda.reset_peak_memory_stats()
        if (result := unless_out_of_memory(run)) is None:
            recomputes = "blocks"
            for name in ("unet", "controlnet", "vae"):
                bench.networks[name].enable_gradient_checkpointing()
            gc.collect()
            torch.cuda.empty_cache()
            torch.cuda.reset_peak_memory_stats()
            result = run()
        gradient = result if gradient is None else gradient
        print(
            f"torch, {str(layout).removeprefix('torch.')}, recomputes {recomputes}: "
            f"{median(run, repeats):.4f} s a step, peak memory "
            f"{torch.cuda.max_memory_allocated() / 1e9:.2f} GB",
            flush=True,
        )
    return gradient


def unless_out_of_memory(run: Callable[[], np.ndarray]) -> np.ndarray | None:
    """Return the result of `run`, or None if torch's memory does not suffice; its graph is then free."""
    try:
        return run()
    except torch.OutOfMemoryError:
        return None


def compile_form(bench: Benchmark, attention: str, recompute: str, tuned: bool = True):
    """Return a description of our step in a form, its program and `run`, or None and the compiler's error.

    XLA tries several ways to compute each convolution and product, unless it is not `tuned`.
    """
    start = time.perf_counter()
    try:
        options = None if tuned else {"xla_gpu_autotune_level": 0}
        made = bench.compiled(attention=attention, recompute=recompute, compiler_options=options)
    except Exception as error:  # which must not hide the other forms
        made = None, error
    name = f"ours, attention {attention}, recompute {recompute}{'' if tuned else ', not tuned'}"
    return f"{name}: compiled in {time.perf_counter() - start:.0f} s", *made


def ours_on_gpu(
    bench: Benchmark, form: tuple, repeats: int, flops: float, reference: np.ndarray | None
) -> None:
    """Measure our step in a form that `compile_form` returned."""
    name, executable, run = form
    try:
        if executable is None:
            raise run
        gradient, took = run(), median(run, repeats)
    except Exception as error:
        print(f"{name}; failed: {str(error)[:300]}", flush=True)
        return
    plan, chip, rate = executable.memory_analysis(), chip_of(jax.devices()[0].device_kind), flops / took
    words = [f"{took:.4f} s a step, {rate / 1e12:.1f} TFLOP/s"]
    if chip is not None:
        words.append(f"model FLOP utilisation {rate / chip.flops:.1%}")
    planned = plan.argument_size_in_bytes + plan.temp_size_in_bytes + plan.output_size_in_bytes
    words.append(f"memory {planned / 1e9:.2f} GB planned")
    if (peak := peak_memory()) is not None:
        words.append(f"peak so far {peak / 1e9:.2f} GB")
    if reference is not None:
        words.append(f"relative error to torch {relative_error(gradient, reference):.1e}")
    print(f"{name}; {'; '.join(words)}", flush=True)


def on_gpu(bench: Benchmark, repeats: int, forms: bool) -> None:
    """Measure torch's step and ours, one after the other, with nothing else on the GPU."""
    reference = None
    try:
        if bench.device == "cuda":
            reference = torch_on_gpu(bench, repeats)
    except RuntimeError as error:
        print(f"torch failed: {str(error)[:300]}", flush=True)
    bench.networks.clear()
    gc.collect()
    torch.cuda.empty_cache()
    flops = bench.flops()
    print(f"a step without recomputation: {flops / 1e12:.1f} TFLOP", flush=True)
    ours_on_gpu(bench, compile_form(bench, "auto", "auto", tuned=False), repeats, flops, reference)
    with ThreadPoolExecutor() as pool:
        for row in FORMS if forms else (FORMS[0][:1],):
            for form in list(pool.map(lambda form: compile_form(bench, *form), row)):
                ours_on_gpu(bench, form, repeats, flops, reference)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--size", choices=SIZES, default="small")
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--dtype", choices=("float32", "bfloat16"), default="float32")
    parts = ("step", "forms", "backprop", "population", "memory")
    parser.add_argument("--parts", nargs="+", choices=parts, default=parts)
    args = parser.parse_args()
    os.environ.setdefault("XLA_PYTHON_CLIENT_PREALLOCATE", "false")  # torch needs the GPU's memory too
    parallel.use_all_cores()
    diffusers.utils.logging.set_verbosity_error()
    print(f"{args.size}, {args.dtype}; seconds on {describe_device()}", flush=True)
    gpu = jax.default_backend() == "gpu"
    bench = Benchmark(args.size, args.dtype, "cuda" if gpu and torch.cuda.is_available() else "cpu")
    if gpu and "step" in args.parts:
        on_gpu(bench, args.repeats, "forms" in args.parts)
    if not set(args.parts) - ({"step", "forms"} if gpu else {"forms"}):
        return
    full, run = bench.compiled()
    if "step" in args.parts and not gpu:
        in_turn(bench, run, args.repeats)
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
