"""The closed loop, for any world: optimise prompts, generate with the labels kept, fine-tune, measure.

For each seed and arm, in `work/seed-{seed}/{arm}/{stage}`. What is done is kept: started again, a run goes on
where it was stopped.
"""

import json
from itertools import chain
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from gap_jax import parallel, prompts
from gap_jax.closed_loop.programs import Programs, Prompts
from gap_jax.closed_loop.settings import ARMS, STAGES, Arm
from gap_jax.closed_loop.world import Arrays, Baseline, Network, take
from gap_jax.data.corruptions.common import CORRUPTIONS
from gap_jax.data.corruptions.three_d import CORRUPTIONS_3D
from gap_jax.data.prepared import Prepared
from gap_jax.files import write_whole
from gap_jax.report.results import CONSTANT, WORST
from gap_jax.stages.evaluate import Shift, evaluate, shifts
from gap_jax.stages.finetune import Mixture, finetune
from gap_jax.stages.generate import generate, plan
from gap_jax.stages.optimize import optimize


class Run:
    """All arms of one seed."""

    def __init__(self, programs: Programs, work: Path, seed: int):
        self.programs, self.seed = programs, seed
        self.settings, self.world = programs.settings, programs.world
        self.folder = work / f"seed-{seed}"
        self.config = self.settings.plain() | {"seed": seed}

    def upto(self, stage: str) -> None:
        """Every stage until this one."""
        models: dict[str, Any] = {}
        last = STAGES.index(stage)
        for number, name in enumerate(self.settings.arms, 1):
            if jax.process_index() == 0:
                print(f"seed {self.seed}: {name}, arm {number} of {len(self.settings.arms)}", flush=True)
            params = self.world.model.params
            for iteration in range(self.settings.iterations):
                made = self.prompts(name, params, iteration)
                if last < STAGES.index("generate"):
                    break
                images = self.images(name, made, params, iteration)
                if last < STAGES.index("finetune"):
                    break
                baseline = self.world.baselines.get(name)
                data = Baseline(self.world.original, images) if baseline is None else baseline()
                before = params if self.world.student is None else self.world.learner.params
                params = self.finetune(data, before, self.stage(name, "finetune", iteration))
                models[name] = params
                if images is not None and self.settings.iterations == 1:
                    models |= self.few(name, images)
        if last >= STAGES.index("evaluate"):
            self.evaluate(models)

    def stage(self, name: str, stage: str, iteration: int = 0) -> Path:
        """An arm's folder of a stage."""
        return self.folder / name / (f"iteration-{iteration}" if iteration else "") / stage

    def prompts(self, name: str, params: Any, iteration: int) -> list[Prompts]:
        """The arm's prompts, optimised against the model `params` where they are optimised."""
        config, world, arm = self.settings.optimizing, self.world, ARMS[name]
        if not arm.generates:
            return []
        if arm.fixed:
            return self.programs.written((world.agnostic,))
        if arm.written:
            return self.programs.written(self.config["written"] or world.written)
        keys = jax.random.split(jax.random.fold_in(jax.random.key(self.seed), 1), config.prompts)
        starts = np.stack([self.start(key, drawn=arm.random) for key in keys])
        names = tuple(f"<gap-{i}>" for i in range(config.prompts))
        begun = [Prompts(names, starts, *aim) for aim in self.programs.aims(arm)]
        if arm.random:
            return begun
        folder = self.stage(name if iteration else arm.prompts_of or name, "optimize", iteration)
        return [some._replace(embeddings=self.optimize(arm, params, some, folder)) for some in begun]

    def start(self, key: jax.Array, drawn: bool) -> np.ndarray:
        """Embeddings `[n,D]` that a prompt begins as: its word's, or `drawn` from the vocabulary."""
        config, world = self.settings.optimizing, self.world
        if config.start is None or drawn:
            return prompts.from_vocabulary(world.params, config.placeholders, key)
        return prompts.from_word(world.pipe, world.params, config.start, config.placeholders)

    def optimize(self, arm: Arm, params: Any, some: Prompts, folder: Path) -> np.ndarray:
        """The embeddings that an arm's prompts, begun, end with."""
        config, pool = self.settings.optimizing, self.programs.pool(some.part)

        def load(step: int, rows: slice) -> Arrays:
            random = np.random.default_rng([self.seed, 2, step])
            return take(self.world.original, random.choice(pool, config.batch)[rows])

        return optimize(
            self.world.pipe,
            self.programs.optimizer(arm, params, some.target),
            some.embeddings,
            load,
            images_per_step=config.batch,
            steps=config.steps,
            key=jax.random.fold_in(jax.random.key(self.seed), 3),
            folder=folder / (some.aim or "all"),
            config=self.config,
            check=self.world.task.check,
            checkpoint_every=config.checkpoint_every,
        )

    def images(self, name: str, made: list[Prompts], params: Any, iteration: int) -> Prepared | None:
        """The arm's training set, generated with all its prompts; None if it has none."""
        if not made:
            return None
        config, world = self.settings.generating, self.world
        contexts = np.concatenate([self.programs.contexts(some) for some in made])
        most = self.programs.most_prompts  # one shape, one program for all arms
        padded = np.resize(contexts, (most, *contexts.shape[1:]))
        weights = self.programs.weights | {"contexts": padded, "model": params}
        pools = [self.programs.pool(some.part) for some in made for _ in some.texts]
        names = tuple(f"{some.aim}: {text}" if some.aim else text for some in made for text in some.texts)
        folder = self.stage(name, "generate", iteration)
        generate(
            self.programs.make(ARMS[name].strength),
            weights,
            lambda sources: take(world.original, sources),
            plan(config.images, pools, self.seed),
            images_per_step=config.batch,
            seed=self.seed,
            folder=folder,
            config=self.config,
            prompt_names=names,
            filters=self.programs.filters,
            class_names=world.task.classes,
        )
        return Prepared(folder / "tfds", "train", fields=tuple(world.original[0]))

    def few(self, name: str, images: Prepared) -> dict[str, Any]:
        """The model fine-tuned with fewer of the images, by `{arm}@{how many}`."""
        found = {}
        for count in self.settings.evaluating.efficiency:
            if count < len(images):
                data = Baseline(self.world.original, images.only(np.arange(count)))
                folder = self.stage(name, f"finetune-{count}")
                found[f"{name}@{count}"] = self.finetune(data, self.world.learner.params, folder)
        return found

    def finetune(self, data: Baseline, params: Any, folder: Path) -> Any:
        """The fine-tuned parameters, on the host: devices need not hold those of all arms."""
        config, world = self.settings.finetuning, self.world
        params = finetune(
            self.programs.learn,
            params,
            world.task.loss,
            Mixture(data.original, data.added, config.share),
            data.transform,
            self.programs.finetuner,
            world.validation,
            steps=config.steps,
            images_per_step=config.batch,
            seed=self.seed,
            folder=folder,
            config=self.config,
            select="mean",
            probe_every=max(config.steps // 4, 1),
        )
        return jax.device_get(params)

    def evaluate(self, models: dict[str, Any]) -> None:
        """Measure every model, the constant prediction and the critic; kept in `evaluate.json`."""
        path = self.folder / "evaluate.json"
        if not path.exists():
            found = self.measure(models)
            if jax.process_index() == 0:
                write_whole(path, json.dumps(found, indent=1).encode())
        parallel.barrier(f"evaluated {self.seed}")

    def measure(self, models: dict[str, Any]) -> dict[str, Any]:
        """What `evaluate` keeps."""
        world, config = self.world, self.settings.evaluating
        predict, metrics = world.learner.predict, world.task.metrics
        whole = {name: params for name, params in models.items() if "@" not in name}
        few = {name: params for name, params in models.items() if "@" in name}
        corruptions = len(CORRUPTIONS) + ("depth" in world.test) * len(CORRUPTIONS_3D)
        found = evaluate(
            predict,
            whole,
            chain(
                shifts(world.test, world.domains, config.severities),
                (Shift(name, {**world.test, "image": images}) for name, images in world.corrupted()),
            ),
            metrics,
            total=1 + len(world.domains) + len(config.severities) * corruptions,
        )
        plain = [Shift("clean", world.test), *(Shift(*domain) for domain in world.domains.items())]
        if few:
            shown = {*world.targets, *world.worst_of}
            targets = [shift for shift in plain if shift.name in shown]
            found |= evaluate(predict, few, targets, metrics)
        count = min(config.images, len(world.original))
        real = Shift("original", take(world.original, np.arange(count)))
        constant = Network(_always, world.task.constant(world.original))
        found |= evaluate(constant.predict, {CONSTANT: constant.params}, [*plain, real], metrics)
        for sets in found.values():
            self.add_worst(sets)
        return found | evaluate(world.critic.predict, {"critic": world.critic.params}, [real], metrics)

    def add_worst(self, sets: dict[str, dict[str, float]]) -> None:
        """A model's results on the worst of some domains, as those on one more."""
        if self.world.worst_of and set(self.world.worst_of) <= set(sets):
            sets[WORST] = {
                name: (min if metric.shown.higher_is_better else max)(
                    sets[domain][name] for domain in self.world.worst_of
                )
                for name, metric in self.world.task.metrics.items()
            }


def _always(value: jax.Array, images: jax.Array) -> jax.Array:
    """The same prediction for all images."""
    return jnp.broadcast_to(value, (len(images), *value.shape))
