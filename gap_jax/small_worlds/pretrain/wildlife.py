"""The pretraining of the small world of animals.

Beside the generator, each experiment (Waterbirds and iWildCam) gets a classifier, trained on the experiment's
training pictures, and a critic, trained on pictures of its classes in all places and lights and, if cameras
take the experiment's pictures, on those of the training cameras. The classifier of Waterbirds starts from one
of all animals, as a real one starts from ImageNet.
"""

import itertools
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import jax
import numpy as np

from gap_jax.data.batch import HostBatch, Transform
from gap_jax.data.loader import Source, Subset, stack
from gap_jax.diffusion.align import Sampling
from gap_jax.diffusion.pipeline import Pipeline
from gap_jax.models.clip import Clip
from gap_jax.models.parameters import statistics_loss
from gap_jax.models.resnet import ResNet
from gap_jax.report import pictures
from gap_jax.small_worlds import wildlife
from gap_jax.small_worlds.pretrain.examples import (
    AugmentImage,
    augment_image,
    example_arrays,
    first_examples,
    image_grid,
)
from gap_jax.small_worlds.pretrain.training import (
    SmallWorld,
    Training,
    initialiser,
    make_optimizer,
    to_float16,
)
from gap_jax.small_worlds.pretrain.vocabulary import VOCABULARY
from gap_jax.small_worlds.probe import measures
from gap_jax.small_worlds.probe import wildlife as probe
from gap_jax.stages.classifier_tuning import masked_optimizer, with_new_head
from gap_jax.stages.evaluate import in_steps
from gap_jax.stages.finetune import Mixture
from gap_jax.stages.train import Params, Probe
from gap_jax.tasks.classification import cross_entropy
from gap_jax.weights.classifier import save_classifier

SMALL = ResNet(embedding_size=16, hidden_sizes=(64, 128, 256), depths=(1, 1, 1))
LARGE = ResNet(embedding_size=32, hidden_sizes=(96, 192, 384), depths=(2, 2, 2))
HELD_OUT = 256  # number of held-out pictures in a set


def make_builder(config: str, data_dir: Path) -> Any:
    """Return the TFDS builder of the wildlife."""
    from gap_jax.small_worlds.wildlife.dataset import WildlifeDataset

    return WildlifeDataset(config=config, data_dir=data_dir, file_format="array_record")


def known_probabilities(words: Sequence[str]) -> Sequence[float]:
    """Return how probably a caption names the animal, the place and the light."""
    return 0.95, 0.85, 0.85


def sample_probe(pipe: Pipeline, frozen: Params, clip: Clip, clip_params: Params, count: int) -> Probe:
    """Return a probe that inpaints eight backgrounds around birds in their usual places, in 5 and 15 steps.

    It measures the shares of images whose words CLIP recognises, and draws the pictures, the birds alone and
    the inpainted images.
    """
    num_birds = -(-count // len(probe.SHOWN_SCENES))
    birds = wildlife.render_kinds("validation", wildlife.WATERBIRDS["train"], range(num_birds))
    pairs = list(itertools.islice(itertools.product(range(num_birds), probe.SHOWN_SCENES), count))
    batch = {name: birds[name][[bird for bird, _ in pairs]] for name in ("image", "keep")}
    wanted = [wildlife.Words(wildlife.BIRDS[birds["label"][bird]], *scene) for bird, scene in pairs]

    def measure(params):
        values: dict[str, float] = {}
        rows = [batch["image"][:16], pictures.foreground(batch["image"], batch["keep"])[:16]]
        for steps in (5, 15):
            sampling = Sampling(num_steps=steps, guidance_scale=2.0, eta=1.0)
            images = probe.inpaint_scenes(
                pipe, frozen | params, batch, wanted, sampling, images_per_step=min(count, 32)
            )
            accuracies = measures.zero_shot_accuracy(
                clip, clip_params, images, wanted, wildlife.AXES, wildlife.caption
            )
            values |= {f"{axis}_{steps}_steps": value for axis, value in accuracies.items()}
            rows.append(images[:16])
        return values, {"generated": image_grid(*rows)}

    return measure


def train_supervised(training: Training, folder: Path) -> None:
    """Train and save the classifier and the critic of each experiment."""
    animals = train_animals(training)
    count = training.num_probed(HELD_OUT)
    for name, (classes, kinds) in probe.EXPERIMENTS.items():
        all_words = [wildlife.Kind({"animal": classes})]
        held_out = {
            "own": wildlife.render_kinds("validation", kinds["validation"], range(count)),
            "every": wildlife.render_kinds("validation", all_words, range(count)),
        }
        classifier_source = training.source(name, "train")
        critic_source = pictures_of(training, classes)
        if any(kind.camera for kind in kinds["train"]):  # no other pictures look like those of cameras
            critic_source = Mixture(critic_source, classifier_source, 0.5)
        for part, model, source, transform in (
            (name, SMALL, classifier_source, example_arrays()),
            (f"{name}_critic", LARGE, critic_source, example_arrays(augment_image)),
        ):
            model = model.clone(num_labels=len(classes), **training.dtypes)
            init = new_head_initialiser(model, animals) if part == "waterbirds" else initialiser(model)
            params = train_classifier(training, part, model, init, source, transform, held_out)
            save_classifier(model, to_float16(params), folder / part)


def train_animals(training: Training) -> Params:
    """Train a `SMALL` that tells all animals apart, in all places and lights."""
    model = SMALL.clone(num_labels=len(wildlife.AXES["animal"]), **training.dtypes)
    probed = first_examples(training.source("every", "validation"), training.num_probed(HELD_OUT))
    labelled, unused = animal_label_arrays(), np.random.default_rng(0)
    held_out = {"every": stack([labelled(example, unused) for example in probed])}
    source, transform = training.source("every", "train"), animal_label_arrays(augment_image)
    return train_classifier(training, "animals", model, initialiser(model), source, transform, held_out)


def animal_label_arrays(augment: AugmentImage | None = None) -> Transform:
    """Return a transform like `example_arrays`, with the animal's number on its axis as the label."""
    arrays = example_arrays(augment)
    return lambda example, random: {
        **arrays(example, random),
        "label": np.asarray(example["animal"], np.int32),
    }


def new_head_initialiser(model: ResNet, params: Params) -> Callable[[jax.Array], Params]:
    """Return `init(key)`, which gives a classifier's parameters a new head for the classes of `model`."""
    return lambda key: with_new_head(model, params, model.num_labels, key)[1]


def train_classifier(
    training: Training,
    name: str,
    model: ResNet,
    init: Callable[[jax.Array], Params],
    source: Source,
    transform: Transform,
    held_out: Mapping[str, HostBatch],
) -> Params:
    """Train a classifier on examples with a `label`.

    Its probe measures the accuracy on each of the sets `held_out`, over all pictures and by group or camera.
    """
    part = getattr(training.recipe, name)
    correctness = probe.correctness(model)

    def loss(params, frozen, batch, keys):
        logits, updated = model.apply({"params": params}, batch["image"], train=True, mutable="params")
        accuracy = (logits.argmax(-1) == batch["label"]).mean()
        error = cross_entropy(logits, batch["label"]).mean()
        return error + statistics_loss(params, updated["params"]), {"accuracy": accuracy}

    def measure(params):
        values: dict[str, float] = {}
        for set_name, batch in held_out.items():
            means = probe.mean_by_group(in_steps(correctness, params, batch), batch["group"])
            values |= {f"{set_name}_{group.replace(' ', '_')}": value for group, value in means.items()}
        return values, {}

    return training.train(
        name,
        part,
        loss,
        init,
        training.batches(source, part, transform),
        measure,
        optimizer=lambda part: masked_optimizer(make_optimizer(part)),
    )


def pictures_of(training: Training, animals: Sequence[str]) -> Source:
    """Return the training pictures of the animals, in all places and lights."""
    import tensorflow_datasets as tfds

    decoders = dict.fromkeys(("image", "keep"), tfds.decode.SkipDecoding())
    undecoded = training.source("every", "train", decoders)
    indices = [i for i in range(len(undecoded)) if training.words(undecoded[i])[0] in animals]
    return Subset(training.source("every", "train"), indices)


WORLD = SmallWorld(
    folder="wildlife",
    vocabulary=VOCABULARY + " nothing savanna",
    make_builder=make_builder,
    axes=wildlife.AXES,
    caption=wildlife.caption,
    known_probabilities=known_probabilities,
    latent_channels=6,
    condition=None,
    sample_probe=sample_probe,
    train_supervised=train_supervised,
    probe_command=(
        "python -m gap_jax.small_worlds.probe.wildlife --model {0} --clip {0}/clip --classifiers {0}"
    ),
)
