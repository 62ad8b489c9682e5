"""Measure the models of the small world of animals: `python -m gap_jax.small_worlds.probe.wildlife`.

On pictures held out from training, it measures how well the autoencoder reconstructs images, whether CLIP
recognises the words, whether backgrounds inpainted around animals are those asked for and keep their labels
as the critics see them, and where the classifiers fail.
"""

import dataclasses
import itertools
from collections.abc import Callable, Mapping, Sequence
from functools import cache
from pathlib import Path
from typing import Any, Literal

import jax
import numpy as np
import tyro
from matplotlib.figure import Figure

from gap_jax.data.batch import HostBatch
from gap_jax.data.masked.waterbirds import GROUPS
from gap_jax.diffusion.align import Sampling, inpaint
from gap_jax.diffusion.pipeline import Params, Pipeline
from gap_jax.models.resnet import ResNet
from gap_jax.models.torch_modules.module import TorchModule
from gap_jax.models.vit import ViT
from gap_jax.report import pictures
from gap_jax.small_worlds import wildlife
from gap_jax.small_worlds.probe import measures
from gap_jax.small_worlds.probe.measures import (
    mean_by_word,
    part_folder,
    print_results,
    psnr,
    reconstruct,
    zero_shot_accuracy,
)
from gap_jax.small_worlds.wildlife import AXES, Words, render_kinds
from gap_jax.stages.evaluate import in_steps
from gap_jax.weights.classifier import load_classifier
from gap_jax.weights.pipeline import load_clip, load_pipeline

INPAINT = inpaint()
EVERY_WORDS = tuple(Words(*words) for words in itertools.product(*AXES.values()))
EXPERIMENTS = {  # classes, and kinds of pictures in each split
    "waterbirds": (wildlife.BIRDS, wildlife.WATERBIRDS),
    "iwildcam": (wildlife.MAMMALS, wildlife.IWILDCAM),
}
SHOWN_SCENES = (  # the place and the light asked for in pictures
    ("lake", "day"),
    ("grass", "day"),
    ("forest", "day"),
    ("sea", "day"),
    ("savanna", "dusk"),
    ("dirt", "night"),
    ("forest", "night"),
    ("sea", "dusk"),
)
ORIGINAL_PLACES = ("grass", "sea", "grass", "savanna", "savanna", "dirt", "savanna", "dirt")  # in pictures


@dataclasses.dataclass(frozen=True, kw_only=True)
class WildlifeProbe:
    """The models to measure, and the number of pictures to measure them on."""

    model: str = "wildlife"  # Stable Diffusion pipeline: a folder, or `wildlife` for the shipped models
    clip: str = "wildlife"  # CLIP: a folder, or `wildlife`
    # classifiers: a folder with the folders `waterbirds`, `waterbirds_critic`, `iwildcam` and
    # `iwildcam_critic`, or `wildlife`
    classifiers: str = "wildlife"
    pictures_per_words: int = 4  # number of pictures of each of the 162 triples of words
    experiment_pictures: int = 600  # number of pictures of each experiment
    guidance_scale: float = 2.0  # classifier-free guidance scale; 1 is without guidance
    eta: float = 1.0  # noise of the sampler: 0 is DDIM, 1 is DDPM
    steps: tuple[int, ...] = (5, 15)  # numbers of denoising steps to measure, each in turn
    split: Literal["train", "validation", "test"] = "validation"  # split of the pictures
    output: Path | None = None  # JSON file to write the numbers to
    # PNG file to draw eight animals to: rendered, without background, inpainted, pasted on that
    picture: Path | None = None


def main(config: WildlifeProbe) -> dict[str, Any]:
    """Measure everything, print it and return it."""
    pipe, params = load_pipeline(config.model)
    clip, clip_params = load_clip(config.clip)
    seed, words = wildlife.SPLITS[config.split], EVERY_WORDS * config.pictures_per_words
    truth = wildlife.render(seed, range(len(words)), words)
    batch = truth.as_batch()
    image = batch["image"]
    wanted = [change_scene(original, i // len(EVERY_WORDS)) for i, original in enumerate(words)]
    results: dict[str, Any] = {
        "images": len(words),
        "guidance_scale": config.guidance_scale,
        "eta": config.eta,
    }

    results["vae_psnr"] = mean_by_word(psnr(reconstruct(pipe, params, image), image), words, AXES)
    sets = {"real": (image, words), "moved": (paste_on_rendered(seed, batch, wanted), wanted)}
    for steps in config.steps:
        sampling = Sampling(steps, config.guidance_scale, config.eta)
        images = inpaint_scenes(pipe, params, batch, wanted, sampling, f"generate, {steps} steps")
        pasted = np.where(batch["keep"], image, images)
        sets[f"{steps}_steps"], sets[f"{steps}_steps_pasted"] = (images, wanted), (pasted, wanted)
    results["clip_zero_shot"] = {
        name: zero_shot_accuracy(clip, clip_params, *images_and_words, AXES, wildlife.caption)
        for name, images_and_words in sets.items()
    }
    for experiment, (classes, kinds) in EXPERIMENTS.items():
        experiment_batch = render_kinds(config.split, kinds[config.split], range(config.experiment_pictures))
        for name in (experiment, f"{experiment}_critic"):
            module, weights = load_classifier(part_folder(config.classifiers, name), part=name)
            if isinstance(module, TorchModule):
                raise ValueError(f"the classifier {name} must be a ResNet or a ViT, found a torch module")
            correct = in_steps(correctness(module), weights, experiment_batch)
            results[name] = {"groups": mean_by_group(correct, experiment_batch["group"])} | {
                set_name: accuracy_by_word(module, weights, *images_and_words, truth.label, classes)
                for set_name, images_and_words in sets.items()
            }
    results["label_fidelity"] = {
        experiment: accuracy_over_real(results[f"{experiment}_critic"]) for experiment in EXPERIMENTS
    }
    print_results(results, config.output)
    if config.picture is not None:
        sampling = Sampling(max(config.steps), config.guidance_scale, config.eta)
        draw_examples(pipe, params, seed, sampling).savefig(config.picture, dpi=100)
    return results


def change_scene(words: Words, turn: int) -> Words:
    """Return words for the same animal in another place and another light; these depend on the turn."""

    def another(axis: str, word: str) -> str:
        candidates = AXES[axis]
        return candidates[(candidates.index(word) + 1 + turn % (len(candidates) - 1)) % len(candidates)]

    return words._replace(place=another("place", words.place), light=another("light", words.light))


def paste_on_rendered(seed: int, batch: HostBatch, wanted: Sequence[Words]) -> np.ndarray:
    """Return the batch's animals on rendered backgrounds of the wanted words, as a perfect model would."""
    empty = [words._replace(animal="nothing") for words in wanted]
    scenes = wildlife.render(seed, range(len(wanted)), empty)
    return np.where(batch["keep"], batch["image"], scenes.as_batch()["image"])


def inpaint_scenes(
    pipe: Pipeline,
    params: Params,
    batch: HostBatch,
    wanted: Sequence[Words],
    sampling: Sampling,
    description: str | None = None,
    images_per_step: int = 32,
) -> np.ndarray:
    """Inpaint the background of each of the batch's pictures, in the wanted words; `[n,S,S,3]` in [0,1]."""
    captions = [wildlife.caption(words) for words in wanted]
    return measures.generate_images(
        pipe, params, captions, batch, INPAINT, sampling, description, images_per_step
    )


def accuracy_by_word(
    module: ResNet | ViT,
    params: Params,
    images: np.ndarray,
    words: Sequence[Words],
    labels: np.ndarray,
    classes: Sequence[str],
) -> dict[str, float]:
    """Return a classifier's accuracy on the images of its classes, over all of these and by word."""
    rows = [image_words.animal in classes for image_words in words]
    correct = in_steps(correctness(module), params, {"image": images[rows], "label": labels[rows]})
    return mean_by_word(correct, list(itertools.compress(words, rows)), AXES)


def accuracy_over_real(accuracies: Mapping[str, Mapping[str, float]]) -> dict[str, float]:
    """Return a critic's accuracy on each set of made pictures divided by that on real ones."""
    real = accuracies["real"]["mean"]
    return {name: row["mean"] / real for name, row in accuracies.items() if name not in ("groups", "real")}


@cache
def correctness(module: ResNet | ViT) -> Callable[[Params, Any], jax.Array]:
    """Return the jitted `correct(params, rows)`, bool `[B]`: True where a classifier predicts the `label`."""

    def correct(params, rows):
        return module.apply({"params": params}, rows["image"]).argmax(-1) == rows["label"]

    return jax.jit(correct)


def mean_by_group(values: np.ndarray, groups: np.ndarray) -> dict[str, float]:
    """Return the `mean` of the values `[n]`, and by name their mean in each group of birds or camera."""
    means = {"mean": float(np.mean(values))}
    for group in np.unique(groups[groups >= 0]):
        name = GROUPS[group] if group < len(GROUPS) else f"camera {group}"
        means[name] = float(np.mean(values[groups == group]))
    return means


def draw_examples(pipe: Pipeline, params: Params, seed: int, sampling: Sampling) -> Figure:
    """Draw eight animals: rendered, without background, inpainted, and pasted on the inpainted picture."""
    words = [Words(animal, place) for animal, place in zip(AXES["animal"][1:], ORIGINAL_PLACES, strict=True)]
    wanted = [Words(original.animal, *scene) for original, scene in zip(words, SHOWN_SCENES, strict=True)]
    batch = wildlife.render(seed, range(len(words)), words).as_batch()
    titles = [f"{target.animal}\n{target.place}, {target.light}" for target in wanted]
    images = inpaint_scenes(pipe, params, batch, wanted, sampling)
    rows = {
        "rendered": batch["image"],
        "kept": pictures.foreground(batch["image"], batch["keep"]),
        "generated": images,
        "pasted": np.where(batch["keep"], batch["image"], images),
    }
    return measures.picture_figure(titles, rows)


if __name__ == "__main__":
    main(tyro.cli(WildlifeProbe, prog="python -m gap_jax.small_worlds.probe.wildlife", description=__doc__))
