"""The small world of animals: how its models are pretrained, and what is trained beside the generator.

That is, for Waterbirds and for iWildCam, a classifier that is fitted to the experiment's training pictures,
and a critic that sees all pictures of its classes, and those of the training cameras. Waterbirds' classifier
has learnt to tell all animals apart before, as one from ImageNet has.
"""

import itertools
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import jax
import numpy as np

from gap_jax.data.loader import Source, Subset, stack
from gap_jax.diffusion.align import Sampling
from gap_jax.diffusion.pipeline import Pipeline
from gap_jax.models.clip import Clip
from gap_jax.models.resnet import ResNet
from gap_jax.small_worlds import wildlife
from gap_jax.small_worlds.pretrain.parts import (
    Change,
    SmallWorld,
    Training,
    Transform,
    augmented,
    first,
    grid,
    half,
    init,
    rule,
    with_labels,
)
from gap_jax.small_worlds.pretrain.vocabulary import VOCABULARY
from gap_jax.small_worlds.probe import measures
from gap_jax.small_worlds.probe import wildlife as probe
from gap_jax.small_worlds.wildlife.renderer import render_kinds
from gap_jax.stages.classifier_tuning import fine_tuning, follow, with_classes
from gap_jax.stages.evaluate import in_steps
from gap_jax.stages.finetune import Mixture
from gap_jax.stages.train import Params, Probe
from gap_jax.tasks.classification import cross_entropy
from gap_jax.weights.classifier import save_classifier

SMALL = ResNet(embedding_size=16, hidden_sizes=(64, 128, 256), depths=(1, 1, 1))
LARGE = ResNet(embedding_size=32, hidden_sizes=(96, 192, 384), depths=(2, 2, 2))
HELD_OUT = 256  # pictures


def builder(**options: Any):
    from gap_jax.small_worlds.wildlife.dataset import WildlifeDataset

    return WildlifeDataset(**options)


def said(words: Sequence[str]) -> Sequence[float]:
    """Captions mostly name the animal, and often the place and the light."""
    return 0.95, 0.85, 0.85


def samples(pipe: Pipeline, frozen: Params, clip: Clip, clip_params: Params) -> Probe:
    """Birds where they mostly are: the pictures, what is kept, and eight backgrounds in 5 and 15 steps.

    Numbers are the shares of pictures whose words CLIP finds.
    """
    birds = render_kinds("validation", wildlife.WATERBIRDS["train"], range(8))
    batch = {name: np.repeat(birds[name], 8, 0) for name in ("image", "keep")}
    wanted = [
        wildlife.Words(wildlife.BIRDS[label], *other)
        for label, other in itertools.product(birds["label"], probe.EIGHT)
    ]

    def measure(params):
        values, rows = {}, [batch["image"][:16], probe.kept(batch)[:16]]
        for steps in (5, 15):
            sampling = Sampling(num_steps=steps, guidance_scale=2.0, eta=1.0)
            images = probe.generated(pipe, frozen | params, batch, wanted, sampling)
            found = measures.zero_shot(clip, clip_params, images, wanted, wildlife.AXES, wildlife.caption)
            values |= {f"{axis}_{steps}_steps": value for axis, value in found.items()}
            rows.append(images[:16])
        return values, {"generated": grid(*rows)}

    return measure


def supervised(training: Training, folder: Path) -> None:
    """Of each experiment the classifier, and the critic `…_critic`."""
    animals = train_animals(training)
    for name, (classes, kinds) in probe.EXPERIMENTS.items():
        held_out = {
            "own": render_kinds("validation", kinds["validation"], range(HELD_OUT)),
            "every": render_kinds("validation", [wildlife.Kind({"animal": classes})], range(HELD_OUT)),
        }
        own, all_seen = training.source(name, "train"), of_animals(training, classes)
        if any(kind.camera for kind in kinds["train"]):  # what cameras see is in no other picture
            all_seen = Mixture(all_seen, own, 0.5)
        for part, model, source, transform in (
            (name, SMALL, own, with_labels()),
            (f"{name}_critic", LARGE, all_seen, with_labels(augmented)),
        ):
            model = model.clone(num_labels=len(classes), **training.dtypes)
            start = with_new_head(model, animals) if part == "waterbirds" else init(model)
            params = train_classifier(training, part, model, start, source, transform, held_out)
            save_classifier(model, half(params), folder / part)


def train_animals(training: Training) -> Params:
    """Of a `SMALL` that tells all animals apart, in all places and lights."""
    model = SMALL.clone(num_labels=len(wildlife.AXES["animal"]), **training.dtypes)
    pictures = first(training.source("every", "validation"), HELD_OUT)
    held_out = stack([with_animals()(example, None) for example in pictures])
    every, transform = training.source("every", "train"), with_animals(augmented)
    return train_classifier(training, "animals", model, init(model), every, transform, {"every": held_out})


def with_animals(change: Change | None = None) -> Transform:
    """As `with_labels`, the label being the animal's among all."""
    labelled = with_labels(change)
    return lambda example, random: labelled(example, random) | {"label": np.int32(example["animal"])}


def with_new_head(model: ResNet, params: Params) -> Callable[[jax.Array], Params]:
    """`start(key)`: the parameters of a classifier of other classes, but for a head drawn for the model's."""
    return lambda key: with_classes(model, params, model.num_labels, key)[1]


def train_classifier(
    training: Training,
    name: str,
    model: ResNet,
    start: Callable[[jax.Array], Params],
    source: Source,
    transform: Transform,
    held_out: Mapping[str, Mapping[str, np.ndarray]],
) -> Params:
    """On examples with a `label`; probed on held-out sets, over all and by group or camera."""
    part = getattr(training.recipe, name)
    right = probe.right(model)

    def loss(params, frozen, batch, keys):
        logits, updated = model.apply({"params": params}, batch["image"], train=True, mutable="params")
        accuracy = (logits.argmax(-1) == batch["label"]).mean()
        error = cross_entropy(logits, batch["label"]).mean()
        return error + follow(params, updated["params"]), {"accuracy": accuracy}

    def measure(params):
        values = {}
        for where, batch in held_out.items():
            found = probe.by_group(in_steps(right, params, batch), batch["group"])
            values |= {f"{where}_{group.replace(' ', '_')}": value for group, value in found.items()}
        return values, {}

    return training.train(
        name,
        part,
        loss,
        start,
        training.batches(source, part, transform),
        measure,
        optimizer=lambda part: fine_tuning(rule(part)),
    )


def of_animals(training: Training, animals: Sequence[str]) -> Source:
    """The training pictures of all words that are of one of the animals."""
    import tensorflow_datasets as tfds

    undecoded = dict.fromkeys(("image", "keep"), tfds.decode.SkipDecoding())
    unseen = training.source("every", "train", decoders=undecoded)
    chosen = [i for i in range(len(unseen)) if training.words(unseen[i])[0] in animals]
    return Subset(training.source("every", "train"), chosen)


WORLD = SmallWorld(
    folder="wildlife",
    vocabulary=VOCABULARY + " nothing savanna",
    builder=builder,
    axes=wildlife.AXES,
    caption=wildlife.caption,
    said=said,
    controlled=False,
    samples=samples,
    supervised=supervised,
    probe="python -m gap_jax.small_worlds.probe.wildlife --model {0} --clip {0}/clip --classifiers {0}",
)
