"""What the two experiments on classes share: pictures of the small world, data sets in files, settings."""

import dataclasses
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Literal, NamedTuple

import jax
import numpy as np

from gap_jax.closed_loop.settings import Evaluating, Finetuning, Generating, Optimizing, Settings
from gap_jax.closed_loop.world import Arrays, Network, TargetDomain, Task, World, whole
from gap_jax.data.loader import Source
from gap_jax.data.prepared import Prepared
from gap_jax.experiments.classification_task import classifier
from gap_jax.stages.classifier_tuning import everything, last_layer
from gap_jax.weights.pipeline import load_clip, load_pipeline

FIELDS = ("image", "keep", "label")
FIRST_TARGET = 100_000  # pictures that nothing else sees
ARMS = (
    "control",
    "agnostic",
    "written",
    "guided",
    "adversarial",
    "guided-adversarial",
    "guided-text",
    "guided-adversarial-text",
    "balanced",
    "randaugment",
    "augmix",
    "cutmix",
    "copy-paste",
)
SMALL = Settings(
    arms=ARMS,
    optimizing=Optimizing(prompts=3, steps=15, batch=2, learning_rate=2.4e-2, eta=1.0, threshold=None),
    generating=Generating(images=64),
    finetuning=Finetuning(steps=80, batch=16, learning_rate=1e-3, share=0.5),
    evaluating=Evaluating(images=100, severities=()),
)


class Material(NamedTuple):
    """What a world of classes is made of, of the small world's pictures or of files.

    `grouped` is the original with the field, `group` or `location`, that balanced sampling looks at.
    """

    title: str
    generator: tuple[Any, ...]  # pipeline, CLIP, each with its parameters
    model: Network
    critic: Network
    original: Source
    grouped: Source
    validation: Arrays
    test: Arrays
    targets: Mapping[Any, TargetDomain]
    written: tuple[str, ...]
    agnostic: str
    student: Network | None = None

    def world(self, summary: str, task: Task, domains: Mapping[str, Arrays], **more: Any) -> World:
        """Tested on the domains, with `more` of the world's fields in place of what is here.

        Raises ValueError for a network that has not the task's classes.
        """
        for name in ("model", "critic", "student"):
            self.check(name, task.classes)
        return World(
            self.title,
            summary,
            *self.generator,
            task,
            self.model,
            self.critic,
            self.original,
            {"clean": {name: self.validation[name] for name in FIELDS}},
            self.test,
            domains,
            self.targets,
            self.written,
            self.agnostic,
            student=self.student,
            worst_of=tuple(domains),
        )._replace(**more)

    def check(self, name: str, classes: Sequence[str]) -> None:
        """Raises ValueError if that network is there and has not these classes."""
        network = getattr(self, name)
        if network is not None:
            logits = jax.eval_shape(network.predict, network.params, self.test["image"][:1])
            if logits.shape[-1] != len(classes):
                raise ValueError(
                    f"the {name} must have the data's {len(classes)} classes, found {logits.shape[-1]}"
                )


@dataclasses.dataclass(frozen=True)
class ClassificationFiles:
    """Where data and models are: a data set made by `python -m gap_jax.data prepare`; folders or hub ids."""

    data: Path
    pipeline: str = "stable-diffusion-v1-5/stable-diffusion-v1-5"
    clip: str = "openai/clip-vit-large-patch14"
    model: str = (
        "classifier"  # under improvement, which prompts are optimised against: a file, folder or hub id
    )
    student: str | None = None  # another one, to be fine-tuned instead
    critic: str | None = None  # a stronger one; None: the model as it was
    size: int = 224  # pixels, of what classifiers see
    rows: tuple[float, float] = (0.0, 1.0)  # from where to where of the height they see, as shares of it
    normalised: bool = True  # images are, as the classifier's folder says or ImageNet's
    trained: Literal["everything", "last layer"] = "everything"
    target_images: int = 64  # of each target domain
    dtype: Literal["float32", "bfloat16", "float16"] = "float32"  # of Stable Diffusion and CLIP

    def material(self, title: str, field: str, *rest: Any) -> Material:
        """All of it, with the `rest` from `validation` on."""
        return Material(
            title,
            (*load_pipeline(self.pipeline, dtype=self.dtype), *load_clip(self.clip, self.dtype)),
            self.network(self.model),
            self.network(self.critic or self.model),
            Prepared(self.data, "train", fields=FIELDS),
            Prepared(self.data, "train", fields=(*FIELDS, field)),
            *rest,
            student=self.network(self.student) if self.student else None,
        )

    def held_out(self, split: str, count: int, *more: str) -> Arrays:
        """So many examples, evenly spread, or all, with `more` fields."""
        return whole(Prepared(self.data, split, fields=(*FIELDS, *more)).some(count))

    def network(self, model: str) -> Network:
        """A classifier."""
        trained = last_layer if self.trained == "last layer" else everything
        plain = {} if self.normalised else {"image_mean": (0.0,) * 3, "image_std": (1.0,) * 3}
        return classifier(model, self.size, trained, self.rows, **plain)


def small(title: str, name: str, train: Arrays, *rest: Any) -> Material:
    """The small world's models of the experiment `name`, with pictures; the `rest` from `validation` on."""
    return Material(
        title,
        (*load_pipeline("wildlife"), *load_clip("wildlife")),
        classifier("wildlife", 64, part=name),
        classifier("wildlife", 64, part=f"{name}_critic"),
        rows(train, FIELDS),
        rows(train, (*FIELDS, "group")),
        *rest,
    )


def rows(batch: Arrays, fields: Sequence[str]) -> list[dict[str, np.ndarray]]:
    """A batch as a source of examples, with these fields."""
    return [{name: batch[name][i] for name in fields} for i in range(len(batch["image"]))]


def those(batch: Arrays, chosen: np.ndarray) -> Arrays:
    """The rows that are chosen, by number or by a bool for each."""
    return {name: array[chosen] for name, array in batch.items()}


def look(source: Source) -> tuple[np.ndarray, np.ndarray]:
    """Each example's label, and whether it has a foreground."""
    found = [(int(e["label"]), bool(e["keep"].any())) for e in map(source.__getitem__, range(len(source)))]
    label, kept = np.array(found).T
    return label, kept.astype(bool)


def parts(
    label: np.ndarray, kept: np.ndarray, classes: Sequence[str], nothing: int | None = None
) -> dict[str, np.ndarray]:
    """Numbers of each class's examples with a foreground; the class `nothing` comes last, with all of its.

    Raises ValueError for a class without any.
    """
    order = sorted(range(len(classes)), key=lambda i: i == nothing)
    found = {classes[i]: np.flatnonzero((label == i) & (kept | (i == nothing))) for i in order}
    lacking = ", ".join(name for name, numbers in found.items() if not len(numbers))
    if lacking:
        raise ValueError(f"no training image of {lacking} has a mask of what to keep")
    return found
