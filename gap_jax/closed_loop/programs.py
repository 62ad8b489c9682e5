"""The compiled programs of an experiment, and the typed values that they are called with.

Every program takes weights and prompts as arguments. It is therefore compiled once for all arms and seeds.
"""

from collections.abc import Callable, Hashable, Sequence
from functools import cached_property, lru_cache
from pathlib import Path
from typing import Any, NamedTuple

import jax
import numpy as np
import optax

from gap_jax import parallel, prompts
from gap_jax.closed_loop.arm_prompts import (
    PopulationSize,
    PromptSet,
    contexts,
    earlier_prompts,
    population_size,
    populations,
    starts,
    text_prompts,
    tokens,
)
from gap_jax.closed_loop.arms import ARMS, Arm
from gap_jax.closed_loop.requirements import check_requirements
from gap_jax.closed_loop.settings import Settings
from gap_jax.closed_loop.terms import ArmTerms
from gap_jax.closed_loop.world import World
from gap_jax.data.batch import Batch
from gap_jax.diffusion.align import Sampling
from gap_jax.diffusion.align import generate as sample
from gap_jax.diffusion.pipeline import Params
from gap_jax.diffusion.sampler import DO_ALL, Economy
from gap_jax.diffusion.schedule import SOLVERS
from gap_jax.models.parameters import freeze
from gap_jax.stages.band import Band
from gap_jax.stages.classifier_tuning import masked_optimizer
from gap_jax.stages.generate import Filter
from gap_jax.stages.guidance import FeatureStatistics, cosine
from gap_jax.stages.joined import groups, shapes
from gap_jax.stages.objective import SetTerm, objective
from gap_jax.stages.optimizers import adamw, amsgrad
from gap_jax.stages.prompt_optimizer import EarlyStop, PromptOptimizer, prompt_optimizer


class GenerationWeights(NamedTuple):
    """The arrays that a generation step reads.

    - `contexts`: float32 `[prompts,L,D]`, the text states of an arm's prompts; `uncond` `[1,L,D]`, those of
      the negative prompt.
    - `subject`: CLIP's projected features `[D]` of what images are to show; it and `clip` are None without
      the CLIP filter.
    """

    pipeline: Params
    contexts: np.ndarray
    uncond: jax.Array | None
    model: Any
    critic: Any
    clip: Params | None = None
    subject: jax.Array | None = None


class PopulationTask(NamedTuple):
    """A population of prompts to optimise: its arm, the model that it is found against, its folder.

    - `prompt_set`: the prompts with the embeddings that they start from.
    - `params`, `against`: as in `Programs.optimizer`.
    - `folder`: holds the folders of the arm's populations.
    """

    arm: Arm
    params: Any
    prompt_set: PromptSet
    folder: Path
    against: str | None = None


class Programs:
    """The programs of a world under some settings; make them once, so that each is compiled once.

    Raises the errors of `check_requirements` and `earlier_prompts` before it loads the generator's weights.
    """

    def __init__(self, settings: Settings, world: World):
        check_requirements(settings, world)
        self.settings, self.world = settings, world
        width = world.generator.pipe.text_encoder.hidden_size
        self._earlier = earlier_prompts(settings.optimizing, width)
        world.generator.load()
        self._terms = ArmTerms(world, settings)

    def initial_prompts(self, arm: Arm, seed: int, owner: str = "gap") -> list[PromptSet]:
        """Return an arm's populations before optimisation; an arm that is not optimised keeps them.

        All arms of a seed begin at the same embeddings. `owner` is that of `tokens`.
        """
        size = population_size(arm, self.settings.optimizing)
        embeddings = self._starts(size, seed, arm.prompts == "random")
        return [
            PromptSet(tokens(owner, target, subset, size.prompts), embeddings, target, subset)
            for target, subset in populations(arm, self.world)
        ]

    @lru_cache  # noqa: B019 (an object lives as long as its experiment)
    def _starts(self, size: PopulationSize, seed: int, random: bool) -> np.ndarray:
        generator, key = self.world.generator, jax.random.fold_in(jax.random.key(seed), 1)
        return starts(
            generator.pipe,
            generator.params,
            self.settings.optimizing,
            self._earlier,
            size,
            key,
            random=random,
        )

    @lru_cache  # noqa: B019 (an object lives as long as its experiment)
    def _shared_optimizer(self, against: str | None, population: int) -> PromptOptimizer:
        """Return the prompt optimiser that arms share; `optimizer` adds an arm's weights.

        `against` is that of `optimizer`, and `population` the number of prompts.
        """
        config, world = self.settings.optimizing, self.world
        layout = parallel.layout(jax.device_count(), config.batch, population)
        generator = world.generator
        return prompt_optimizer(
            generator.pipe,
            generator.params,
            world.models.model if against is None else world.models.others[against],
            [
                term._replace(start=config.adversarial_start) if term.name == "adversarial" else term
                for term in self._terms(ARMS["control"], None)
            ],
            world.task.align(self.settings.sampling.strength),
            adamw(
                config.learning_rate,
                images_per_step=config.batch,
                steps=config.steps,
                decay=config.decay,
                weight_decay=config.weight_decay,
            ),
            placeholders=config.placeholders,
            negative_prompt=world.task.negative_prompt,
            sampling=self._sampling(
                config.denoising_steps,
                self.settings.sampling.guidance_scale,
                Economy(config.backprop_steps, config.shortcut_steps, config.guided_steps),
            ),
            accumulation=num_micro_batches(layout.images_each, config.micro_batch),
            early_stop=None if config.threshold is None else EarlyStop(config.window, config.threshold),
            axis_name="data",
            population_axes=parallel.POPULATION_AXES,
            population=population,
            words=self._words,
        )

    @cached_property
    def _words(self) -> jax.Array | None:
        """The embeddings of real words, if an arm's prompts consist of them."""
        if not any(ARMS[name].words for name in self.settings.arms):
            return None
        generator = self.world.generator
        return prompts.vocabulary(generator.params)[prompts.word_ids(generator.pipe)]

    def optimizer(
        self,
        arm: Arm,
        params: Any,
        target: str | None,
        against: str | None = None,
        population: int | None = None,
    ) -> PromptOptimizer:
        """Return the optimisation of an arm's prompts against the model `params` towards a target.

        `params` are those of the model `against`, one of the others; None: of the model under improvement.
        `population` is the number of prompts that run as one; None: those of the arm and target. A term that
        the arm lacks weighs 0; an arm without the adversarial term never stops early.
        """
        alone = population_size(arm, self.settings.optimizing).prompts
        shared = self._shared_optimizer(against, population or alone)
        terms = objective(self._terms(arm, target))[1]
        weights = shared.weights._replace(model=params, terms=terms, uses_words=np.bool_(arm.words))
        if not arm.adversarial:
            weights = weights._replace(threshold=np.float32(-np.inf))
        return shared._replace(weights=weights)

    def groups(self, tasks: Sequence[PopulationTask]) -> list[list[int]]:
        """Return which populations to optimise as one, as lists of their positions in `tasks`.

        They share the model and the program, and use devices that would otherwise idle. Set terms look at a
        population as a whole, so that each runs alone if there are any.
        """
        config = self.settings.optimizing
        sizes = [len(task.prompt_set.texts) for task in tasks]
        alone = [[i] for i in range(len(tasks))]
        if groups(jax.device_count(), config.batch, sizes) == alone:
            return alone
        kinds: dict[Hashable, list[int]] = {}
        for i, task in enumerate(tasks):
            terms = self._terms(task.arm, task.prompt_set.target)
            if any(isinstance(term, SetTerm) for term in terms):
                return alone
            kind = task.against, id(task.params), shapes(objective(terms)[1])
            kinds.setdefault(kind, []).append(i)
        return [
            [kind[i] for i in group]
            for kind in kinds.values()
            for group in groups(jax.device_count(), config.batch, [sizes[i] for i in kind])
        ]

    @lru_cache  # noqa: B019 (an object lives as long as its experiment)
    def draw(self, sdedit: bool) -> Callable[[GenerationWeights, Batch, jax.Array], jax.Array]:
        """Return `draw(weights, batch, keys) -> images [B,H,W,3]`, the way that training images are drawn.

        `batch` has labels and `prompt`, the number of each image's prompt; `keys` `[B]`. With
        `sdedit`, drawing starts from the batch's images.
        """
        world, config, general = self.world, self.settings.generating, self.settings.sampling
        scale = general.guidance_scale if config.guidance_scale is None else config.guidance_scale
        sampling = self._sampling(config.denoising_steps, scale)
        align = world.task.generation_align or world.task.align
        alignment = align(self.settings.generation_strength(sdedit))

        def draw(weights: GenerationWeights, batch: Batch, keys: jax.Array) -> jax.Array:
            context = weights.contexts[batch["prompt"]]
            return sample(
                world.generator.pipe,
                weights.pipeline,
                context,
                weights.uncond,
                batch,
                keys,
                alignment,
                sampling,
            )

        return draw

    @lru_cache  # noqa: B019 (the same function is compiled only once)
    def generation_step(self, sdedit: bool) -> Callable[..., tuple[jax.Array, dict[str, jax.Array]]]:
        """Return the step of `stages.generate`: images, and what model, critic and CLIP say of each."""
        world, draw = self.world, self.draw(sdedit)
        metric = next(iter(world.task.metrics.values())).per_image

        def step(weights: GenerationWeights, batch: Batch, keys: jax.Array):
            images = draw(weights, batch, keys)
            model_prediction = world.models.model.predict(weights.model, images)
            critic_prediction = world.models.critic.predict(weights.critic, images)
            values = {
                "model_loss": world.task.loss(model_prediction, batch),
                "critic_loss": world.task.loss(critic_prediction, batch),
                "critic_score": metric(critic_prediction, batch),
            }
            if weights.clip is not None and weights.subject is not None:
                features = world.generator.clip.image_features(weights.clip, images, projected=True)
                values["clip_similarity"] = 1 - cosine(features, FeatureStatistics(weights.subject, None))
            return images, values

        return step

    def generation_weights(self, contexts: np.ndarray, model: Any) -> GenerationWeights:
        """Return the weights of a generation step for prompts with these `contexts` `[prompts,L,D]`."""
        world = self.world
        clip = subject = None
        if self.settings.generating.min_clip_similarity is not None:
            clip, subject = world.generator.clip_params, self._subject
        return GenerationWeights(
            pipeline=world.generator.params,
            contexts=contexts,
            uncond=self._uncond,
            model=model,
            critic=world.models.critic.params,
            clip=clip,
            subject=subject,
        )

    def arm_contexts(self, prompt_sets: list[PromptSet]) -> np.ndarray:
        """Return the text states of all prompts of an arm, float32 `[prompts,L,D]`.

        They are repeated up to the number of prompts of the largest arm, so that shapes are equal.
        """
        stacked = np.concatenate([self.contexts(prompt_set) for prompt_set in prompt_sets])
        return np.resize(stacked, (self._largest_arm, *stacked.shape[1:]))

    def contexts(self, prompt_set: PromptSet) -> np.ndarray:
        """Return the text states of prompts as generation uses them, float32 `[prompts,L,D]`."""
        generator, config = self.world.generator, self.settings.generating
        return contexts(generator.pipe, generator.params, prompt_set, config.suffix, config.joiner)

    @cached_property
    def written_lines(self) -> tuple[str, ...]:
        """The prompts of the arm "written": the lines of the given file, or the world's."""
        return self.settings.written_lines() or tuple(self.world.prompts.written)

    @cached_property
    def filters(self) -> tuple[Filter, ...]:
        """The reasons for which generated images are dropped."""
        config, filters = self.settings.generating, []
        if config.max_critic_loss is not None:
            filters.append(Filter("critic_loss", high=config.max_critic_loss))
        if config.min_clip_similarity is not None:
            filters.append(Filter("clip_similarity", low=config.min_clip_similarity))
        return tuple(filters)

    @cached_property
    def band(self) -> Band | None:
        """The band of difficulty in which generated images are kept; None: all are."""
        config = self.settings.generating
        return None if config.difficulty is None else Band("model_loss", *config.difficulty, config.images)

    @cached_property
    def predict_trainable(self) -> Callable[[Any, jax.Array], Any]:
        """The prediction of the fine-tuned model, with gradients of its trainable parameters only."""
        predict, trainable = self.world.models.learner.predict, self.world.models.learner.trainable
        if trainable is None:
            return predict
        return lambda params, images: predict(freeze(params, trainable), images)

    @cached_property
    def finetuning_optimizer(self) -> optax.GradientTransformation:
        """The optimiser of fine-tuning."""
        config = self.settings.finetuning
        rate: optax.ScalarOrSchedule = config.learning_rate
        if config.schedule == "cosine":
            rate = optax.cosine_decay_schedule(config.learning_rate, config.steps)
        rule = amsgrad(rate) if config.optimizer == "amsgrad" else optax.sgd(rate, momentum=0.9)
        rule = optax.chain(optax.add_decayed_weights(config.weight_decay), rule)
        trainable = self.world.models.learner.trainable
        return rule if trainable is None else masked_optimizer(rule, trainable)

    def _sampling(self, steps: int, guidance_scale: float, economy: Economy = DO_ALL) -> Sampling:
        general = self.settings.sampling
        return Sampling(steps, guidance_scale, general.eta, SOLVERS[general.solver], economy)

    @cached_property
    def _largest_arm(self) -> int:
        """The number of prompts of the arm that has most."""
        subsets = tuple(self.world.data.subsets)
        written = sum(len(prompt_set.texts) for prompt_set in text_prompts(self.written_lines, subsets))
        embedded = [
            len(populations(arm, self.world)) * population_size(arm, self.settings.optimizing).prompts
            for arm in map(ARMS.__getitem__, self.settings.arms)
        ]
        return max(written, len(subsets), *embedded)

    @cached_property
    def _uncond(self) -> jax.Array | None:
        """The text states of the negative prompt, `[1,L,D]`; None without guidance."""
        pipe, params = self.world.generator.pipe, self.world.generator.params
        prompt = self.world.task.negative_prompt
        return None if prompt is None else pipe.encode_text(params, pipe.tokenize([prompt]))

    @cached_property
    def _subject(self) -> jax.Array:
        """CLIP's projected features `[D]` of the text that images are compared with."""
        clip, params = self.world.generator.clip, self.world.generator.clip_params
        text = self.settings.generating.subject
        return clip.text_features(params, clip.tokenize([text]), projected=True)[0]


def num_micro_batches(images: int, at_most: int) -> int:
    """Return the smallest number of equal micro-batches of at most `at_most` images each."""
    return next(n for n in range(1, images + 1) if images % n == 0 and images // n <= at_most)
