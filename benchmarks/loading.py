"""Reading images with depth: how many per second of one core, and how long a training step waits for them.

    python -m benchmarks.loading [--images 64] [--size 256] [--batch 8] [--steps 10]

Rooms with noise are written the way Taskonomy has its photographs, as 512x512 PNGs. They are read as they
are, prepared once as ArrayRecord, and read from there through Grain. Seconds are those of the process on all
cores together, so that other processes matter little. A training step is one of XTC's U-Net, forward and
backward.
"""

import argparse
import os
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import jax
import numpy as np
import optax
from PIL import Image

from gap_jax.data.depth.dataset import Taskonomy
from gap_jax.data.depth.read import read_depth_example
from gap_jax.data.depth.taskonomy import FAR, TaskonomyLayout
from gap_jax.data.encoding import DEPTH_SCALE
from gap_jax.data.loader import Batches
from gap_jax.models.depth_unet import DepthUNet
from gap_jax.small_worlds import rooms
from gap_jax.tasks.depth import l1

SIDE, ROOMS = 512, 4
NOISE = 3  # of 255: about as hard to compress as a photograph
BUILDING = "hanson"


def write_taskonomy(root: Path, images: int) -> None:
    """Write rooms in Taskonomy's layout."""
    random = np.random.default_rng(0)
    root.mkdir()
    (root / "splits.csv").write_text(f"id,train,val,test\n{BUILDING},1,0,0\n")
    drawn = rooms.render(0, range(ROOMS), [rooms.draw_style(0, i, rooms.NARROW) for i in range(ROOMS)], SIDE)
    for point in range(images):
        image, depth, mask = (part[point % ROOMS] for part in (drawn.image, drawn.depth, drawn.mask))
        parts = {
            f"{BUILDING}_rgb/rgb": np.uint8(np.clip(image + random.normal(0, NOISE, image.shape), 0, 255)),
            f"{BUILDING}_depth_zbuffer/depth_zbuffer": np.uint16(depth[..., 0] * FAR),
            f"masks/{BUILDING}_mask_valid": np.uint8(mask[..., 0]) * 255,
        }
        for folder, pixels in parts.items():
            (root / folder).mkdir(parents=True, exist_ok=True)
            domain = "rgb" if folder.endswith("rgb") else "depth_zbuffer"
            Image.fromarray(pixels).save(root / folder / f"point_{point}_view_0_domain_{domain}.png")


def arrays(example: dict, random: np.random.Generator) -> dict[str, np.ndarray]:
    """Return an example in the form that the U-Net is trained on."""
    return {
        "image": example["image"].astype(np.float32) / 255,
        "depth": example["depth"].astype(np.float32) / DEPTH_SCALE,
        "mask": example["mask"] > 0,
    }


def report(name: str, images: int, run: Callable) -> None:
    """Print how many images are made in a second of one core."""
    start = time.process_time()
    run()
    took = (time.process_time() - start) / images
    print(f"{name:36}{1 / took:8.1f} images/s per core {1e3 * took:8.2f} ms/image", flush=True)


def waiting(batches: Batches, steps: int, buffered: int) -> tuple[float, float]:
    """Return the seconds of a step and those it waits for its batch, after `buffered` batches."""
    network, optimizer = DepthUNet(), optax.adam(3e-5)
    params = network.init(jax.random.key(0), *network.example_inputs())["params"]

    @jax.jit
    def step(params, state, batch):
        def loss(params):
            predicted = network.apply({"params": params}, batch["image"])
            return l1(predicted, batch["depth"], batch["mask"]).mean()

        updates, state = optimizer.update(jax.grad(loss)(params), state)
        return optax.apply_updates(params, updates), state

    state, times = optimizer.init(params), []
    stream = batches(0, buffered + 1 + steps, slice(0, batches.size))
    for _ in range(buffered + 1 + steps):
        start = time.perf_counter()
        batch = next(stream)
        loaded = time.perf_counter()
        params, state = jax.block_until_ready(step(params, state, batch))
        times.append((time.perf_counter() - start, loaded - start))
    total, waited = np.mean(times[-steps:], 0)
    return total, waited


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--images", type=int, default=64)
    parser.add_argument("--size", type=int, default=256)
    parser.add_argument("--batch", type=int, default=8)
    parser.add_argument("--steps", type=int, default=10)
    parser.add_argument("--threads", type=int, default=os.cpu_count())
    args = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        root = Path(folder) / "taskonomy"
        write_taskonomy(root, args.images)
        layout = TaskonomyLayout()
        examples = layout.find(root).splits["train"]
        for part, path in examples[0]._asdict().items():
            if part != "id":
                print(f"{part}: {os.path.getsize(path) / 1e3:.0f} kB as PNG, 512x512")
        report(
            "PNGs to arrays",
            args.images,
            lambda: [read_depth_example(files, layout.decode, args.size) for files in examples],
        )
        report(
            "preparation, PNGs to ArrayRecord",
            args.images,
            lambda: Taskonomy.prepared(layout, root, Path(folder) / "data", args.size),
        )
        source = Taskonomy.prepared(layout, root, Path(folder) / "data", args.size).as_data_source("train")
        batches = Batches(source, arrays, size=args.batch, seed=0, threads=args.threads)
        report(
            "ArrayRecord to batches",
            4 * args.images,
            lambda: list(batches(0, 4 * args.images // args.batch, slice(0, args.batch))),
        )
        total, waited = waiting(batches, args.steps, 2 * args.threads)
        print(
            f"a step of {args.batch} images takes {total:.3f} s on {jax.devices()[0].device_kind}, of which "
            f"{waited:.4f} s are spent waiting for the loader: {waited / total:.2%}"
        )


if __name__ == "__main__":
    main()
