"""The measurements that the probes of both small worlds share, and the way their results are shown."""

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

from gap_jax.data.batch import HostBatch
from gap_jax.diffusion.align import Alignment, Sampling, generate
from gap_jax.diffusion.pipeline import Params, Pipeline
from gap_jax.files import write_whole
from gap_jax.models.clip import Clip
from gap_jax.small_worlds.words import Axes
from gap_jax.stages.evaluate import in_steps
from gap_jax.weights.repo import SHIPPED

WordTuple = Sequence[str]  # a picture's words, one for each axis
Caption = Callable[[WordTuple, Sequence[bool]], str]


def psnr(images: np.ndarray, others: np.ndarray) -> np.ndarray:
    """Return the peak signal-to-noise ratio of each image `[n,H,W,3]` in [0,1], in dB; `[n]`."""
    return -10 * np.log10(np.square(images - others).mean((1, 2, 3)))


def mean_by_word(values: np.ndarray, words: Sequence[WordTuple], axes: Axes) -> dict[str, float]:
    """Return the `mean` of the values `[n]`, and by word the mean over the images that the word describes."""
    values, means = np.asarray(values), {"mean": float(np.mean(values))}
    for word in itertools.chain(*axes.values()):
        rows = [word in image_words for image_words in words]
        if any(rows):
            means[word] = float(values[rows].mean())
    return means


def reconstruct(pipe: Pipeline, params: Params, images: np.ndarray) -> np.ndarray:
    """Return images `[n,H,W,3]` in [0,1] after encoding and decoding by the autoencoder."""
    autoencode = jax.jit(lambda params, rows: pipe.decode(params, pipe.encode_image(params, rows["image"])))
    return in_steps(autoencode, params, {"image": images})


def zero_shot_accuracy(
    clip: Clip, params: Params, images: np.ndarray, words: Sequence[WordTuple], axes: Axes, caption: Caption
) -> dict[str, float]:
    """Return, by axis, the share of images `[n,H,W,3]` for which CLIP picks the right word.

    `words` are the right ones of each image. `caption(words, known)` returns a caption of the words whose
    `known` is True.
    """

    def unit(x):
        return x / np.linalg.norm(x, axis=-1, keepdims=True)

    encode = jax.jit(lambda params, rows: clip.image_features(params, rows["image"], projected=True))
    features = unit(in_steps(encode, params, {"image": images}))
    accuracies = {}
    for i, (axis, candidates) in enumerate(axes.items()):
        only_this_axis = [axis == other for other in axes]
        texts = [caption((word,) * len(axes), only_this_axis) for word in candidates]
        targets = unit(np.asarray(clip.text_features(params, clip.tokenize(texts), projected=True)))
        guesses = (features @ targets.T).argmax(1)
        hits = [
            candidates[guess] == image_words[i] for guess, image_words in zip(guesses, words, strict=True)
        ]
        accuracies[axis] = float(np.mean(hits))
    return accuracies


def generate_images(
    pipe: Pipeline,
    params: Params,
    captions: Sequence[str],
    batch: HostBatch,
    align: Alignment,
    sampling: Sampling,
    description: str | None = None,
    images_per_step: int = 32,
) -> np.ndarray:
    """Generate an image for each caption and row of `batch`; float `[n,H,W,3]` in [0,1].

    `batch` has `image` and whatever else `align` reads. Every image has its own noise, even if captions and
    rows are equal. A `description` is shown with a progress bar; without one there is no bar.
    """
    count, uncond = len(captions), pipe.encode_text(params, pipe.tokenize([""]))
    keys = np.asarray(jax.random.key_data(jax.random.split(jax.random.key(0), count)))
    program = _generation_program(pipe, align, sampling)
    with tqdm(total=count, desc=description, unit="image", disable=description is None) as bar:

        def step(weights, rows):
            images = jax.block_until_ready(program(*weights, rows))
            bar.update(min(len(images), count - bar.n))
            return images

        rows = {**batch, "ids": pipe.tokenize(captions), "keys": keys}
        return in_steps(step, (params, uncond), rows, images_per_step)


@lru_cache
def _generation_program(pipe: Pipeline, align: Alignment, sampling: Sampling) -> Callable[..., jax.Array]:
    """Return `program(params, uncond, rows)`, compiled once for all parameters."""

    def program(params, uncond, rows):
        context = pipe.encode_text(params, rows["ids"])
        keys = jax.random.wrap_key_data(rows["keys"])
        return generate(pipe, params, context, uncond, rows, keys, align, sampling)

    return jax.jit(program)


def part_folder(model: str, part: str) -> str | Path:
    """Return the folder of a part of a world's models, or `model` itself if it names shipped models."""
    return model if model in SHIPPED else Path(model) / part


def picture_figure(titles: Sequence[str], rows: Mapping[str, Sequence[np.ndarray] | np.ndarray]) -> Figure:
    """Return a figure with rows of pictures, each labelled with its name, below column titles."""
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


def print_results(results: Mapping[str, Any], output: Path | None) -> None:
    """Print numbers and tables of them, and write them to the JSON file `output` unless it is None."""
    for name, table in results.items():
        print(f"\n{name}" if isinstance(table, dict) else f"{name}: {table}")
        if not isinstance(table, dict):
            continue
        for row, value in table.items():
            values = value.items() if isinstance(value, dict) else [("", value)]
            cells = (f"{key} {x:.4g}".strip() if isinstance(x, float) else f"({x})" for key, x in values)
            print(f"  {row:18}", "  ".join(cells))
    if output is not None:
        write_whole(output, (json.dumps(results, indent=1) + "\n").encode())
