"""Common Corruptions against the published code: the PSNR of corrupted photographs at three sizes.

    python -m benchmarks.corruptions --frost FOLDER [--sizes 64 224 384]

FOLDER holds the published photographs of frost, which come with the package `imagecorruptions`:

    pip download --no-deps imagecorruptions && unzip imagecorruptions-*.whl
    python -m benchmarks.corruptions --frost imagecorruptions/frost

A PSNR is that of a corrupted photograph to the clean one, in dB; the table has its mean over six photographs,
five severities and several draws of what is random. The published formulas are written in OpenCV, scipy, PIL
and matplotlib in `tests/data/corruptions/published.py`. Neither side is compressed by JPEG at the end.
"""

import argparse
from functools import partial
from pathlib import Path

import matplotlib.cbook
import numpy as np
from PIL import Image
from sklearn.datasets import load_sample_images

from gap_jax.data.corruptions.apply import SEVERITIES
from gap_jax.data.corruptions.common import CORRUPTIONS, corrupt
from tests.data.corruptions import published

DRAWS = {"frost": 32, "fog": 32, "snow": 16, "elastic_transform": 16, "motion_blur": 16, "glass_blur": 1}
PACKAGES_ELASTIC = "elastic_transform of imagecorruptions"


def photographs(side: int) -> np.ndarray:
    """Return squares of three photographs, two of each, uint8 `[6,side,side,3]`."""
    with matplotlib.cbook.get_sample_data("grace_hopper.jpg") as stream:
        whole = [Image.open(stream).convert("RGB"), *map(Image.fromarray, load_sample_images().images)]
    squares = []
    for photograph in whole:
        width, height = photograph.size
        least = min(width, height)
        for left, top in ((0, 0), (width - least, height - least)):
            square = photograph.crop((left, top, left + least, top + least))
            squares.append(np.asarray(square.resize((side, side), Image.Resampling.LANCZOS)))
    return np.stack(squares)


def psnr(corrupted: np.ndarray, clean: np.ndarray) -> np.ndarray:
    """Return the PSNR of each image in dB; both are `[n,S,S,3]` from 0 to 255."""
    error = np.square(np.float64(corrupted) - clean).mean((1, 2, 3))
    return 10 * np.log10(255**2 / error)


def ours(images: np.ndarray, name: str, draws: int) -> np.ndarray:
    """Return the mean PSNR of our corruption of uint8 images at each severity, `[5]`."""
    floats, ids = images.astype(np.float32) / 255, np.arange(draws * len(images)).reshape(draws, -1)

    def mean(severity: int) -> float:
        return np.mean([psnr(255 * corrupt(floats, name, severity, ids=numbers), images) for numbers in ids])

    return np.array([mean(severity) for severity in SEVERITIES])


def theirs(images: np.ndarray, effect: published.Corrupt, draws: int) -> np.ndarray:
    """Return the mean PSNR of a published corruption of uint8 images at each severity, `[5]`."""
    random = np.random.default_rng(0)

    def mean(severity: int) -> float:
        drawn = [np.stack([effect(image, severity, random) for image in images]) for _ in range(draws)]
        return np.mean([psnr(corrupted, images) for corrupted in drawn])

    return np.array([mean(severity) for severity in SEVERITIES])


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--frost", type=Path, required=True)
    parser.add_argument("--sizes", type=int, nargs="+", default=(64, 224, 384))
    args = parser.parse_args()
    effects: dict[str, published.Corrupt] = {
        name: partial(published.corrupt, name) for name in published.EFFECTS
    }
    effects |= {"frost": published.frost(args.frost), PACKAGES_ELASTIC: published.packages_elastic_transform}
    print("| | " + " | ".join(f"{side} pixels: ours | published | difference" for side in args.sizes) + " |")
    print("|---|" + "--:|" * 3 * len(args.sizes))
    for name in (*CORRUPTIONS, PACKAGES_ELASTIC):
        cells = []
        for side in args.sizes:
            images, kind = photographs(side), name.split()[0]
            draws = DRAWS.get(kind, 2)
            both = ours(images, kind, draws).mean(), theirs(images, effects[name], draws).mean()
            cells += [f"{both[0]:.2f}", f"{both[1]:.2f}", f"{both[0] - both[1]:+.2f}"]
        print(f"| {name} | " + " | ".join(cells) + " |", flush=True)


if __name__ == "__main__":
    main()
