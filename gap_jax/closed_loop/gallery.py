"""The pictures of prompts in a report: images drawn the way that generation draws them, and predictions."""

from collections.abc import Callable, Iterator, Mapping
from functools import lru_cache
from pathlib import Path
from typing import Any, NamedTuple

import jax
import numpy as np

from gap_jax.closed_loop.arm_prompts import PromptSet
from gap_jax.closed_loop.arms import ARMS
from gap_jax.closed_loop.measurements import result_arm
from gap_jax.closed_loop.run import Produced, Run, example_rows
from gap_jax.closed_loop.world import Task, select
from gap_jax.data.batch import HostBatch
from gap_jax.models.network import Network
from gap_jax.report import pictures
from gap_jax.report.results import ExamplePictures, Frame, ModelsExample
from gap_jax.stages.generate import image_keys

Frames = Mapping[int, tuple[np.ndarray, np.ndarray]]  # by step: an image and the model's prediction


class DrawnFrames(NamedTuple):
    """Images of some labels under the embeddings of several steps, and the model's predictions."""

    images: np.ndarray  # [steps,labels,H,W,3]
    predictions: Any  # [steps,labels,…]


class Gallery:
    """Draws the prompts of one run below `root`, the folder of the results file.

    An image equals the one that generation draws for the same seed, label and prompt: same alignment and
    strength, denoising steps, suffix and noise.
    """

    def __init__(self, run: Run, root: Path):
        self._run, self._root = run, root

    def examples(
        self,
        produced: Produced,
        prompt_set: PromptSet,
        index: int,
        number: int,
        paths: Mapping[int, np.ndarray | None],
    ) -> tuple[ExamplePictures, ...]:
        """Return the examples of one prompt, with a frame for each step of `paths`.

        - `index`: the prompt's place in its set; `number`: its place in its arm, as generation counts.
        - `paths`: by step, the embeddings `[n,D]` to draw, or None for a text.
        """
        rows = example_rows(self._run.world, prompt_set)
        labels = select(self._run.originals, rows)
        shown = self._draw(produced, prompt_set, index, number, paths, rows, labels)
        arm = result_arm(produced.key, self._run.settings.iterations)
        folder = self._root / "pictures" / arm / f"{prompt_set.label}-{index}"
        return tuple(
            self._example(
                folder / str(j),
                {field: array[j] for field, array in labels.items()},
                {step: (shown.images[i, j], shown.predictions[i, j]) for i, step in enumerate(paths)},
            )
            for j in range(len(rows))
        )

    def by_model(
        self, name: str, produced: Produced | None, networks: Mapping[str, Network]
    ) -> tuple[ModelsExample, ...]:
        """Return images of an arm's first prompt, each with the predictions of all networks.

        `name` is the folder of the pictures. None in place of `produced` stands for the original images.
        """
        prompt_set = PromptSet(("",)) if produced is None else produced.prompt_sets[0]
        rows = example_rows(self._run.world, prompt_set)
        labels = select(self._run.originals, rows)
        images = labels["image"]
        if produced is not None:
            path = {0: None if prompt_set.embeddings is None else prompt_set.embeddings[0]}
            images = self._draw(produced, prompt_set, 0, 0, path, rows, labels).images[0]
        predictions = {
            model: jax.device_get(jax.jit(network.predict)(network.params, images))
            for model, network in networks.items()
        }
        task, folder = self._run.world.task, self._root / "pictures" / "models" / name
        shown = []
        for i, image in enumerate(images):
            label = {field: array[i] for field, array in labels.items()}
            drawn = {
                model: [
                    self._save(folder / str(i) / f"{model}-{part}.png", picture)
                    for part, picture in enumerate(task.pictures.prediction(prediction[i], label))
                ]
                for model, prediction in predictions.items()
            }
            shown.append(
                ModelsExample(
                    label=self._save(folder / str(i) / "label.png", task.pictures.label(label)),
                    image=self._save(folder / str(i) / "image.png", image),
                    predictions={model: tuple(pictures) for model, pictures in drawn.items()},
                )
            )
        return tuple(shown)

    def target_pictures(self, name: str) -> Iterator[str]:
        """Save the images of a target domain and yield their paths, relative to the root."""
        images = self._run.world.targets[name].pictures
        for i, image in enumerate(() if images is None else images):
            yield self._save(self._root / "pictures" / "targets" / f"{name}-{i}.png", image)

    def _draw(
        self,
        produced: Produced,
        prompt_set: PromptSet,
        index: int,
        number: int,
        paths: Mapping[int, np.ndarray | None],
        rows: np.ndarray,
        labels: HostBatch,
    ) -> DrawnFrames:
        programs = self._run.programs
        texts = (prompt_set.texts[index],) * len(paths)
        vectors = [embedding for embedding in paths.values() if embedding is not None]
        embeddings = np.stack(vectors) if vectors else None
        contexts = programs.contexts(PromptSet(texts, embeddings))
        keys = image_keys(self._run.seed, rows, np.full(len(rows), number), np.zeros(len(rows), int))
        batch = {**labels, "prompt": np.zeros(len(rows), int)}
        program = self._program(ARMS[produced.key.arm].sdedit)
        frames = [
            jax.device_get(program(programs.generation_weights(context[None], produced.model), batch, keys))
            for context in contexts
        ]
        images, predictions = zip(*frames, strict=True)
        return DrawnFrames(np.stack(images), np.stack(predictions))

    @lru_cache  # noqa: B019 (the same function is compiled only once)
    def _program(self, sdedit: bool) -> Callable[..., tuple[jax.Array, Any]]:
        draw, predict = self._run.programs.draw(sdedit), self._run.world.models.model.predict

        @jax.jit
        def program(weights, batch, keys):
            images = draw(weights, batch, jax.random.wrap_key_data(keys))
            return images, predict(weights.model, images)

        return program

    def _example(self, folder: Path, label: HostBatch, frames: Frames) -> ExamplePictures:
        task: Task = self._run.world.task
        shown = []
        for step, (image, prediction) in sorted(frames.items()):
            parts = zip(
                ("generated", "prediction", "error"),
                (image, *task.pictures.prediction(prediction, label)),
                strict=False,
            )
            shown.append(
                Frame(
                    step, *(self._save(folder / f"{name}-{step:05d}.png", picture) for name, picture in parts)
                )
            )
        return ExamplePictures(
            self._save(folder / "label.png", task.pictures.label(label)),
            self._save(folder / "original.png", label["image"]),
            tuple(shown),
        )

    def _save(self, path: Path, picture: np.ndarray) -> str:
        if jax.process_index() == 0:
            pictures.save(path, picture)
        return str(path.relative_to(self._root))
