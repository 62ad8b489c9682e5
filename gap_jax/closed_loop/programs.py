"""What all seeds of a closed loop share: compiled programs, and the arrays that they are called with."""

from collections.abc import Callable, Sequence
from functools import cached_property, lru_cache
from typing import Any, NamedTuple

import jax
import numpy as np
import optax

from gap_jax.closed_loop.settings import ARMS, BASELINES, Arm, Settings
from gap_jax.closed_loop.world import TargetDomain, World
from gap_jax.diffusion.align import Sampling
from gap_jax.diffusion.align import generate as sample
from gap_jax.stages.classifier_tuning import fine_tuning, freeze
from gap_jax.stages.generate import Filter
from gap_jax.stages.guidance import FeatureStatistics, Guidance, cosine, image_guidance, l2, text_guidance
from gap_jax.stages.objective import Term, adversarial, objective
from gap_jax.stages.prompt_optimizer import EarlyStop, Model, PromptOptimizer, adamw, prompt_optimizer


class Prompts(NamedTuple):
    """Some prompts of an arm: texts, or embeddings `[prompts,n,D]` with names.

    The target they went to, and the part of the original examples that they are for.
    """

    texts: tuple[str, ...]
    embeddings: np.ndarray | None = None
    target: str | None = None
    part: str | None = None

    @property
    def aim(self) -> str:
        """TargetDomain and part in a word or two, or nothing."""
        return ", ".join(filter(None, (self.target, self.part)))


class Programs:
    """The programs of a world under some settings; to be made once, so that each is compiled once."""

    def __init__(self, settings: Settings, world: World):
        self.settings, self.world = settings, world
        arms = {name: ARMS[name] for name in settings.arms}
        guided = [name for name, arm in arms.items() if arm.guided]
        if guided and not world.targets:
            raise ValueError(f"the arms {', '.join(guided)} need images of a target domain: there are none")
        by_text = [name for name, arm in arms.items() if arm.text_guidance]
        if by_text and not self.has_texts:
            raise ValueError(f"the arms {', '.join(by_text)} need texts of all target domains")
        lacking = [name for name in arms if name in BASELINES and name not in world.baselines]
        if lacking:
            raise ValueError(f"this experiment has no arm {', '.join(lacking)}")
        if world.student is not None and settings.iterations > 1:
            raise ValueError("a student cannot be iterated on: prompts are optimised against the model")
        devices = jax.device_count()
        for stage in ("optimizing", "generating", "finetuning"):
            batch = getattr(settings, stage).batch
            if batch % devices:
                raise ValueError(f"{stage}.batch must be a multiple of the {devices} devices, found {batch}")

    @property
    def has_texts(self) -> bool:
        """Whether targets are given in words, too."""
        return bool(self.world.targets) and all(target.text for target in self.world.targets.values())

    def written(self, lines: Sequence[str]) -> list[Prompts]:
        """Prompts of texts, those with `{part}` for each part."""
        whole = tuple(line for line in lines if "{part}" not in line)
        found = [Prompts(whole)] if whole else []
        lines = [line for line in lines if "{part}" in line]
        if lines and not self.world.parts:
            raise ValueError(f"the prompt {lines[0]!r} is for parts of the data, and there are none")
        for part in self.world.parts if lines else ():
            found.append(Prompts(tuple(line.format(part=part) for line in lines), part=part))
        return found

    def aims(self, arm: Arm) -> list[tuple[str | None, str | None]]:
        """TargetDomain and part, or None, of each population of prompts that an arm optimises or draws."""
        parts = tuple(self.world.parts) if self.world.apart else (None,)
        targets = self.world.targets if arm.guided else {None: TargetDomain(np.empty(0))}
        return [
            (name, part)
            for name, target in targets.items()
            for part in ((target.part,) if target.part else parts)
        ]

    @cached_property
    def most_prompts(self) -> int:
        """Of any arm."""
        texts = self.written(self.settings.plain()["written"] or self.world.written)
        counts = [sum(len(some.texts) for some in texts), len(self.world.parts)]
        counts += [
            len(self.aims(ARMS[name])) * self.settings.optimizing.prompts for name in self.settings.arms
        ]
        return max(counts)

    def pool(self, part: str | None) -> np.ndarray:
        """Numbers of a part's original examples, or of all parts', or, without any, of all."""
        parts = self.world.parts
        if part is not None:
            return parts[part]
        return np.concatenate(list(parts.values())) if parts else np.arange(len(self.world.original))

    def optimizer(self, arm: Arm, params: Any, target: str | None) -> PromptOptimizer:
        """An arm's: a program of all, with its weights; a part that it does not have weighs 0."""
        terms = objective(self.terms(arm, target))[1]
        weights = self.program.weights._replace(model=params, terms=terms)
        if not arm.adversarial:
            weights = weights._replace(threshold=np.float32(-np.inf))
        return self.program._replace(weights=weights)

    def terms(self, arm: Arm, target: str | None) -> list[Term]:
        """The model's loss and, where there are targets, the distances to them."""
        world, config = self.world, self.settings.optimizing
        found = [adversarial(world.task.adversarial, arm.adversarial, config.adversarial_start)]
        if world.targets:
            weights = {
                "guidance": arm.guidance * config.guidance_weight,
                "text guidance": arm.text_guidance * config.text_guidance_weight,
            }
            guides = self.guides(target or next(iter(world.targets)))
            found += [Term(name, *guide, weight=weights[name]) for name, guide in guides.items()]
        return found

    @lru_cache  # noqa: B019 (as `make`)
    def guides(self, target: str) -> dict[str, Guidance]:
        """The distances to a target, whose pictures and text are encoded once for all arms."""
        world, aim = self.world, self.world.targets[target]
        found = {"guidance": image_guidance(world.clip, world.clip_params, aim.images)}
        if self.has_texts:
            distance = {"l2": l2, "cosine": cosine}[self.settings.optimizing.text_distance]
            found["text guidance"] = text_guidance(world.pipe, world.params, [aim.text], distance)
        return found

    @cached_property
    def program(self) -> PromptOptimizer:
        """The optimisation of all arms' prompts."""
        config, world = self.settings.optimizing, self.world
        return prompt_optimizer(
            world.pipe,
            world.params,
            Model(world.model.predict, world.model.params),
            self.terms(Arm(), None),
            world.task.align(config.strength),
            adamw(
                config.learning_rate,
                images_per_step=config.batch,
                steps=config.steps,
                decay=config.decay,
                weight_decay=config.weight_decay,
            ),
            placeholders=config.placeholders,
            negative_prompt=world.task.negative_prompt,
            sampling=self.sampling(config.denoising_steps, config.backprop_steps),
            accumulation=parts(config.batch // jax.device_count(), config.at_once),
            early_stop=None if config.threshold is None else EarlyStop(config.window, config.threshold),
            axis_name="data",
        )

    def sampling(self, steps: int, backprop_steps: int | None = None) -> Sampling:
        """How images are sampled in so many steps."""
        config = self.settings.optimizing
        return Sampling(steps, config.guidance_scale, config.eta, backprop_steps=backprop_steps)

    @lru_cache  # noqa: B019 (the same function is compiled only once; runs live as long as the program)
    def make(self, strength: float):
        """`make` of `loop.generate`: images, with the losses that the model and the critic have on them."""
        config, world = self.settings, self.world
        sampling = self.sampling(config.generating.denoising_steps)
        align = world.task.align(min(strength, config.optimizing.strength))
        metric = next(iter(world.task.metrics.values())).each

        def make(weights, batch, keys):
            context = weights["contexts"][batch["prompt"]]
            images = sample(
                world.pipe, weights["pipeline"], context, weights["uncond"], batch, keys, align, sampling
            )
            judges = {"model": world.model.predict, "critic": world.critic.predict}
            guesses = {name: predict(weights[name], images) for name, predict in judges.items()}
            losses = {f"{name}_loss": world.task.loss(guess, batch) for name, guess in guesses.items()}
            losses["critic_score"] = metric(guesses["critic"], batch)
            if "subject" in weights:
                features = world.clip.image_features(weights["clip"], images, projected=True)
                losses["clip_similarity"] = 1 - cosine(features, FeatureStatistics(weights["subject"], None))
            return images, losses

        return make

    @cached_property
    def filters(self) -> tuple[Filter, ...]:
        """What generated images are dropped for."""
        config, found = self.settings.generating, []
        if config.max_critic_loss is not None:
            found.append(Filter("critic_loss", high=config.max_critic_loss))
        if config.min_clip_similarity is not None:
            found.append(Filter("clip_similarity", low=config.min_clip_similarity))
        return tuple(found)

    @cached_property
    def weights(self) -> dict[str, Any]:
        """What `make` is called with, but for `contexts` of prompts and the `model`."""
        world = self.world
        found = {"pipeline": world.params, "critic": world.critic.params, "uncond": self.uncond}
        if self.settings.generating.min_clip_similarity is not None:
            found |= {"clip": world.clip_params, "subject": self.subject}
        return found

    @cached_property
    def subject(self) -> jax.Array:
        """CLIP's projected features `[D]` of what images are to show."""
        world, text = self.world, self.settings.generating.subject
        return world.clip.text_features(world.clip_params, world.clip.tokenize([text]), projected=True)[0]

    @cached_property
    def uncond(self) -> jax.Array:
        """Text states of the negative prompt."""
        return self.world.pipe.encode_text(
            self.world.params, self.world.pipe.tokenize([self.world.task.negative_prompt])
        )

    def contexts(self, some: Prompts) -> np.ndarray:
        """Text states of prompts, `[prompts,L,D]`."""
        pipe, params = self.world.pipe, self.world.params
        if some.embeddings is None:
            return np.asarray(pipe.encode_text(params, pipe.tokenize(list(some.texts))))
        count = some.embeddings.shape[1]
        text = ",".join(f"<{i}>" for i in range(count)) + self.settings.generating.suffix
        ids = pipe.tokenize([text], count)
        return np.concatenate([pipe.encode_text(params, ids, embeddings) for embeddings in some.embeddings])

    @cached_property
    def learn(self) -> Callable[[Any, jax.Array], Any]:
        """`predict` of what is fine-tuned, with gradients of the parameters alone that may change."""
        learner = self.world.learner
        if learner.trained is None:
            return learner.predict
        return lambda params, images: learner.predict(freeze(params, learner.trained), images)

    @cached_property
    def finetuner(self) -> optax.GradientTransformation:
        """The optimiser of fine-tuning."""
        config = self.settings.finetuning
        rate = config.learning_rate
        if config.schedule == "cosine":
            rate = optax.cosine_decay_schedule(rate, config.steps)
        rule = optax.amsgrad(rate) if config.optimizer == "amsgrad" else optax.sgd(rate, momentum=0.9)
        rule = optax.chain(optax.add_decayed_weights(config.weight_decay), rule)
        trained = self.world.learner.trained
        return rule if trained is None else fine_tuning(rule, trained)


def parts(count: int, at_once: int) -> int:
    """Into how many equal parts of at most `at_once` a batch of `count` images is split."""
    return next(n for n in range(1, count + 1) if count % n == 0 and count // n <= at_once)
