"""Stable Diffusion 1.5 with ControlNet, and CLIP ViT-L/14, at full size: cost of loading, and exactness.

    python -m benchmarks.full_size [--folder DIR] [--side 64]

torch writes random weights in float32, 7.4 GB, in diffusers' and transformers' layout, and one output of each
network. Another process, which never imports torch, loads them and computes the same outputs; a third loads
them to bfloat16. Prints what was measured against the goals, and exits with 1 if one is not met. Linux; takes
six minutes and 11 GB of memory on two cores.
"""

import argparse
import json
import sys
import tempfile
import time
from collections.abc import Callable
from concurrent.futures import ProcessPoolExecutor
from multiprocessing import get_context
from pathlib import Path
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

import gap_jax

Outputs = dict[str, np.ndarray]


class Loaded(NamedTuple):
    """The cost of loading, in bytes and seconds, and the networks' outputs, if they were asked for."""

    parameters: int
    size: int
    baseline: int
    peak: int
    seconds: float
    outputs: Outputs


def in_new_process(function: Callable, *arguments: Any) -> Any:
    """Call a function in a new interpreter, whose memory is gone afterwards."""
    with ProcessPoolExecutor(1, mp_context=get_context("spawn")) as executor:
        return executor.submit(function, *arguments).result()


def inputs(side: int) -> dict[str, np.ndarray]:
    """Return the inputs of one image for latents of `side`, NHWC."""
    rng = np.random.default_rng(0)
    return {
        "token_ids": rng.integers(0, 49408, (1, 77)),
        "latents": rng.standard_normal((1, side, side, 4), dtype=np.float32),
        "context": rng.standard_normal((1, 77, 768), dtype=np.float32),
        "control": rng.random((1, 8 * side, 8 * side, 3), dtype=np.float32),
        "image": rng.random((1, 224, 224, 3), dtype=np.float32),
    }


def write(folder: Path, side: int) -> Outputs:
    """Save random networks of the published configurations; return torch's outputs, NHWC."""
    import diffusers
    import torch
    import transformers

    from tests.models.test_clip import torch_pixels
    from tests.torch_references.folders import nchw, nhwc, randomise, write_tokenizer
    from tests.weights import test_published as published

    pipeline, given, timestep = folder / "pipeline", inputs(side), torch.tensor([500])
    token_ids, context = torch.from_numpy(given["token_ids"]), torch.from_numpy(given["context"])
    latents, control = nchw(given["latents"]), nchw(given["control"])
    pixels = torch_pixels(given["image"], 224)
    outputs = {}
    transformers.utils.logging.disable_progress_bar()
    torch.manual_seed(0)
    torch.set_grad_enabled(False)

    def save(module, where):
        module.eval()
        randomise(module)
        module.save_pretrained(where)
        return module

    clip = save(published.clip_model(published.CLIP), folder / "clip")
    outputs["CLIP image features"] = clip.vision_model(pixels).pooler_output.numpy()
    del clip
    text_encoder = save(published.text_model(published.TEXT), pipeline / "text_encoder")
    outputs["text encoder"] = text_encoder(token_ids).last_hidden_state.numpy()
    del text_encoder
    vae = save(diffusers.AutoencoderKL.from_config(published.VAE), pipeline / "vae")
    images = vae.decode(latents / vae.config.scaling_factor).sample
    outputs["VAE decoder"] = nhwc((images / 2 + 0.5).clamp(0, 1))
    del vae
    controlnet = save(diffusers.ControlNetModel.from_config(published.CONTROLNET), pipeline / "controlnet")
    down, mid = controlnet(latents, timestep, context, control, return_dict=False)
    del controlnet
    unet = save(diffusers.UNet2DConditionModel.from_config(published.UNET), pipeline / "unet")
    noise = unet(
        latents, timestep, context, down_block_additional_residuals=down, mid_block_additional_residual=mid
    ).sample
    outputs["UNet + ControlNet"] = nhwc(noise)
    scheduler = diffusers.DDIMScheduler(beta_start=0.00085, beta_end=0.012, beta_schedule="scaled_linear")
    scheduler.save_pretrained(pipeline / "scheduler")
    write_tokenizer(pipeline / "tokenizer")
    write_tokenizer(folder / "clip")
    index = {
        "_class_name": "StableDiffusionControlNetPipeline",
        "controlnet": ["diffusers", "ControlNetModel"],
    }
    (pipeline / "model_index.json").write_text(json.dumps(index))
    return outputs


def load(folder: Path, dtype: str, side: int | None) -> Loaded:
    """Load all networks and, given the latents' side, run each once."""
    jax.devices()
    baseline, start = peak_memory(), time.perf_counter()
    pipe, params = gap_jax.load_pipeline(folder / "pipeline", dtype=dtype)
    clip, clip_params = gap_jax.load_clip(folder / "clip", dtype=dtype)
    leaves = jax.block_until_ready(jax.tree.leaves((params, clip_params)))
    seconds, peak = time.perf_counter() - start, peak_memory()
    assert "torch" not in sys.modules and all(leaf.dtype == dtype for leaf in leaves)
    outputs = {} if side is None else run(pipe, params, clip, clip_params, inputs(side))
    count, size = sum(leaf.size for leaf in leaves), sum(leaf.nbytes for leaf in leaves)
    return Loaded(count, size, baseline, peak, seconds, outputs)


def run(pipe, params, clip, clip_params, given) -> Outputs:
    @jax.jit
    def predict(params, latents, context, control):
        timestep = jnp.array([500])
        variables = {"params": params["controlnet"]}
        residuals = pipe.controlnet.apply(variables, latents, timestep, context, control)
        return pipe.unet.apply({"params": params["unet"]}, latents, timestep, context, residuals)

    outputs = {
        "UNet + ControlNet": predict(params, given["latents"], given["context"], given["control"]),
        "text encoder": pipe.encode_text(params, given["token_ids"]),
        "VAE decoder": pipe.decode(params, given["latents"]),
        "CLIP image features": clip.image_features(clip_params, given["image"]),
    }
    return {name: np.asarray(output) for name, output in outputs.items()}


def peak_memory() -> int:
    """Return the most physical memory that this process has held, in bytes, mapped files included."""
    status = Path("/proc/self/status").read_text()
    kibibytes = status.split("VmHWM:")[1].split()[0]
    return 1024 * int(kibibytes)


def report(folder: Path, side: int) -> bool:
    """Measure, print the table, and return True if every goal is met."""
    from tests.torch_references.folders import (
        relative_error,  # here: `load`'s process imports this file, but not torch
    )

    passed = []

    def line(what, measured, goal, passes):
        passed.append(passes)
        print(f"{what:32}{measured:>12}   {goal:32}{'PASS' if passes else 'FAIL'}", flush=True)

    expected = in_new_process(write, folder, side)
    outputs = {}
    for dtype, latents_side in (("float32", side), ("bfloat16", None)):
        loaded = in_new_process(load, folder, dtype, latents_side)
        outputs |= loaded.outputs
        goal = 1.25 * loaded.size + 1e9
        print(
            f"{loaded.parameters / 1e6:.1f} M parameters from float32 files to {dtype}: "
            f"{loaded.size / 1e9:.2f} GB in {loaded.seconds:.1f} s"
        )
        what = f"  peak memory ({loaded.baseline / 1e9:.2f} before)"
        described = f"≤ {goal / 1e9:.2f} GB (1.25 × size + 1)"
        line(what, f"{loaded.peak / 1e9:.2f} GB", described, loaded.peak <= goal)
    print(f"relative error to torch in float32, one image, latents {side}x{side}")
    for name, theirs in expected.items():
        error = relative_error(outputs[name], theirs)
        varies = np.isfinite(theirs).all() and theirs.std() > 1e-2
        line(f"  {name}", f"{error:.1e}", "≤ 1e-3", varies and error <= 1e-3)
    return all(passed)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--folder", type=Path, help="folder to keep the models in (default: a temporary one)")
    parser.add_argument(
        "--side",
        type=int,
        default=64,
        help="side of the latents, a multiple of 8; images are 8 times as large",
    )
    args = parser.parse_args()
    with tempfile.TemporaryDirectory() as scratch:
        passed = report(args.folder or Path(scratch), args.side)
    sys.exit(not passed)


if __name__ == "__main__":
    main()
