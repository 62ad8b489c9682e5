"""What the wildlife's models can do, in numbers: `python -m gap_jax.small_worlds.probe.wildlife`.

On pictures held out from training: how well the autoencoder reconstructs, whether CLIP tells the words,
whether backgrounds inpainted around animals are those asked for and leave the label, as the critics see it,
and where the classifiers fail.
"""

import dataclasses
import itertools
from collections.abc import Callable, Mapping, Sequence
from functools import cache
from pathlib import Path
from typing import Any

import jax
import numpy as np
import tyro
from matplotlib.figure import Figure

from gap_jax.data.masked.waterbirds import GROUPS
from gap_jax.diffusion.align import Sampling, inpaint
from gap_jax.diffusion.pipeline import Params, Pipeline
from gap_jax.experiments.classification_task import HIDDEN
from gap_jax.models.resnet import ResNet
from gap_jax.models.vit import ViT
from gap_jax.small_worlds import wildlife
from gap_jax.small_worlds.probe import measures
from gap_jax.small_worlds.probe.measures import by_word, psnr, reconstructed, report, where, zero_shot
from gap_jax.small_worlds.wildlife.renderer import Words, render_kinds
from gap_jax.stages.evaluate import in_steps
from gap_jax.weights.classifier import load_classifier
from gap_jax.weights.pipeline import load_clip, load_pipeline

Batch = Mapping[str, np.ndarray]
AXES, INPAINT = wildlife.AXES, inpaint()
WORDS = tuple(Words(*words) for words in itertools.product(*AXES.values()))
EXPERIMENTS = {  # their classes, their kinds of pictures
    "waterbirds": (wildlife.BIRDS, wildlife.WATERBIRDS),
    "iwildcam": (wildlife.MAMMALS, wildlife.IWILDCAM),
}
EIGHT = (  # a place and a light each
    ("lake", "day"),
    ("grass", "day"),
    ("forest", "day"),
    ("sea", "day"),
    ("savanna", "dusk"),
    ("dirt", "night"),
    ("forest", "night"),
    ("sea", "dusk"),
)
SHOWN = ("grass", "sea", "grass", "savanna", "savanna", "dirt", "savanna", "dirt")  # where animals were


@dataclasses.dataclass(frozen=True)
class WildlifeProbe:
    """Whose, and on how many pictures."""

    model: str = "wildlife"  # the pipeline's folder
    clip: str = "wildlife"
    classifiers: str = "wildlife"  # with the parts `waterbirds`, `waterbirds_critic`, and iwildcam's
    pictures_per_words: int = 4  # 162 triples of words
    experiment_pictures: int = 600  # of each experiment
    guidance_scale: float = 2.0
    eta: float = 1.0
    split: str = "validation"
    output: Path | None = None  # a JSON file for the numbers
    picture: Path | None = None  # a PNG: eight animals where they were, kept, elsewhere, pasted


def main(config: WildlifeProbe) -> dict[str, Any]:
    """Measure and print everything."""
    pipe, params = load_pipeline(config.model)
    clip, clip_params = load_clip(config.clip)
    seed, words = wildlife.SPLITS[config.split], WORDS * config.pictures_per_words
    truth = wildlife.render(seed, range(len(words)), words)
    batch = truth.as_batch()
    image = batch["image"]
    wanted = [elsewhere(each, i // len(WORDS)) for i, each in enumerate(words)]
    found: dict[str, Any] = {"images": len(words), "guidance_scale": config.guidance_scale, "eta": config.eta}

    found["vae_psnr"] = by_word(psnr(reconstructed(pipe, params, image), image), words, AXES)
    sets = {"real": (image, words), "moved": (moved(seed, batch, wanted), wanted)}
    for steps in (5, 15):
        sampling = Sampling(steps, config.guidance_scale, config.eta)
        images = generated(pipe, params, batch, wanted, sampling, f"generate, {steps} steps")
        pasted = np.where(batch["keep"], image, images)
        sets[f"{steps}_steps"], sets[f"{steps}_steps_pasted"] = (images, wanted), (pasted, wanted)
    found["clip_zero_shot"] = {
        made: zero_shot(clip, clip_params, *pictures, AXES, wildlife.caption)
        for made, pictures in sets.items()
    }
    for experiment, (classes, kinds) in EXPERIMENTS.items():
        shown = render_kinds(config.split, kinds[config.split], range(config.experiment_pictures))
        for name in (experiment, f"{experiment}_critic"):
            module, weights = load_classifier(where(config.classifiers, name), part=name)
            of_groups = by_group(in_steps(right(module), weights, shown), shown["group"])
            found[name] = {"groups": of_groups} | {
                made: accuracy(module, weights, *pictures, truth.label, classes)
                for made, pictures in sets.items()
            }
    found["label_fidelity"] = {
        experiment: over_real(found[f"{experiment}_critic"]) for experiment in EXPERIMENTS
    }
    report(found, config.output)
    if config.picture is not None:
        sampling = Sampling(15, config.guidance_scale, config.eta)
        draw(pipe, params, seed, sampling).savefig(config.picture, dpi=100)
    return found


def elsewhere(words: Words, turn: int) -> Words:
    """The same animal in another place and another light, others in another turn."""

    def another(axis: str, word: str) -> str:
        known = AXES[axis]
        return known[(known.index(word) + 1 + turn % (len(known) - 1)) % len(known)]

    return words._replace(place=another("place", words.place), light=another("light", words.light))


def moved(seed: int, batch: Batch, wanted: Sequence[Words]) -> np.ndarray:
    """Pictures whose animal is before a background that was render_kinds: the best that can be generated."""
    empty = [words._replace(animal="nothing") for words in wanted]
    scenes = wildlife.render(seed, range(len(wanted)), empty)
    return np.where(batch["keep"], batch["image"], scenes.as_batch()["image"])


def generated(
    pipe: Pipeline,
    params: Params,
    batch: Batch,
    wanted: Sequence[Words],
    sampling: Sampling,
    desc: str | None = None,
) -> np.ndarray:
    """Pictures of the wanted words, whose animal is kept."""
    captions = [wildlife.caption(words) for words in wanted]
    return measures.generated(pipe, params, captions, batch, INPAINT, sampling, desc)


def accuracy(
    module: ResNet | ViT,
    params: Params,
    images: np.ndarray,
    words: Sequence[Words],
    labels: np.ndarray,
    classes: Sequence[str],
) -> dict[str, float]:
    """A classifier's on those of the images that are of its classes, over all and by word."""
    rows = [each.animal in classes for each in words]
    values = in_steps(right(module), params, {"image": images[rows], "label": labels[rows]})
    return by_word(values, list(itertools.compress(words, rows)), AXES)


def over_real(found: Mapping[str, Mapping[str, float]]) -> dict[str, float]:
    """A critic's accuracies on pictures that were made over that on real ones."""
    real = found["real"]["mean"]
    return {made: row["mean"] / real for made, row in found.items() if made not in ("groups", "real")}


@cache
def right(module: ResNet | ViT) -> Callable[[Params, Any], jax.Array]:
    """`right(params, rows) -> bool [B]`: whether a classifier finds the `label` of each `image`."""

    def measure(params, rows):
        return module.apply({"params": params}, rows["image"]).argmax(-1) == rows["label"]

    return jax.jit(measure)


def by_group(values: np.ndarray, groups: np.ndarray) -> dict[str, float]:
    """The mean over all pictures, and over those of each group of birds or each camera that there is."""
    means = {"mean": float(np.mean(values))}
    for group in np.unique(groups[groups >= 0]):
        name = GROUPS[group] if group < len(GROUPS) else f"camera {group}"
        means[name] = float(np.mean(values[groups == group]))
    return means


def draw(pipe: Pipeline, params: Params, seed: int, sampling: Sampling) -> Figure:
    """Eight animals: where they were, what is kept of it, what is generated around it, it pasted on that."""
    words = [Words(animal, place) for animal, place in zip(AXES["animal"][1:], SHOWN, strict=True)]
    wanted = [Words(each.animal, *other) for each, other in zip(words, EIGHT, strict=True)]
    batch = wildlife.render(seed, range(len(words)), words).as_batch()
    titles = ["\n".join((each.animal, f"{each.place}, {each.light}")) for each in wanted]
    images = generated(pipe, params, batch, wanted, sampling)
    rows = {
        "render_kinds": batch["image"],
        "kept": kept(batch),
        "generated": images,
        "pasted": np.where(batch["keep"], batch["image"], images),
    }
    return measures.grid(titles, rows)


def kept(batch: Batch) -> np.ndarray:
    """Pictures with the animal alone."""
    return np.where(batch["keep"], batch["image"], np.float32(HIDDEN))


if __name__ == "__main__":
    main(tyro.cli(WildlifeProbe, description=__doc__))
