"""All measurements that need a GPU, the most valuable first, each in a process of its own with a time limit.

    python -m benchmarks.gpu --out FOLDER [--parts step attention memory] [--seconds 480]
    python -m benchmarks.gpu --out FOLDER --parts precision run --seconds 580
    python -m benchmarks.gpu --out FOLDER --tiny   # at small sizes, to try the script on a CPU

What a part prints goes to `FOLDER/PART.txt` as it comes, so that a part that fails or takes too long loses
nothing else. `step` and `attention` measure time, and have the GPU to themselves. The commands of `memory`
run at the same time.
"""

import argparse
import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import NamedTuple


class Part(NamedTuple):
    """Commands of `python -m benchmarks.…` that run at the same time, at full size and at a tiny one.

    `limit` is in seconds. What is not `tuned` compiles faster: XLA does not try several ways to compute.
    """

    limit: int
    commands: tuple[str, ...]
    tiny: tuple[str, ...]
    tuned: bool = True


def _peaks(*cases: tuple[str, str, str, int, int]) -> tuple[str, ...]:
    return tuple(
        f"memory --run {stage} --preset {preset} --dtype {dtype} --prompts {prompts} --images {images}"
        for stage, preset, dtype, prompts, images in cases
    )


PARTS = {
    "step": Part(
        360,
        ("prompt_step --size sd15 --dtype bfloat16 --parts step forms",),
        ("prompt_step --size small --parts step forms --repeats 2",),
    ),
    "attention": Part(
        80, ("attention",), ("attention --tokens 1024 --widths 8 --batch 1 --dtype float32 --repeats 2",)
    ),
    "memory": Part(
        220,
        _peaks(
            ("optimize", "taskonomy-unet", "float32", 8, 1),
            ("optimize", "taskonomy-unet", "float32", 1, 4),
            ("optimize", "taskonomy-unet", "bfloat16", 1, 1),
            ("finetune", "taskonomy-dpt", "float32", 1, 16),
        ),
        _peaks(("finetune", "small", "float32", 1, 1)),
        tuned=False,
    ),
    "precision": Part(
        400,
        ("precision --side 384 --at-once 2",),
        ("precision --preset small --side 64 --steps 1",),
        tuned=False,
    ),
    "run": Part(
        570,
        ("full_run --folder {scratch}/run",),
        ("full_run --folder {scratch}/run --tiny",),
        tuned=False,
    ),
}
ROUNDS = (("step",), ("attention",), ("memory",), ("precision", "run"))  # parts that run at the same time


def start(command: str, limit: float, output: Path, environment: dict[str, str]) -> subprocess.Popen:
    """Start `python -m benchmarks.COMMAND`; it is killed after `limit` seconds."""
    words = [sys.executable, "-u", "-m", *f"benchmarks.{command}".split()]
    with output.open("a") as file:
        print("$", *words, file=file, flush=True)
        limited = ["timeout", "-k", "5", str(int(limit)), *words]
        return subprocess.Popen(limited, stdout=file, stderr=subprocess.STDOUT, env=environment)


def run_round(names: tuple[str, ...], seconds: float, args: argparse.Namespace, scratch: Path) -> None:
    """Run parts at the same time, each for its limit or for the `seconds` that are left, if that is less."""
    environment = os.environ | {
        "JAX_COMPILATION_CACHE_DIR": str(scratch / "compiled"),
        "XLA_PYTHON_CLIENT_PREALLOCATE": "false",  # processes share the GPU
        "TF_CPP_MIN_LOG_LEVEL": "2",
        "HF_HUB_OFFLINE": "1",
    }
    begin, running = time.monotonic(), []
    for name in names:
        part, flags = PARTS[name], {}
        if not part.tuned:
            flags["XLA_FLAGS"] = os.environ.get("XLA_FLAGS", "") + " --xla_gpu_autotune_level=0"
        for command in part.tiny if args.tiny else part.commands:
            given = command.format(scratch=scratch), min(part.limit, seconds), args.out / f"{name}.txt"
            running.append(start(*given, environment | flags))
    statuses = [process.wait() for process in running]
    print(f"{', '.join(names)}: {time.monotonic() - begin:.0f} s, statuses {statuses}", flush=True)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--out", type=Path, required=True, help="folder for what the parts print")
    parser.add_argument("--parts", nargs="+", choices=PARTS, default=["step", "attention", "memory"])
    parser.add_argument("--seconds", type=float, default=480, help="time limit of everything")
    parser.add_argument("--tiny", action="store_true", help="use small sizes")
    args = parser.parse_args()
    args.out.mkdir(parents=True, exist_ok=True)
    end = time.monotonic() + args.seconds
    with tempfile.TemporaryDirectory() as scratch:
        for together in ROUNDS:
            names = tuple(name for name in together if name in args.parts)
            left = end - time.monotonic()
            if names and left > 1:
                run_round(names, left, args, Path(scratch))
    for path in sorted(args.out.glob("*.txt")):
        print(f"\n{path.name}\n{path.read_text()[-2500:]}")


if __name__ == "__main__":
    main()
