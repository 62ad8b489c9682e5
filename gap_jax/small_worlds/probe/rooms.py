"""What the small world's models can do, in numbers: `python -m gap_jax.small_worlds.probe.rooms`.

On rooms held out from training: how well the autoencoder reconstructs, whether CLIP tells the styles, whether
generated images have the style asked for and keep the label, as the critic sees it, and where `f` fails.
"""

import dataclasses
import itertools
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import tyro
from matplotlib.figure import Figure

from gap_jax.diffusion.align import Sampling, controlnet_depth
from gap_jax.diffusion.pipeline import Pipeline
from gap_jax.report import pictures
from gap_jax.small_worlds import rooms
from gap_jax.small_worlds.probe import measures
from gap_jax.small_worlds.probe.measures import by_word, psnr, reconstructed, report, where, zero_shot
from gap_jax.stages.evaluate import in_steps
from gap_jax.tasks import depth as depth_task
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
AXES, ALIGN = rooms.AXES, controlnet_depth()


@dataclasses.dataclass(frozen=True)
class RoomsProbe:
    """Whose, and on how many images."""

    model: str = "small"  # the pipeline's folder
    clip: str = "small"
    depth: str = "small"  # with the parts `depth` (f) and `critic`, or a folder that has them
    rooms_per_style: int = 12  # 60 styles
    guidance_scale: float = 1.5
    split: str = "validation"
    output: Path | None = None  # a JSON file for the numbers
    picture: Path | None = None  # a PNG: depth, rendered and generated images in eight styles


def main(config: RoomsProbe) -> dict[str, Any]:
    """Measure and print everything."""
    pipe, params = load_pipeline(config.model)
    clip, clip_params = load_clip(config.clip)
    f, critic = (depth_model(config.depth, part) for part in ("depth", "critic"))
    seed = rooms.SPLITS[config.split]
    styles = STYLES * config.rooms_per_style
    truth = rooms.render(seed, range(len(styles)), styles)
    image = truth.as_batch()["image"]
    found: dict[str, Any] = {"images": len(styles), "guidance_scale": config.guidance_scale}

    found["vae_psnr"] = by_word(psnr(reconstructed(pipe, params, image), image), styles, AXES)
    found["clip_zero_shot"] = zero_shot(clip, clip_params, image, styles, AXES, rooms.caption)
    mean = mean_map()
    errors = {"real": critic(image, truth), "mean_map": l1(np.broadcast_to(mean, truth.depth.shape), truth)}
    for steps in (5, 15):
        sampling = Sampling(num_steps=steps, guidance_scale=config.guidance_scale)
        images = generated(pipe, params, truth, sampling, f"generate, {steps} steps")
        found[f"generated_style_{steps}_steps"] = zero_shot(
            clip, clip_params, images, styles, AXES, rooms.caption
        )
        found[f"generated_psnr_{steps}_steps"] = by_word(psnr(images, image), styles, AXES)
        errors[f"generated_{steps}_steps"] = critic(images, truth)
    found["critic_l1"] = {name: by_word(values, styles, AXES) for name, values in errors.items()}
    found["label_fidelity"] = fidelity(errors, styles)
    found["f_l1"] = shifts(f, critic, mean, seed)
    report(found, config.output)
    if config.picture is not None:
        draw(pipe, params, seed, config.guidance_scale).savefig(config.picture, dpi=100)
    return found


def l1(prediction: np.ndarray, truth: rooms.RenderedRooms) -> np.ndarray:
    return np.asarray(depth_l1(jnp.asarray(prediction), truth.depth, truth.mask))


def depth_model(model: str, part: str) -> Callable[[np.ndarray, rooms.RenderedRooms], np.ndarray]:
    """`errors(images, truth) -> [n]`, the L1 of a depth model."""
    network, params = load_depth(where(model, part), part)

    @jax.jit
    def measure(params, rows):
        return depth_l1(network.apply({"params": params}, rows["image"]), rows["depth"], rows["mask"])

    return lambda images, truth: in_steps(measure, params, truth.as_batch() | {"image": images})


def generated(
    pipe: Pipeline, params: Any, truth: rooms.RenderedRooms, sampling: Sampling, desc: str | None = None
) -> np.ndarray:
    """An image for each room's depth map, in its style."""
    captions = [rooms.caption(style) for style in truth.styles]
    return measures.generated(pipe, params, captions, truth.as_batch(), ALIGN, sampling, desc)


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
        image = truth.as_batch()["image"]
        table[name] = {
            "f": float(f(image, truth).mean()),
            "critic": float(critic(image, truth).mean()),
            "mean_map": float(l1(np.broadcast_to(mean, truth.depth.shape), truth).mean()),
        }
    return table


def draw(pipe: Pipeline, params: Any, seed: int, guidance_scale: float) -> Figure:
    """RenderedRooms in eight styles: depth map, render, and what is generated from depth and caption in 15 steps."""
    truth = rooms.render(seed, range(len(EIGHT)), EIGHT)
    images = generated(pipe, params, truth, Sampling(num_steps=15, guidance_scale=guidance_scale))
    depths = list(map(pictures.depth, truth.depth, truth.mask))
    titles = [rooms.caption(style).replace(", ", "\n", 1).replace(" room", "\nroom") for style in EIGHT]
    return measures.grid(titles, {"depth": depths, "rendered": truth.image, "generated": images})


if __name__ == "__main__":
    main(tyro.cli(RoomsProbe, description=__doc__))
