"""Several models: prompts found against each of them, and all models measured on the images of all prompts.

The arm's work on the model under improvement is part of the usual run. Everything else of a seed is in its
folder `models/{arm}`: `{model}/optimize` and `{model}/generate` for each further model, and
`measurements.json`.
"""

from collections.abc import Iterator, Sequence
from pathlib import Path

import jax
import numpy as np

from gap_jax.closed_loop.arms import ARMS, adversarial_arm
from gap_jax.closed_loop.gallery import Gallery
from gap_jax.closed_loop.measurements import Measuring, ModelKey, read_measurements
from gap_jax.closed_loop.programs import PopulationTask
from gap_jax.closed_loop.run import ORIGINAL, Produced, Run, optimize_populations
from gap_jax.closed_loop.settings import STAGES
from gap_jax.closed_loop.world import MODEL, as_batch, select
from gap_jax.data.batch import HostBatch
from gap_jax.models.network import Network
from gap_jax.report.results import ModelsRow
from gap_jax.stages.evaluate import SetKey, evaluate
from gap_jax.stages.generate import generated_images


class SeveralModels:
    """The comparison of all models of a run, for the first adversarial arm that optimises its own prompts.

    `produced` is what `Run.run_until` returned.
    """

    def __init__(self, run: Run, produced: Sequence[Produced]):
        self.run = run
        self.arm = adversarial_arm(run.settings.arms)
        self.folder = run.folder / "models" / self.arm
        self.networks: dict[str, Network] = {MODEL: run.world.models.model, **run.world.models.others}
        own = {work.key: work for work in produced}
        self.produced: dict[SetKey, Produced] = {}
        if "agnostic" in run.settings.arms:
            self.produced[SetKey("generated", "agnostic prompts")] = own[ModelKey("agnostic")]
        self.produced[prompts_against(MODEL)] = own[ModelKey(self.arm)]

    def run_until(self, stage: str) -> None:
        """Run all stages up to and including `stage`."""
        count = min(self.run.settings.generating.images, self.run.settings.evaluating.images)
        for name, network in self.run.world.models.others.items():
            work = self._found_against(name, network)
            self.produced[prompts_against(name)] = work
            if STAGES.index(stage) >= STAGES.index("generate"):
                self.run.generate(self.arm, work.prompt_sets, work.model, work.generated, count)
        if STAGES.index(stage) >= STAGES.index("evaluate"):
            self._measure(count)

    @property
    def measurements(self) -> Path:
        """The file that the stage `evaluate` writes."""
        return self.folder / "measurements.json"

    def _found_against(self, name: str, network: Network) -> Produced:
        """Return the work of the arm against another model, whose prompts are optimised first."""
        run, arm, folder = self.run, ARMS[self.arm], self.folder / name
        owner = f"{run.token_owner(self.arm)} against {name}"
        if jax.process_index() == 0:
            print(f"seed {run.seed}: prompts against {name}", flush=True)
        tasks = [
            PopulationTask(arm, network.params, prompt_set, folder / "optimize", name)
            for prompt_set in run.programs.initial_prompts(arm, run.seed, owner)
        ]
        prompt_sets = optimize_populations([(run, task) for task in tasks])
        return Produced(
            key=ModelKey(self.arm),
            prompt_sets=prompt_sets,
            optimized=folder / "optimize",
            generated=folder / "generate",
            model=run.world.models.model.params,  # which generation measures
        )

    def _measure(self, count: int) -> None:
        """Measure every model on the original images and on those of every row."""
        measuring = Measuring(self.measurements)
        if measuring.finished and set(self.produced) <= measuring.sets(map(ModelKey, self.networks)):
            return
        for name, network in self.networks.items():
            evaluate(
                network.predict,
                {ModelKey(name): network.params},
                self._sets(count),
                self.run.world.task.metrics,
                total=1 + len(self.produced),
                measured=measuring.scores,
                save=measuring.save,
            )
        measuring.finish()

    def _sets(self, count: int) -> Iterator[tuple[SetKey, HostBatch]]:
        """Yield at most `count` original images and, of each row, generated ones."""
        original = self.run.originals
        yield ORIGINAL, select(original, np.arange(min(count, len(original))))
        for key, work in self.produced.items():
            images = generated_images(work.generated, original)
            yield key, as_batch(images.select(np.arange(min(count, len(images)))))


def prompts_against(model: str) -> SetKey:
    """Return the key of the images of prompts that were found against a model."""
    return SetKey("generated", f"prompts against {model}")


def collect_models(compared: Sequence[SeveralModels], root: Path) -> tuple[ModelsRow, ...]:
    """Return the matrix of all seeds, with pictures of the first seed saved below `root`.

    All processes call it. Raises ValueError for damaged files of measurements.
    """
    scores = [read_measurements(models.measurements) for models in compared]
    first = compared[0]
    gallery = Gallery(first.run, root)
    rows = {ORIGINAL: None, **first.produced}
    return tuple(
        ModelsRow(
            name="original images" if work is None else key.name,
            scores={
                model: {
                    metric: tuple(seed[ModelKey(model)][key][metric] for seed in scores)
                    for metric in first.run.world.task.metrics
                }
                for model in first.networks
            },
            examples=gallery.by_model(key.name, work, first.networks),
        )
        for key, work in rows.items()
    )
