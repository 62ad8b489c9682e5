"""The building blocks of classification worlds: models and data from files or from the small world."""

import dataclasses
from collections.abc import Sequence

import jax
import numpy as np

from gap_jax.closed_loop.settings import GeneratorFiles
from gap_jax.closed_loop.world import (
    FixedPrompts,
    Generator,
    Models,
    as_batch,
    load_generator,
    load_others,
)
from gap_jax.data.batch import HostBatch
from gap_jax.data.loader import Source, unstack
from gap_jax.data.prepared import Prepared
from gap_jax.diffusion.pipeline import Pipeline
from gap_jax.experiments.classification.settings import ClassificationFiles
from gap_jax.experiments.classification.task import classifier
from gap_jax.models.network import Network
from gap_jax.weights.pipeline import LoadParams

FIELDS = ("image", "keep", "label")
FIRST_TARGET = 100_000  # target domains of the small world show pictures from this number on


def generator_from(config: ClassificationFiles) -> Generator:
    """Return the generator that the configuration names; opening it raises ValueError for a ControlNet."""
    generator = load_generator(config)

    def open_without_controlnet() -> tuple[Pipeline, LoadParams]:
        opened = generator.open_pipeline()
        if opened[0].controlnet is not None:
            raise ValueError(
                f"{config.pipeline} has a ControlNet, which images with classes have no condition for: give "
                "a pipeline without one, or remove controlnet from its model_index.json"
            )
        return opened

    return dataclasses.replace(generator, open_pipeline=open_without_controlnet)


def load_networks(config: ClassificationFiles, classes: Sequence[str]) -> tuple[Generator, Models]:
    """Read the generator's configurations, then load the classifiers that the configuration names.

    Raises the errors of `generator_from` and `check_classes`, and those of networks that cannot be read.
    """
    generator = generator_from(config)
    generator.open()
    models = models_from(config)
    check_classes(models, classes)
    return generator, models


def models_from(config: ClassificationFiles) -> Models:
    """Load the classifiers that the configuration names."""
    return Models(
        model=_classifier_from(config, config.model),
        critic=_classifier_from(config, config.critic or config.model),
        student=_classifier_from(config, config.student) if config.student else None,
        others=load_others(config.models, lambda model: _classifier_from(config, model)),
    )


def _classifier_from(config: ClassificationFiles, model: str) -> Network:
    plain = {} if config.normalised else {"image_mean": (0.0,) * 3, "image_std": (1.0,) * 3}
    return classifier(model, config.size, config.trained, config.crop, config.batch_norm, **plain)


def held_out_set(config: ClassificationFiles, split: str, count: int, *fields: str) -> dict[str, np.ndarray]:
    """Return at most `count` evenly spread examples of a split as a batch, with further `fields`."""
    return as_batch(Prepared(config.data, split, fields=(*FIELDS, *fields)).sample(count))


@dataclasses.dataclass(frozen=True, kw_only=True)
class Parts:
    """The parts that a classification world is built of, be they from files or from the small world.

    - `original`: the training examples, with `FIELDS`; `grouped`: the same, with one more integer field that
      the arm "balanced" samples evenly.
    - `validation`, `test`: batches with `FIELDS` and the number `group` of each image.
    """

    title: str
    generator: Generator
    models: Models
    original: Source
    grouped: Source
    validation: HostBatch
    test: HostBatch
    prompts: FixedPrompts


def parts_from_files(
    config: ClassificationFiles,
    networks: tuple[Generator, Models],
    *,
    title: str,
    field: str,
    validation: HostBatch,
    test: HostBatch,
    prompts: FixedPrompts,
) -> Parts:
    """Return the networks of `load_networks` with the training examples that the configuration names.

    `field` is the integer field that the arm "balanced" samples evenly.
    """
    generator, models = networks
    return Parts(
        title=title,
        generator=generator,
        models=models,
        original=Prepared(config.data, "train", fields=FIELDS),
        grouped=Prepared(config.data, "train", fields=(*FIELDS, field)),
        validation=validation,
        test=test,
        prompts=prompts,
    )


def small_models(experiment: str, others: Sequence[str], classes: Sequence[str]) -> Models:
    """Load the small world's classifiers for `waterbirds` or `iwildcam`.

    `others` are further ones: "critic", the small world's own, or files, folders or hub ids. Raises the
    errors of `check_classes`, and those of networks that cannot be read.
    """

    def network(model: str) -> Network:
        own = model in ("model", "critic")
        part = experiment if model == "model" else f"{experiment}_critic"
        return classifier("wildlife" if own else model, 64, part=part)

    models = Models(model=network("model"), critic=network("critic"), others=load_others(others, network))
    check_classes(models, classes)
    return models


def small_parts(
    models: Models,
    *,
    title: str,
    train: HostBatch,
    validation: HostBatch,
    test: HostBatch,
    prompts: FixedPrompts,
) -> Parts:
    """Return rendered pictures with the models of `small_models` and the small world's generator."""
    return Parts(
        title=title,
        generator=load_generator(GeneratorFiles(pipeline="wildlife", clip="wildlife")),
        models=models,
        original=unstack(train, FIELDS),
        grouped=unstack(train, (*FIELDS, "group")),
        validation=validation,
        test=test,
        prompts=prompts,
    )


def check_classes(models: Models, classes: Sequence[str]) -> None:
    """Raise ValueError if one of the networks tells another number of classes; predict nothing."""
    images = jax.ShapeDtypeStruct((1, 64, 64, 3), np.float32)  # which classifiers resize
    networks = {"model": models.model, "critic": models.critic, "student": models.student, **models.others}
    for name, network in networks.items():
        if network is None:
            continue
        logits = jax.eval_shape(network.predict, network.params, images)
        if logits.shape[-1] != len(classes):
            raise ValueError(
                f"the {name} must have {len(classes)} classes like the data; found {logits.shape[-1]}"
            )


def keep_rows(batch: HostBatch, rows: np.ndarray) -> dict[str, np.ndarray]:
    """Return the rows of a batch that are chosen by a bool for each row; neighbours are not copied."""
    numbers = np.flatnonzero(rows)
    chosen: np.ndarray | slice = numbers
    if len(numbers) and numbers[-1] - numbers[0] == len(numbers) - 1:
        chosen = slice(numbers[0], numbers[-1] + 1)
    return {name: array[chosen] for name, array in batch.items()}


def labels_and_foregrounds(source: Source) -> tuple[np.ndarray, np.ndarray]:
    """Return each example's label, int `[n]`, and whether its mask keeps anything, bool `[n]`."""
    examples = map(source.__getitem__, range(len(source)))
    labels, kept = np.array([(int(e["label"]), bool(e["keep"].any())) for e in examples]).T
    return labels, kept.astype(bool)


def class_subsets(
    labels: np.ndarray,
    kept: np.ndarray,
    classes: Sequence[str],
    background: int | None = None,
    keep: Sequence[str] = (),
) -> dict[str, np.ndarray]:
    """Return the numbers of each class's examples that have a foreground.

    The class `background`, if there is one, comes last and with all of its examples. `keep` names the classes
    to return; none given: all. Raises ValueError for a class without an example, and for an unknown name.
    """
    if unknown := set(keep) - set(classes):
        raise ValueError(
            f"keep_classes must be among {', '.join(classes)}; found {', '.join(sorted(unknown))}"
        )
    order = sorted(range(len(classes)), key=lambda i: i == background)
    order = [i for i in order if not keep or classes[i] in keep]
    subsets = {classes[i]: np.flatnonzero((labels == i) & (kept | (i == background))) for i in order}
    empty = ", ".join(name for name, rows in subsets.items() if not len(rows))
    if empty:
        raise ValueError(
            f"no training image of {empty} has a mask of its foreground: add masks, or leave the class out"
        )
    return subsets
