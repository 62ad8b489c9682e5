"""Everything an experiment is about, as values: generator, models, task, data, target domains."""

import dataclasses
from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from functools import cached_property, partial
from pathlib import Path
from typing import Any

import numpy as np

from gap_jax.closed_loop.settings import GeneratorFiles
from gap_jax.data.batch import Example, HostBatch, Transform
from gap_jax.data.loader import Source, stack
from gap_jax.diffusion.align import Alignment
from gap_jax.diffusion.pipeline import Params, Pipeline
from gap_jax.models.clip import Clip
from gap_jax.models.network import Network
from gap_jax.report.results import Legend
from gap_jax.stages.evaluate import SetKey
from gap_jax.stages.guidance import FeatureStatistics
from gap_jax.tasks.metric import ImageLoss, Metric
from gap_jax.weights.pipeline import LoadParams, open_clip, open_pipeline


@dataclasses.dataclass(frozen=True)
class Generator:
    """Stable Diffusion, which generates images, and CLIP, which compares them with a target domain.

    `load_generator` makes one from files. It reads configurations first; parameters, which may take minutes,
    are loaded when everything is known to fit.

    - `open_pipeline()`: returns Stable Diffusion, and a function that loads its parameters. For a pipeline in
      memory, it is `lambda: (pipe, lambda: params)`.
    - `open_clip()`: returns CLIP, and a function that loads its parameters.
    """

    open_pipeline: Callable[[], tuple[Pipeline, LoadParams]]
    open_clip: Callable[[], tuple[Clip, LoadParams]]

    @cached_property
    def _pipeline(self) -> tuple[Pipeline, LoadParams]:
        return self.open_pipeline()

    @cached_property
    def _clip(self) -> tuple[Clip, LoadParams]:
        return self.open_clip()

    def open(self) -> None:
        """Read the configurations now; raise the errors of `open_pipeline` and `open_clip`."""
        _ = self.pipe, self.clip

    def load(self) -> None:
        """Load the parameters now, CLIP's first, which are fewer; raise the errors of `load_pipeline`."""
        _ = self.clip_params, self.params

    @property
    def pipe(self) -> Pipeline:
        """Stable Diffusion, without its parameters."""
        return self._pipeline[0]

    @cached_property
    def params(self) -> Params:
        """The parameters of Stable Diffusion."""
        return self._pipeline[1]()

    @property
    def clip(self) -> Clip:
        """CLIP, without its parameters."""
        return self._clip[0]

    @cached_property
    def clip_params(self) -> Params:
        """The parameters of CLIP."""
        return self._clip[1]()


def load_generator(files: GeneratorFiles, controlnet: str | Sequence[str] | None = None) -> Generator:
    """Return a generator that is loaded from folders, from the hub, or from a small world by its name.

    `controlnet` is one ControlNet or several, as `load_pipeline` takes them; None: the pipeline's own, if
    there is one. When the generator is first used, it raises the errors of `load_pipeline` and `load_clip`.
    """
    return Generator(
        partial(
            open_pipeline,
            files.pipeline,
            controlnet,
            files.dtype,
            attention=files.attention,
            recompute=files.recompute,
        ),
        partial(open_clip, files.clip, files.dtype),
    )


MODEL = "f"  # the name of the model under improvement, where there are several


@dataclasses.dataclass(frozen=True, kw_only=True)
class Models:
    """The vision models of an experiment.

    - `model`: the model under improvement; prompts are optimised against it.
    - `critic`: a stronger model that judges whether generated images show their labels.
    - `student`: the model to fine-tune in place of `model`; None: `model` itself.
    - `others`: further models by name. Adversarial prompts are found against each of them, too, and all
      models are measured on the images of all these prompts.
    """

    model: Network
    critic: Network
    student: Network | None = None
    others: Mapping[str, Network] = dataclasses.field(default_factory=dict)

    @property
    def learner(self) -> Network:
        """The model that is fine-tuned and measured."""
        return self.student or self.model


@dataclasses.dataclass(frozen=True, kw_only=True)
class DataSets:
    """The data of an experiment. A batch is `{"image": float32 [n,H,W,3] in [0,1], …labels}`.

    - `original`: the training examples, single rows of such a batch; images are generated from their labels.
    - `validation`: the sets, by name, that checkpoints are chosen by; none of them is a test set.
    - `test`: the clean test set.
    - `domains`: further test sets, by name.
    - `precomputed`: yields further versions of the clean test set's images, such as corruptions from files.
    - `num_precomputed`: the number of versions that `precomputed` yields.
    - `summarised`: domains whose worst and average results are reported as columns of their own.
    - `subsets`: row numbers of `original` by name, such as each class's; images are generated from these.
    - `prompts_per_subset`: True if each subset gets optimised prompts of its own.
    """

    original: Source
    validation: Mapping[str, HostBatch]
    test: HostBatch
    domains: Mapping[str, HostBatch] = dataclasses.field(default_factory=dict)
    precomputed: Callable[[], Iterable[tuple[SetKey, np.ndarray]]] = tuple
    num_precomputed: int = 0
    summarised: tuple[str, ...] = ()
    subsets: Mapping[str, np.ndarray] = dataclasses.field(default_factory=dict)
    prompts_per_subset: bool = False


@dataclasses.dataclass(frozen=True, kw_only=True)
class TargetDomain:
    """A domain that guided prompts are drawn to, given in one form or in several.

    - `images`: a few images of it, float32 `[n,H,W,3]` in [0,1], without labels; or the statistics `[D]` of
      their features in CLIP.
    - `text`: the domain in words, one text or several, whose mean counts; or the statistics `[L,D]` of the
      states of such texts.
    - `subset`: the subset whose prompts are guided to this domain; None: all subsets.
    - `sources`: the numbers of the original examples that suit it, int `[m]`: its prompts are optimised on
      them and generate from them. None: all examples.

    Arms are guided towards the domains that have the form they need: images or their features for guidance
    by CLIP, images for textual inversion, a text or its states for guidance by text.
    """

    images: np.ndarray | FeatureStatistics | None = None
    text: str | tuple[str, ...] | FeatureStatistics | None = None
    subset: str | None = None
    sources: np.ndarray | None = None

    @property
    def form(self) -> str:
        """The forms that the domain is given in, in words."""
        forms = {
            "images": self.pictures is not None,
            "features of images": isinstance(self.images, FeatureStatistics),
            "a text": self.text is not None and not isinstance(self.text, FeatureStatistics),
            "text states": isinstance(self.text, FeatureStatistics),
        }
        return " and ".join(name for name, given in forms.items() if given) or "nothing"

    @property
    def pictures(self) -> np.ndarray | None:
        """The images themselves; None if there are none, or only their features."""
        return None if isinstance(self.images, FeatureStatistics) else self.images


@dataclasses.dataclass(frozen=True, kw_only=True)
class FixedPrompts:
    """The prompts that are not optimised. `{subset}` in a text stands for each subset's name.

    - `agnostic`: the one prompt that knows neither the model nor the target domains.
    - `written`: prompts that a person wrote for the target domains.
    """

    agnostic: str = "room"
    written: tuple[str, ...] = ()


def unchanged(example: Example, random: np.random.Generator) -> HostBatch:
    """Return the example as it is: the transform without augmentation."""
    return example


@dataclasses.dataclass(frozen=True, kw_only=True)
class TrainingData:
    """The data that a model is fine-tuned on: original and added examples, and a transform of both."""

    original: Source
    added: Source | None = None
    transform: Transform = unchanged


@dataclasses.dataclass(frozen=True, kw_only=True)
class Pictures:
    """The way a report draws a task's labels and predictions, one image at a time, as uint8 `[H,W,3]`.

    - `name`: the name of a label, such as "depth map".
    - `label(label)`: the picture of a label.
    - `prediction(prediction, label)`: a picture of the prediction and, if it helps, one of its error.
    - `legends`: the meaning of the colours in the pictures `label` and `error`, by these names.
    - `note`: a sentence about the pictures.
    """

    name: str
    label: Callable[[HostBatch], np.ndarray]
    prediction: Callable[[Any, HostBatch], tuple[np.ndarray, ...]]
    legends: Mapping[str, Legend] = dataclasses.field(default_factory=dict)
    note: str = ""


@dataclasses.dataclass(frozen=True, kw_only=True)
class Task:
    """The purpose of a model: its losses and metrics. A loss is `(prediction, batch) -> [B]`.

    - `align(strength)`: the alignment that keeps generated images faithful to their labels; a strength below
      1 starts from the original image (SDEdit).
    - `generation_align(strength)`: the alignment of images that are trained on; None: `align`, which then
      serves the optimisation of prompts alone.
    - `adversarial`: the loss that adversarial prompts minimise.
    - `loss`: the loss that fine-tuning minimises.
    - `metrics`: the metrics by name. The first one is the main metric.
    - `check(batch)`: raises ValueError for labels that make no sense.
    - `constant(source)`: the best prediction that ignores the image, the same for all images.
    - `pictures`: the way labels and predictions are drawn.
    - `negative_prompt`: the negative prompt of classifier-free guidance; None switches guidance off, which
      halves the work of each denoising step.
    - `classes`: the class names; `batch["label"]` is an index into them. None if the task has no classes.
    """

    align: Callable[[float], Alignment]
    adversarial: ImageLoss
    loss: ImageLoss
    metrics: Mapping[str, Metric]
    check: Callable[[HostBatch], None]
    constant: Callable[[Source], np.ndarray]
    pictures: Pictures
    negative_prompt: str | None = ""
    classes: tuple[str, ...] | None = None
    generation_align: Callable[[float], Alignment] | None = None


@dataclasses.dataclass(frozen=True, kw_only=True)
class World:
    """Everything an experiment is about.

    - `title`, `summary`: the heading of the report and a sentence on model, generator and data.
    - `targets`: the target domains by name.
    - `baselines`: the training data of each baseline arm, by the arm's name.
    """

    title: str
    summary: str
    generator: Generator
    models: Models
    task: Task
    data: DataSets
    targets: Mapping[str, TargetDomain] = dataclasses.field(default_factory=dict)
    prompts: FixedPrompts = FixedPrompts()
    baselines: Mapping[str, Callable[[], TrainingData]] = dataclasses.field(default_factory=dict)


def load_others(models: Sequence[str], load: Callable[[str], Network]) -> dict[str, Network]:
    """Load further models and return them by name: the last part of a path, hub id or `module:factory`.

    A path's suffix is left out.

    Raises ValueError for two models of one name, `MODEL` included.
    """
    names = [Path(model.rpartition(":")[2]).stem for model in models]
    if repeated := [name for name, count in Counter([MODEL, *names]).items() if count > 1]:
        raise ValueError(f"several models are named {repeated[0]}: rename a file or a folder")
    return {name: load(model) for name, model in zip(names, models, strict=True)}


def select(source: Source, rows: np.ndarray) -> dict[str, np.ndarray]:
    """Return the examples with these numbers as one batch."""
    return stack([source[int(row)] for row in rows])


def as_batch(source: Source) -> dict[str, np.ndarray]:
    """Return all examples as one batch."""
    return select(source, np.arange(len(source)))
