"""The closed loop for any world: optimise prompts, generate with the labels kept, fine-tune, measure.

Each seed, arm and stage has a folder, `{work}/seed-{seed}/{arm}/{stage}`. Finished work is kept: a run that
is started again continues where it stopped. An arm's fine-tuned model is in `finetune/model`, a folder that
`load_depth` or `load_classifier` reads.
"""

import functools
from collections.abc import Mapping, Sequence
from itertools import chain
from pathlib import Path
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from gap_jax.closed_loop.arm_prompts import (
    PromptSet,
    generating_rows,
    in_words,
    optimizing_rows,
    prompts_owner,
    source_groups,
    text_prompts,
    token_owner,
)
from gap_jax.closed_loop.arms import ARMS
from gap_jax.closed_loop.measurements import Measuring, ModelKey, add_summaries
from gap_jax.closed_loop.programs import PopulationTask, Programs
from gap_jax.closed_loop.settings import STAGES, Settings
from gap_jax.closed_loop.world import TrainingData, World, select
from gap_jax.data.batch import HostBatch
from gap_jax.data.loader import Source
from gap_jax.data.prepared import Prepared
from gap_jax.data.resized import Resized, mirrored
from gap_jax.files import fsync_tree, writing
from gap_jax.report.results import CONSTANT
from gap_jax.stages.evaluate import CLEAN, SetKey, corrupted_sets, domain_sets, evaluate, num_corrupted_sets
from gap_jax.stages.finetune import Mixture, finetune
from gap_jax.stages.generate import Plan, generate, generated_images, plan
from gap_jax.stages.optimize import PopulationRun, optimize_together, save_prompts

EXAMPLES = 3  # original images that a prompt is shown on
CRITIC = "critic"
ORIGINAL = SetKey("training", "original")  # real images, on which the critic is measured


class Produced(NamedTuple):
    """The work of one arm in one iteration: its prompts and the folders of its stages."""

    key: ModelKey
    prompt_sets: list[PromptSet]
    optimized: Path
    generated: Path
    model: Any  # the parameters that the prompts were optimised against, on the host


class Run:
    """All arms of one seed."""

    def __init__(self, programs: Programs, work: Path, seed: int):
        self.programs, self.seed = programs, seed
        self.settings: Settings = programs.settings
        self.world: World = programs.world
        self.folder = work / f"seed-{seed}"
        self.config = self.settings.identity() | {"seed": seed}
        size = self.settings.sampling.size
        self.originals: Source = self.world.data.original  # as images are generated from them
        if size is not None:
            self.originals = Resized(self.originals, size)

    def run_until(self, stage: str) -> list[Produced]:
        """Run all stages up to and including `stage` for all arms and return each arm's work."""
        produced: list[Produced] = []
        models: dict[ModelKey, Any] = {}
        for number, name in enumerate(self.settings.arms, 1):
            if jax.process_index() == 0:
                print(f"seed {self.seed}: {name}, arm {number} of {len(self.settings.arms)}", flush=True)
            params = self.world.models.model.params
            for iteration in range(self.settings.iterations):
                prompt_sets = self.prompts(name, params, iteration)
                produced.append(
                    Produced(
                        key=ModelKey(name, iteration),
                        prompt_sets=prompt_sets,
                        optimized=self._optimize_folder(name, iteration),
                        generated=self.stage_folder(name, "generate", iteration),
                        model=params,
                    )
                )
                if STAGES.index(stage) < STAGES.index("generate"):
                    break
                images = self.generate(name, prompt_sets, params, produced[-1].generated)
                if STAGES.index(stage) < STAGES.index("finetune"):
                    break
                baseline = self.world.baselines.get(name)
                data = self._with_images(images) if baseline is None else baseline()
                start = params if self.world.models.student is None else self.world.models.learner.params
                folder = self.stage_folder(name, "finetune", iteration)
                params = self.finetune(data, start, folder)
                self._save_model(params, folder / "model")
                models[ModelKey(name, iteration)] = params
                if images is not None and self.settings.iterations == 1:
                    models |= self.data_efficiency(name, images)
        if STAGES.index(stage) >= STAGES.index("evaluate"):
            self.evaluate(models)
        return produced

    @property
    def measurements(self) -> Path:
        """The file that the stage `evaluate` writes."""
        return self.folder / "evaluate.json"

    def stage_folder(self, arm: str, stage: str, iteration: int = 0) -> Path:
        """Return an arm's folder of a stage."""
        return self.folder / arm / (f"iteration-{iteration}" if iteration else "") / stage

    def _optimize_folder(self, arm: str, iteration: int) -> Path:
        """Return where an arm's prompts are optimised."""
        return self.stage_folder(prompts_owner(arm, iteration), "optimize", iteration)

    def token_owner(self, arm: str, iteration: int = 0) -> str:
        """Return the words that tell an arm's tokens from all others of the experiment."""
        return token_owner(self.seed, arm, iteration)

    def prompts(self, name: str, params: Any, iteration: int) -> list[PromptSet]:
        """Return an arm's prompts, optimised against the model `params` if the arm optimises."""
        arm, world = ARMS[name], self.world
        if arm.prompts == "none":
            return []
        if arm.prompts == "agnostic":
            return text_prompts((world.prompts.agnostic,), tuple(world.data.subsets))
        if arm.prompts == "written":
            return text_prompts(self.programs.written_lines, tuple(world.data.subsets))
        if arm.prompts == "random":
            owner = self.token_owner(name, iteration)
            initial = self.programs.initial_prompts(arm, self.seed, owner)
            self._save_random(initial, self._optimize_folder(name, iteration))
            return initial
        optimized = optimize_populations([(self, task) for task in self.tasks(name, params, iteration)])
        return [in_words(world.generator, prompt_set) for prompt_set in optimized] if arm.words else optimized

    def tasks(self, name: str, params: Any, iteration: int = 0) -> list[PopulationTask]:
        """Return the populations of prompts that an arm optimises against the model `params`."""
        arm, folder = ARMS[name], self._optimize_folder(name, iteration)
        if arm.prompts != "optimized":
            return []
        owner = self.token_owner(name, iteration)
        initial = self.programs.initial_prompts(arm, self.seed, owner)
        return [PopulationTask(arm, params, prompt_set, folder) for prompt_set in initial]

    def _save_random(self, prompt_sets: list[PromptSet], folder: Path) -> None:
        """Write the files of prompts that are drawn and not optimised."""
        generator = self.world.generator
        for prompt_set in prompt_sets:
            prompts, embeddings = folder / prompt_set.label / "prompts", prompt_set.embeddings
            assert embeddings is not None
            last = prompts / str(len(embeddings) - 1) / "learned_embeds.safetensors"
            if jax.process_index() == 0 and not last.exists():
                metadata = {"steps": 0, "config": self.config}
                save_prompts(
                    generator.pipe, generator.params, embeddings, prompts, prompt_set.texts, metadata
                )

    def population_run(self, task: PopulationTask, population: int) -> PopulationRun:
        """Return what `optimize_together` needs of a population, if `population` prompts run as one."""
        arm, prompt_set, config = task.arm, task.prompt_set, self.settings.optimizing
        rows = optimizing_rows(self.world, prompt_set, config.images, self.seed)
        repeats = config.images is None or len(rows) < config.batch
        assert prompt_set.embeddings is not None

        def load(step: int, share: slice) -> HostBatch:
            random = np.random.default_rng([self.seed, 2, step])
            batch = select(self.originals, random.choice(rows, config.batch, repeats)[share])
            return mirrored(batch, random.random(config.batch)[share] < 0.5) if config.flips else batch

        watched = None
        if config.picture_every is not None:
            watched = select(self.originals, example_rows(self.world, prompt_set))
        return PopulationRun(
            self.programs.optimizer(arm, task.params, prompt_set.target, task.against, population),
            prompt_set.embeddings,
            load,
            steps=config.steps if arm.guided else config.unguided_steps or config.steps,
            key=jax.random.fold_in(jax.random.key(self.seed), 3),
            folder=task.folder / prompt_set.label,
            config=self.config,
            examples=watched,
            tokens=prompt_set.texts,
        )

    def generate(
        self, name: str, prompt_sets: list[PromptSet], params: Any, folder: Path, count: int | None = None
    ) -> Prepared | None:
        """Return an arm's training set, generated with all its prompts; None if it generates nothing.

        `count` limits the number of images; they are the first ones of the whole set.
        """
        if not prompt_sets:
            return None
        config, world = self.settings.generating, self.world
        named = [(prompt_set, i) for prompt_set in prompt_sets for i in range(len(prompt_set.texts))]
        band = self.programs.band if count is None else None
        planned = plan(
            config.images if band is None else band.most_candidates,
            [generating_rows(world, prompt_set, config.balanced) for prompt_set, _ in named],
            self.seed,
            proportional=not config.balanced,
        )
        generate(
            self.programs.generation_step(ARMS[name].sdedit),
            self.programs.generation_weights(self.programs.arm_contexts(prompt_sets), params),
            lambda sources: select(self.originals, sources),
            Plan(planned.source[:count], planned.prompt[:count]),
            images_per_step=config.batch,
            seed=self.seed,
            folder=folder,
            config=self.config,
            prompt_names=tuple(prompt_set.prompt(i, config.suffix) for prompt_set, i in named),
            filters=self.programs.filters,
            band=band,
            class_names=world.task.classes,
            summaries={"critic_score": next(iter(world.task.metrics.values())).over_set},
        )
        return generated_images(folder, world.data.original)

    def _save_model(self, params: Any, folder: Path) -> None:
        """Write a fine-tuned model as a folder that other programs read, if its network knows how to."""
        save = self.world.models.learner.save
        if save is not None and jax.process_index() == 0 and not folder.exists():
            with writing(folder):
                save(params, folder)
                fsync_tree(folder)

    def data_efficiency(self, name: str, images: Prepared) -> dict[ModelKey, Any]:
        """Return the model fine-tuned with fewer of an arm's images, for each number of images."""
        models = {}
        for count in self.settings.evaluating.efficiency:
            if count < len(images):
                data = self._with_images(images.select(np.arange(count)))
                folder = self.stage_folder(name, f"finetune-{count}")
                models[ModelKey(name, images=count)] = self.finetune(
                    data, self.world.models.learner.params, folder
                )
        return models

    def _with_images(self, images: Prepared | None) -> TrainingData:
        original = self.world.data.original
        if images is None or self.settings.sampling.size is None:
            return TrainingData(original=original, added=images)
        return TrainingData(original=original, added=Resized(images, len(original[0]["image"])))

    def finetune(self, data: TrainingData, params: Any, folder: Path) -> Any:
        """Return the fine-tuned parameters on the host, since devices need not hold those of all arms."""
        config = self.settings.finetuning
        params = finetune(
            self.programs.predict_trainable,
            params,
            self.world.task.loss,
            Mixture(data.original, data.added, config.share),
            data.transform,
            self.programs.finetuning_optimizer,
            self.world.data.validation,
            training=self.world.models.learner.training,
            steps=config.steps,
            images_per_step=config.batch,
            seed=self.seed,
            folder=folder,
            config=self.config,
            select="mean",
            probe_every=max(config.steps // config.checkpoints, 1),
        )
        return jax.device_get(params)

    def evaluate(self, models: Mapping[ModelKey, Any]) -> None:
        """Measure every model, the constant prediction and the critic; write `evaluate.json`."""
        measuring = Measuring(self.measurements)
        if measuring.finished and set(models) <= set(measuring.scores):
            return
        self._measure(models, measuring)
        for by_set in measuring.scores.values():
            add_summaries(by_set, self.world.data.summarised, self.world.task.metrics)
        measuring.finish()

    def _measure(self, models: Mapping[ModelKey, Any], measuring: Measuring) -> None:
        data, config = self.world.data, self.settings.evaluating
        predict = self.world.models.learner.predict
        measure = functools.partial(
            evaluate, metrics=self.world.task.metrics, measured=measuring.scores, save=measuring.save
        )
        all_images = {key: params for key, params in models.items() if key.images is None}
        domains = domain_sets(data.domains)
        plain = {CLEAN: data.test} | domains
        corrupted = corrupted_sets(data.test, config.severities, without=measuring.sets(all_images))
        precomputed = ((test_set, {**data.test, "image": images}) for test_set, images in data.precomputed())
        total = len(plain) + num_corrupted_sets(data.test, config.severities) + data.num_precomputed
        measure(predict, all_images, chain(plain.items(), corrupted, precomputed), total=total)
        few_images = {key: params for key, params in models.items() if key.images is not None}
        if few_images:
            shown = {*self.world.targets, *data.summarised}
            targets = {test_set: batch for test_set, batch in domains.items() if test_set.name in shown}
            measure(predict, few_images, targets.items())
        count = min(config.images, len(data.original))
        real = {ORIGINAL: select(data.original, np.arange(count))}
        constant = {ModelKey(CONSTANT): self.world.task.constant(data.original)}
        measure(predict_constant, constant, (plain | real).items())
        critic = self.world.models.critic
        measure(critic.predict, {ModelKey(CRITIC): critic.params}, real.items())


def optimize_populations(work: Sequence[tuple[Run, PopulationTask]]) -> list[PromptSet]:
    """Optimise populations of the runs of an experiment; return the prompts of each as they end.

    Populations run as one where `Programs.groups` says so.
    """
    ends: dict[int, np.ndarray] = {}
    for group in work[0][0].programs.groups([task for _, task in work]) if work else ():
        ends |= zip(group, optimize_as_one([work[i] for i in group]), strict=True)
    return [task.prompt_set._replace(embeddings=ends[i]) for i, (_, task) in enumerate(work)]


def optimize_as_one(work: Sequence[tuple[Run, PopulationTask]]) -> list[np.ndarray]:
    """Optimise populations that share a program as one; return the ends of each, float32 `[prompts,n,D]`."""
    programs, population = work[0][0].programs, sum(len(task.prompt_set.texts) for _, task in work)
    world, config = programs.world, programs.settings.optimizing
    return optimize_together(
        world.generator.pipe,
        [run.population_run(task, population) for run, task in work],
        images_per_step=config.batch,
        check=world.task.check,
        checkpoint_every=config.checkpoint_every,
        picture_every=config.picture_every or 1,
    )


def example_rows(world: World, prompt_set: PromptSet) -> np.ndarray:
    """Return the numbers of the original images that prompts are shown on.

    They are the first ones of the prompts' subset or, for prompts of all data, of each subset in turn.
    """
    groups = source_groups(world, prompt_set.subset, prompt_set.target)
    enough = [np.resize(rows, EXAMPLES) for rows in groups]
    return np.array([enough[i % len(groups)][i // len(groups)] for i in range(EXAMPLES)])


def predict_constant(value: jax.Array, images: jax.Array) -> jax.Array:
    """Return `value`, a task's constant prediction `[…]`, for each image, `[B,…]`, as a network would."""
    return jnp.broadcast_to(value, (len(images), *value.shape))
