"""Measure the models of the small world of rooms: `python -m gap_jax.small_worlds.probe.rooms`.

On rooms held out from training, it measures how well the autoencoder reconstructs images, whether CLIP
recognises the styles, whether generated images have the style asked for and keep their labels as the critic
sees them, and where the depth model `f` fails.
"""

import dataclasses
import itertools
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, Literal

import jax
import jax.numpy as jnp
import numpy as np
import tyro
from matplotlib.figure import Figure

from gap_jax.diffusion.align import Sampling, controlnet
from gap_jax.diffusion.pipeline import Params, Pipeline
from gap_jax.report import pictures
from gap_jax.small_worlds import rooms
from gap_jax.small_worlds.probe import measures
from gap_jax.small_worlds.probe.measures import (
    mean_by_word,
    part_folder,
    print_results,
    psnr,
    reconstruct,
    zero_shot_accuracy,
)
from gap_jax.small_worlds.rooms import AXES, Style
from gap_jax.stages.evaluate import in_steps
from gap_jax.tasks import depth as depth_task
from gap_jax.weights.depth import load_depth
from gap_jax.weights.pipeline import load_clip, load_pipeline

EVERY_STYLE = tuple(Style(*words) for words in itertools.product(*AXES.values()))
SHIFTS = {  # styles that `f` is measured in; `clean` is one that it was trained on
    "clean": Style(),
    "foggy": Style(air="foggy"),
    "dark": Style(light="dark"),
    "overexposed": Style(light="overexposed"),
    "blurry": Style(camera="blurry"),
    "faded": Style(camera="faded"),
    "grainy": Style(camera="grainy"),
    "pixelated": Style(camera="pixelated"),
    "red": Style("red"),
}
SHOWN_STYLES = (  # the styles in pictures
    Style("grey"),
    Style("red", camera="blurry"),
    Style("blue", "overexposed"),
    Style("green", "dark"),
    Style("beige", air="foggy"),
    Style("blue", "dark", "foggy"),
    Style("grey", camera="grainy"),
    Style("beige", "bright", "clear", "pixelated"),
)
DEPTH_MODELS = {"f": "depth", "dpt": "dpt", "critic": "critic"}  # the folder of each
ALIGN = controlnet(rooms.condition)
Errors = Callable[[np.ndarray, rooms.RenderedRooms], np.ndarray]  # images and their rooms to errors `[n]`


@dataclasses.dataclass(frozen=True, kw_only=True)
class RoomsProbe:
    """The models to measure, and the number of images to measure them on."""

    model: str = "small"  # Stable Diffusion pipeline: a folder, or `small` for the shipped models
    clip: str = "small"  # CLIP: a folder, or `small`
    # depth models: a folder with the folders `depth` (f), `dpt` and `critic`, or `small`
    depth: str = "small"
    rooms_per_style: int = 5  # number of rooms in each of the 150 styles
    guidance_scale: float = 1.5  # classifier-free guidance scale; 1 is without guidance
    steps: tuple[int, ...] = (5, 15)  # numbers of denoising steps to measure, each in turn
    split: Literal["train", "validation", "test"] = "validation"  # split of the rooms
    output: Path | None = None  # JSON file to write the numbers to
    picture: Path | None = None  # PNG file to draw depth, rendered and generated images of eight styles to


def main(config: RoomsProbe) -> dict[str, Any]:
    """Measure everything, print it and return it."""
    pipe, params = load_pipeline(config.model)
    clip, clip_params = load_clip(config.clip)
    models = {name: depth_model_errors(config.depth, part) for name, part in DEPTH_MODELS.items()}
    critic = models["critic"]
    seed = rooms.SPLITS[config.split]
    styles = EVERY_STYLE * config.rooms_per_style
    truth = rooms.render(seed, range(len(styles)), styles)
    image = truth.as_batch()["image"]
    results: dict[str, Any] = {"images": len(styles), "guidance_scale": config.guidance_scale}

    results["vae_psnr"] = mean_by_word(psnr(reconstruct(pipe, params, image), image), styles, AXES)
    results["clip_zero_shot"] = zero_shot_accuracy(clip, clip_params, image, styles, AXES, rooms.caption)
    mean_depth = mean_depth_map()
    errors = {"real": critic(image, truth), "mean_map": mean_map_errors(mean_depth, truth)}
    for steps in config.steps:
        sampling = Sampling(num_steps=steps, guidance_scale=config.guidance_scale)
        images = generate_rooms(pipe, params, truth, sampling, f"generate, {steps} steps")
        results[f"generated_style_{steps}_steps"] = zero_shot_accuracy(
            clip, clip_params, images, styles, AXES, rooms.caption
        )
        results[f"generated_psnr_{steps}_steps"] = mean_by_word(psnr(images, image), styles, AXES)
        errors[f"generated_{steps}_steps"] = critic(images, truth)
    results["critic_l1"] = {name: mean_by_word(values, styles, AXES) for name, values in errors.items()}
    results["label_fidelity"] = label_fidelity(errors, styles, config.steps)
    results["f_l1"] = l1_of_shifts(models, mean_depth, seed)
    print_results(results, config.output)
    if config.picture is not None:
        sampling = Sampling(max(config.steps), config.guidance_scale)
        draw_examples(pipe, params, seed, sampling).savefig(config.picture, dpi=100)
    return results


def depth_model_errors(model: str, part: str) -> Errors:
    """Return `errors(images, truth)`, the L1 error `[n]` of a depth model."""
    network, params = load_depth(part_folder(model, part), part)

    @jax.jit
    def measure(params, rows):
        prediction = network.apply({"params": params}, rows["image"])
        return depth_task.l1(prediction, rows["depth"], rows["mask"])

    return lambda images, truth: in_steps(measure, params, truth.as_batch() | {"image": images})


def mean_map_errors(mean_depth: np.ndarray, truth: rooms.RenderedRooms) -> np.ndarray:
    """Return the L1 error `[n]` of predicting the depth map `[S,S,1]` for every room."""
    prediction = np.broadcast_to(mean_depth, truth.depth.shape)
    return np.asarray(depth_task.l1(*map(jnp.asarray, (prediction, truth.depth, truth.mask))))


def generate_rooms(
    pipe: Pipeline,
    params: Params,
    truth: rooms.RenderedRooms,
    sampling: Sampling,
    description: str | None = None,
    images_per_step: int = 32,
) -> np.ndarray:
    """Generate an image `[n,S,S,3]` in [0,1] for each room's depth map, in the room's style."""
    captions = [rooms.caption(style) for style in truth.styles]
    return measures.generate_images(
        pipe, params, captions, truth.as_batch(), ALIGN, sampling, description, images_per_step
    )


def mean_depth_map(count: int = 512) -> np.ndarray:
    """Return the mean depth map of training rooms, `[S,S,1]`: the best guess without seeing the image."""
    truth = rooms.render(rooms.SPLITS["train"], range(count), [Style()] * count)
    labels = zip(truth.depth, truth.mask, strict=True)
    return depth_task.mean_map([{"depth": depth, "mask": mask} for depth, mask in labels])


def label_fidelity(
    errors: Mapping[str, np.ndarray], styles: Sequence[Style], num_steps: Sequence[int]
) -> dict[str, dict[str, float | str]]:
    """Return the critic's L1 on generated images, divided by that on real ones and by the mean map's."""
    ratios: dict[str, dict[str, float | str]] = {}
    for steps in num_steps:
        for baseline in ("real", "mean_map"):
            generated_l1, baseline_l1 = errors[f"generated_{steps}_steps"], errors[baseline]
            ratio_by_style = {
                rooms.caption(style): generated_l1[rows].mean() / baseline_l1[rows].mean()
                for style in EVERY_STYLE
                if (rows := [i for i, room_style in enumerate(styles) if room_style == style])
            }
            worst = max(ratio_by_style, key=ratio_by_style.__getitem__)
            ratios[f"{steps}_steps_over_{baseline}"] = {
                "all": float(generated_l1.mean() / baseline_l1.mean()),
                "worst": float(ratio_by_style[worst]),
                "worst_style": worst,
            }
    return ratios


def l1_of_shifts(
    models: Mapping[str, Errors], mean_depth: np.ndarray, seed: int, count: int = 64
) -> dict[str, dict[str, float]]:
    """Return the L1 of the models and of the mean map on the same rooms in each style of `SHIFTS`."""
    table = {}
    for name, style in SHIFTS.items():
        truth = rooms.render(seed, range(count), [style] * count)
        image = truth.as_batch()["image"]
        errors = {model: measure(image, truth) for model, measure in models.items()}
        errors["mean_map"] = mean_map_errors(mean_depth, truth)
        table[name] = {model: float(values.mean()) for model, values in errors.items()}
    return table


def draw_examples(pipe: Pipeline, params: Params, seed: int, sampling: Sampling) -> Figure:
    """Draw rooms in eight styles: depth maps, renders, and images generated from depth and caption."""
    truth = rooms.render(seed, range(len(SHOWN_STYLES)), SHOWN_STYLES)
    images = generate_rooms(pipe, params, truth, sampling)
    depths = list(map(pictures.depth, truth.depth, truth.mask))
    titles = [rooms.caption(style).replace(", ", "\n") for style in SHOWN_STYLES]
    return measures.picture_figure(titles, {"depth": depths, "rendered": truth.image, "generated": images})


if __name__ == "__main__":
    main(tyro.cli(RoomsProbe, prog="python -m gap_jax.small_worlds.probe.rooms", description=__doc__))
