"""What the models of both small worlds are measured by, and how the findings are shown."""

import itertools
import json
from collections.abc import Callable, Mapping, Sequence
from functools import lru_cache
from pathlib import Path
from typing import Any

import jax
import numpy as np
from matplotlib.figure import Figure
from tqdm import tqdm

from gap_jax.diffusion.align import Alignment, Sampling, generate
from gap_jax.diffusion.pipeline import Params, Pipeline
from gap_jax.models.clip import Clip
from gap_jax.small_worlds.words import Axes
from gap_jax.stages.evaluate import in_steps
from gap_jax.weights.repo import SHIPPED

Words = Sequence[str]  # one for each axis
Caption = Callable[[Words, Sequence[bool]], str]


def psnr(images: np.ndarray, others: np.ndarray) -> np.ndarray:
    """Peak signal-to-noise ratio of each image `[n,H,W,3]` in [0,1], in dB."""
    return -10 * np.log10(np.square(images - others).mean((1, 2, 3)))


def by_word(values: np.ndarray, words: Sequence[Words], axes: Axes) -> dict[str, float]:
    """The mean over all images, and over those of each word that there is."""
    values, means = np.asarray(values), {"mean": float(np.mean(values))}
    for word in itertools.chain(*axes.values()):
        rows = [word in each for each in words]
        if any(rows):
            means[word] = float(values[rows].mean())
    return means


def reconstructed(pipe: Pipeline, params: Params, images: np.ndarray) -> np.ndarray:
    """Images through the autoencoder and back."""
    code = jax.jit(lambda params, rows: pipe.decode(params, pipe.encode_image(params, rows["image"])))
    return in_steps(code, params, {"image": images})


def zero_shot(
    clip: Clip, params: Params, images: np.ndarray, words: Sequence[Words], axes: Axes, caption: Caption
) -> dict[str, float]:
    """The share of images `[n,H,W,3]` for which CLIP finds the right word among an axis's, for each axis.

    `caption(words, known)` puts those of an image's words into a sentence that are `known`.
    """

    def unit(x):
        return x / np.linalg.norm(x, axis=-1, keepdims=True)

    encode = jax.jit(lambda params, rows: clip.image_features(params, rows["image"], projected=True))
    features = unit(in_steps(encode, params, {"image": images}))
    found = {}
    for i, (axis, candidates) in enumerate(axes.items()):
        alone = [axis == other for other in axes]
        texts = [caption((word,) * len(axes), alone) for word in candidates]
        targets = unit(np.asarray(clip.text_features(params, clip.tokenize(texts), projected=True)))
        guesses = (features @ targets.T).argmax(1)
        hits = [candidates[guess] == each[i] for guess, each in zip(guesses, words, strict=True)]
        found[axis] = float(np.mean(hits))
    return found


def generated(
    pipe: Pipeline,
    params: Params,
    captions: Sequence[str],
    batch: Mapping[str, np.ndarray],
    align: Alignment,
    sampling: Sampling,
    desc: str | None = None,
) -> np.ndarray:
    """An image `[n,H,W,3]` of each caption and row of `batch`, what `align` reads; each has its own noise.

    `batch` must have `image`. `desc`: of a progress bar.
    """
    count, uncond = len(captions), pipe.encode_text(params, pipe.tokenize([""]))
    keys = np.asarray(jax.random.key_data(jax.random.split(jax.random.key(0), count)))
    make = _generator(pipe, align, sampling)
    with tqdm(total=count, desc=desc, unit="image", disable=desc is None) as bar:

        def step(weights, rows):
            images = jax.block_until_ready(make(*weights, rows))
            bar.update(min(len(images), count - bar.n))
            return images

        return in_steps(step, (params, uncond), {**batch, "ids": pipe.tokenize(captions), "keys": keys})


@lru_cache
def _generator(pipe: Pipeline, align: Alignment, sampling: Sampling) -> Callable[..., jax.Array]:
    """`make(params, uncond, rows)`, compiled once for all parameters."""

    def make(params, uncond, rows):
        context = pipe.encode_text(params, rows["ids"])
        keys = jax.random.wrap_key_data(rows["keys"])
        return generate(pipe, params, context, uncond, rows, keys, align, sampling)

    return jax.jit(make)


def where(model: str, part: str) -> str | Path:
    """The folder of a part of a small world's models, or the name of shipped ones, which loaders know."""
    return model if model in SHIPPED else Path(model) / part


def grid(titles: Sequence[str], rows: Mapping[str, Sequence[np.ndarray]]) -> Figure:
    """Rows of pictures, each with its name, below titles."""
    figure = Figure(figsize=(1.3 * len(titles), 0.3 + 1.43 * len(rows)), layout="constrained")
    axes = figure.subplots(len(rows), len(titles))
    for row, (name, images) in zip(axes, rows.items(), strict=True):
        row[0].set_ylabel(name)
        for axis, image in zip(row, images, strict=True):
            axis.imshow(image, interpolation="nearest")
            axis.set(xticks=[], yticks=[])
    for axis, title in zip(axes[0], titles, strict=True):
        axis.set_title(title, fontsize=8)
    return figure


def report(found: Mapping[str, Any], output: Path | None) -> None:
    """Print findings, numbers and tables of them, and write them to a JSON file, if one is named."""
    for name, table in found.items():
        print(f"\n{name}" if isinstance(table, dict) else f"{name}: {table}")
        if not isinstance(table, dict):
            continue
        for row, value in table.items():
            values = value.items() if isinstance(value, dict) else [("", value)]
            cells = (f"{key} {x:.4g}".strip() if isinstance(x, float) else f"({x})" for key, x in values)
            print(f"  {row:18}", "  ".join(cells))
    if output is not None:
        output.write_text(json.dumps(found, indent=1) + "\n")
