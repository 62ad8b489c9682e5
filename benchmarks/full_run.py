"""A whole depth experiment at full size, as short as possible: the time and the memory of each stage.

    python -m benchmarks.full_run --folder DIR
    python -m benchmarks.full_run --folder DIR --side 64   # with smaller images
    python -m benchmarks.full_run --folder DIR --tiny      # with small networks, too, to try the script

torch writes Stable Diffusion 1.5, ControlNet, CLIP ViT-L/14 and XTC's U-Net in their published shapes, with
random weights, and `gap_jax.data prepare` reads a few rooms in Taskonomy's layout. The command line then runs
the preset `taskonomy-unet`, each stage in a process of its own: one prompt, one image, one update; two
generated images; one fine-tuning step; two test images, clean and under one corruption. Prints seconds and
peak memory of each stage. Linux; at full size, the files take 8 GB, and a stage up to 20 GB of memory. The
report stays in `DIR/side-384/work/report`.
"""

import argparse
import os
import subprocess
import sys
import time
from pathlib import Path

import numpy as np

from benchmarks.full_size import in_new_process, write
from gap_jax.closed_loop.settings import STAGES
from gap_jax.data.corruptions.common import corrupt
from gap_jax.small_worlds import rooms
from tests.data import depth_files

BUILDINGS = {"oak": "train", "elm": "val", "ash": "test"}
POINTS = 4  # images of each building
TARGETS = 2
SETTINGS = {
    "arms": ("control", "guided-adversarial"),
    "optimizing.prompts": (1,),
    "optimizing.steps": (1,),
    "optimizing.batch": (1,),
    "generating.images": (2,),
    "generating.batch": (1,),
    "generating.denoising-steps": (3,),  # of the preset's 15: the report draws six images more
    "finetuning.steps": (1,),
    "finetuning.batch": (4,),
    "evaluating.images": (2,),
    "evaluating.severities": (),
    "evaluating.efficiency": (),
}


def write_networks(folder: Path, tiny: bool) -> None:
    """Save a pipeline with ControlNet, CLIP and a depth U-Net, with random weights in torch's files."""
    import torch

    from tests.models.test_depth_unet import TorchUNet
    from tests.torch_references.folders import torch_clip, torch_pipeline

    if tiny:
        torch_pipeline("sd15", folder / "tokenizer").save_pretrained(folder / "pipeline")
        torch_clip(folder / "clip")
    else:
        write(folder, 8)
    torch.manual_seed(0)
    torch.save(TorchUNet(*((2, 8) if tiny else (6, 16))).state_dict(), folder / "rgb2depth_consistency.pth")


def write_data(folder: Path, side: int, size: int) -> None:
    """Write rooms of `side` pixels in Taskonomy's layout, a target domain and a corruption.

    The rooms are prepared at `side` and at `size`, that of the depth model.
    """
    raw, count = folder / "taskonomy", POINTS * len(BUILDINGS)
    rendered = rooms.render(0, range(count), [rooms.Style()] * count, side)
    folder.mkdir(parents=True, exist_ok=True)
    depth_files.write_taskonomy(raw, BUILDINGS, points=0)  # the table of splits alone
    foggy = corrupt(rendered.image / np.float32(255), "fog", 3, ids=np.arange(count))
    for i in range(count):
        building, point = list(BUILDINGS)[i // POINTS], i % POINTS
        paths = depth_files.taskonomy(raw, building, point)
        depth = np.uint16(np.round(rendered.depth[i, ..., 0] * 8 * 512))  # metres in units of 1/512
        depth_files.write(paths, depth_files.Drawn(rendered.image[i], depth, rendered.mask[i, ..., 0]))
        fog = np.uint8(np.round(255 * foggy[i]))
        depth_files.save(folder / "corrupted" / "fog" / "3" / paths[0].relative_to(raw), fog)
        if i < TARGETS:
            depth_files.save(folder / "target" / f"{i}.png", fog)
    for pixels in {side, size}:
        prepare = f"prepare taskonomy --root {raw} --data-dir {folder / str(pixels)} --size {pixels}"
        subprocess.run([sys.executable, "-m", "gap_jax.data", *prepare.split()], check=True)


def command(networks: Path, data: Path, side: int, size: int) -> list[str]:
    """Return the command line of the experiment, without the stage."""
    world = {
        "data": data / str(side),
        "held-out": data / str(size),
        "size": size,
        "corrupted": data / "corrupted",
        "pipeline": networks / "pipeline",
        "controlnet": networks / "pipeline" / "controlnet",
        "clip": networks / "clip",
        "model": networks / "rgb2depth_consistency.pth",
    }
    given = ["--preset", "taskonomy-unet", "--work", data / "work"]
    given += ["--sampling.size", side, "--world.targets", "fog", data / "target"]
    for name, value in world.items():
        given += [f"--world.{name}", value]
    for name, values in SETTINGS.items():
        given += [f"--{name}", *values]
    return list(map(str, given))


def run_stage(arguments: list[str]) -> tuple[float, int]:
    """Run the experiment in a process of its own, on one device; return seconds and peak memory in bytes."""
    start = time.perf_counter()
    process = subprocess.Popen(
        [sys.executable, "-m", "gap_jax.experiments.depth", *arguments],
        env=os.environ | {"JAX_NUM_CPU_DEVICES": "1"},
    )
    _, status, usage = os.wait4(process.pid, 0)
    if status:
        raise SystemExit(f"the experiment ended with status {os.waitstatus_to_exitcode(status)}")
    return time.perf_counter() - start, 1024 * usage.ru_maxrss


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--folder", type=Path, required=True, help="folder for networks, data and results")
    parser.add_argument("--side", type=int, default=384, help="side of images, in pixels")
    parser.add_argument("--tiny", action="store_true", help="use small networks and images of 64 pixels")
    args = parser.parse_args()
    side, size = (64, 64) if args.tiny else (args.side, 256)
    networks = args.folder.absolute()
    data = networks / f"side-{side}"
    if not (networks / "rgb2depth_consistency.pth").exists():
        in_new_process(write_networks, networks, args.tiny)
    if not (data / "target").exists():
        write_data(data, side, size)
    given = command(networks, data, side, size)
    print("python -m gap_jax.experiments.depth STAGE", *given, flush=True)
    for stage in STAGES:
        seconds, memory = run_stage([stage, *given])
        print(f"{stage:10}{seconds:8.0f} s   peak memory {memory / 1e9:5.1f} GB", flush=True)


if __name__ == "__main__":
    main()
