"""What the small world's models can do, in numbers: `python -m gap_jax.experiments.probe`.

On rooms held out from training: how well the autoencoder reconstructs, whether CLIP tells the styles, whether
generated images have the style asked for and keep the label, as the critic sees it, and where `f` fails.
"""

import dataclasses
import itertools
import json
from collections.abc import Callable, Sequence
from functools import lru_cache, partial
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import tyro
from matplotlib.figure import Figure
from tqdm import tqdm

from gap_jax.data import rooms
from gap_jax.diffusion.align import Sampling, controlnet_depth, generate
from gap_jax.diffusion.pipeline import Pipeline
from gap_jax.experiments import depth_task
from gap_jax.models.clip import Clip
from gap_jax.models.depth_unet import DepthUNet
from gap_jax.report import pictures
from gap_jax.tasks.depth import l1 as depth_l1
from gap_jax.weights.depth import load_depth
from gap_jax.weights.pipeline import load_clip, load_pipeline

STYLES = tuple(rooms.Style(*words) for words in itertools.product(*rooms.AXES.values()))
SHIFTS = {
    "clean": rooms.Style(),
    "foggy": rooms.Style(air="foggy"),
    "dark": rooms.Style(light="dark"),
    "striped": rooms.Style(texture="striped"),
    "checkered": rooms.Style(texture="checkered"),
    "red": rooms.Style("red"),
    "green": rooms.Style("green"),
    "blue": rooms.Style("blue"),
}
EIGHT = (
    rooms.Style("grey"),
    rooms.Style("red", "striped"),
    rooms.Style("blue", "checkered"),
    rooms.Style("green", light="dark"),
    rooms.Style("beige", air="foggy"),
    rooms.Style("blue", "striped", "dark", "foggy"),
    rooms.Style("grey", "checkered", "dark"),
    rooms.Style("red", "plain", "bright", "foggy"),
)
CHUNK = 32


@dataclasses.dataclass(frozen=True)
class Probe:
    """Whose, and on how many images."""

    model: str = "small"  # the pipeline's folder
    clip: str = "small"
    depth: str = "small"  # with the parts `depth` (f) and `critic`, or a folder that has them
    rooms_per_style: int = 12  # 60 styles
    guidance_scale: float = 2.0
    split: str = "validation"
    output: Path | None = None  # a JSON file for the numbers
    picture: Path | None = None  # a PNG: depth, rendered and generated images in eight styles


def main(config: Probe) -> dict[str, Any]:
    """Measure and print everything."""
    pipe, params = load_pipeline(config.model)
    clip, clip_params = load_clip(config.clip)
    f, critic = (depth_model(config.depth, part) for part in ("depth", "critic"))
    seed = rooms.SPLITS[config.split]
    styles = STYLES * config.rooms_per_style
    truth = rooms.render(seed, range(len(styles)), styles)
    image = truth.image.astype(np.float32) / 255
    found: dict[str, Any] = {"images": len(styles), "guidance_scale": config.guidance_scale}

    found["vae_psnr"] = by_word(psnr(reconstructed(pipe, params, image), image), styles)
    found["clip_zero_shot"] = zero_shot(clip, clip_params, image, styles)
    mean = mean_map()
    errors = {"real": critic(image, truth), "mean_map": l1(np.broadcast_to(mean, truth.depth.shape), truth)}
    for steps in (5, 15):
        sampling = Sampling(num_steps=steps, guidance_scale=config.guidance_scale)
        images = generated(pipe, params, truth, sampling, f"generate, {steps} steps")
        found[f"generated_style_{steps}_steps"] = zero_shot(clip, clip_params, images, styles)
        found[f"generated_psnr_{steps}_steps"] = by_word(psnr(images, image), styles)
        errors[f"generated_{steps}_steps"] = critic(images, truth)
    found["critic_l1"] = {name: by_word(values, styles) for name, values in errors.items()}
    found["label_fidelity"] = fidelity(errors, styles)
    found["f_l1"] = shifts(f, critic, mean, seed)
    _print(found)
    if config.picture is not None:
        draw(pipe, params, seed, config.guidance_scale).savefig(config.picture, dpi=100)
    if config.output is not None:
        config.output.write_text(json.dumps(found, indent=1) + "\n")
    return found


def by_word(values: np.ndarray, styles: Sequence[rooms.Style]) -> dict[str, float]:
    """The mean over all images, and over those of each style word that there is."""
    values, means = np.asarray(values), {"mean": float(np.mean(values))}
    for word in itertools.chain(*rooms.AXES.values()):
        rows = [word in style for style in styles]
        if any(rows):
            means[word] = float(values[rows].mean())
    return means


def psnr(images: np.ndarray, others: np.ndarray) -> np.ndarray:
    """Peak signal-to-noise ratio of each image `[n,H,W,3]` in [0,1], in dB."""
    return -10 * np.log10(np.square(images - others).mean((1, 2, 3)))


def l1(prediction: np.ndarray, truth: rooms.Rooms) -> np.ndarray:
    return np.asarray(depth_l1(jnp.asarray(prediction), truth.depth, truth.mask))


def depth_model(model: str, part: str) -> Callable[[np.ndarray, rooms.Rooms], np.ndarray]:
    """`errors(images, truth) -> [n]`, the L1 of a depth model."""
    folder = model if model == "small" else Path(model) / part
    return errors_of(*load_depth(folder, part))


def errors_of(network: DepthUNet, params: Any) -> Callable[[np.ndarray, rooms.Rooms], np.ndarray]:
    predict = jax.jit(lambda images: network.apply({"params": params}, images))
    return lambda images, truth: l1(in_chunks(predict, images), truth)


def in_chunks(function: Callable[..., jax.Array], *arrays: np.ndarray, desc: str | None = None) -> np.ndarray:
    """`function` of arrays with equal first axes, a few rows at a time, each time as many."""
    count = len(arrays[0])
    parts = []
    for start in tqdm(range(0, count, CHUNK), desc=desc, disable=desc is None):
        rows = [np.resize(np.arange(start, min(start + CHUNK, count)), CHUNK)] * len(arrays)
        parts.append(np.asarray(function(*(array[row] for array, row in zip(arrays, rows, strict=True)))))
    return np.concatenate(parts)[:count]


def reconstructed(pipe: Pipeline, params: Any, images: np.ndarray) -> np.ndarray:
    """Images through the autoencoder and back."""
    code = jax.jit(lambda params, chunk: pipe.decode(params, pipe.encode_image(params, chunk)))
    return in_chunks(partial(code, params), images)


def zero_shot(clip: Clip, params: Any, images: np.ndarray, styles: Sequence[rooms.Style]) -> dict[str, float]:
    """The share of images `[n,H,W,3]` for which CLIP finds the right word among an axis's, for each axis."""

    def unit(x):
        return x / np.linalg.norm(x, axis=-1, keepdims=True)

    encode = jax.jit(lambda params, chunk: clip.image_features(params, chunk, projected=True))
    features = unit(in_chunks(partial(encode, params), images))
    found = {}
    for i, (axis, words) in enumerate(rooms.AXES.items()):
        texts = [
            rooms.caption(rooms.Style(*(word,) * 4), [axis == other for other in rooms.AXES])
            for word in words
        ]
        targets = unit(np.asarray(clip.text_features(params, clip.tokenize(texts), projected=True)))
        guesses = (features @ targets.T).argmax(1)
        hits = [words[guess] == style[i] for guess, style in zip(guesses, styles, strict=True)]
        found[axis] = float(np.mean(hits))
    return found


def generated(
    pipe: Pipeline, params: Any, truth: rooms.Rooms, sampling: Sampling, desc: str | None = None
) -> np.ndarray:
    """An image for each room's depth map, in its style; every image has its own noise."""
    ids = pipe.tokenize([rooms.caption(style) for style in truth.styles])
    uncond = pipe.encode_text(params, pipe.tokenize([""]))
    keys = np.asarray(jax.random.key_data(jax.random.split(jax.random.key(0), len(ids))))
    make = partial(_generator(pipe, sampling), params, uncond)
    return in_chunks(make, truth.depth, truth.mask, ids, keys, desc=desc)


@lru_cache
def _generator(pipe: Pipeline, sampling: Sampling) -> Callable[..., jax.Array]:
    """`make(params, uncond, depth, mask, ids, keys)`, compiled once for all parameters."""
    align = controlnet_depth()

    def make(params, uncond, depth, mask, ids, keys):
        context = pipe.encode_text(params, ids)
        batch, keys = {"depth": depth, "mask": mask}, jax.random.wrap_key_data(keys)
        return generate(pipe, params, context, uncond, batch, keys, align, sampling)

    return jax.jit(make)


def mean_map(count: int = 512) -> np.ndarray:
    """The mean depth map of training rooms, `[S,S,1]`: what predicts best without looking at the image."""
    truth = rooms.render(rooms.SPLITS["train"], range(count), [rooms.Style()] * count)
    labels = zip(truth.depth, truth.mask, strict=True)
    return depth_task.mean_map([{"depth": depth, "mask": mask} for depth, mask in labels])


def fidelity(errors: dict[str, np.ndarray], styles: Sequence[rooms.Style]) -> dict[str, dict[str, float]]:
    """The critic's L1 on generated images over that on real ones and over the mean map's."""
    found = {}
    for steps in ("5_steps", "15_steps"):
        for other in ("real", "mean_map"):
            own, others = errors[f"generated_{steps}"], errors[other]
            each = {
                rooms.caption(style): own[rows].mean() / others[rows].mean()
                for style in STYLES
                if (rows := [i for i, shown in enumerate(styles) if shown == style])
            }
            worst = max(each, key=each.__getitem__)
            found[f"{steps}_over_{other}"] = {
                "all": float(own.mean() / others.mean()),
                "worst": float(each[worst]),
                "worst_style": worst,
            }
    return found


def shifts(f: Callable, critic: Callable, mean: np.ndarray, seed: int, count: int = 64) -> dict[str, Any]:
    """L1 of `f`, the critic and the mean map on the same rooms in the training style and in others."""
    table = {}
    for name, style in SHIFTS.items():
        truth = rooms.render(seed, range(count), [style] * count)
        image = truth.image.astype(np.float32) / 255
        table[name] = {
            "f": float(f(image, truth).mean()),
            "critic": float(critic(image, truth).mean()),
            "mean_map": float(l1(np.broadcast_to(mean, truth.depth.shape), truth).mean()),
        }
    return table


def draw(pipe: Pipeline, params: Any, seed: int, guidance_scale: float) -> Figure:
    """Rooms in eight styles: depth map, render, and what is generated from depth and caption in 15 steps."""
    truth = rooms.render(seed, range(len(EIGHT)), EIGHT)
    images = generated(pipe, params, truth, Sampling(num_steps=15, guidance_scale=guidance_scale))
    depths = map(pictures.depth, truth.depth, truth.mask)
    figure = Figure(figsize=(1.3 * len(EIGHT), 4.6), layout="constrained")
    axes = figure.subplots(3, len(EIGHT))
    rows = {"depth": depths, "rendered": truth.image, "generated": np.clip(images, 0, 1)}
    for row, (name, row_images) in zip(axes, rows.items(), strict=True):
        row[0].set_ylabel(name)
        for axis, image in zip(row, row_images, strict=True):
            axis.imshow(image, interpolation="nearest")
            axis.set(xticks=[], yticks=[])
    for axis, style in zip(axes[0], EIGHT, strict=True):
        axis.set_title(rooms.caption(style).replace(", ", "\n", 1).replace(" room", "\nroom"), fontsize=8)
    return figure


def _print(found: dict[str, Any]) -> None:
    for name, table in found.items():
        print(f"\n{name}" if isinstance(table, dict) else f"{name}: {table}")
        if not isinstance(table, dict):
            continue
        for row, value in table.items():
            values = value.items() if isinstance(value, dict) else [("", value)]
            cells = (f"{key} {x:.4g}".strip() if isinstance(x, float) else f"({x})" for key, x in values)
            print(f"  {row:18}", "  ".join(cells))


if __name__ == "__main__":
    main(tyro.cli(Probe, description=__doc__))
