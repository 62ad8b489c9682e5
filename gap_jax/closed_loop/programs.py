"""What all seeds of a closed loop share: compiled programs, and the arrays that they are called with."""

from functools import cached_property, lru_cache
from typing import Any, NamedTuple

import jax
import numpy as np
import optax

from gap_jax.closed_loop.settings import ARMS, Arm, Settings
from gap_jax.closed_loop.world import World
from gap_jax.diffusion.align import Sampling
from gap_jax.diffusion.align import generate as sample
from gap_jax.guidance import Target, cosine, image_guidance
from gap_jax.loop.generate import Filter
from gap_jax.loop.objective import Term, adversarial, objective
from gap_jax.loop.prompt_optimizer import EarlyStop, Model, PromptOptimizer, adamw, prompt_optimizer


class Prompts(NamedTuple):
    """Some prompts of an arm: texts, or embeddings `[prompts,n,D]` with names; the target they went to."""

    texts: tuple[str, ...]
    embeddings: np.ndarray | None = None
    target: str | None = None


class Programs:
    """The programs of a world under some settings; to be made once, so that each is compiled once."""

    def __init__(self, settings: Settings, world: World):
        self.settings, self.world = settings, world
        guided = [name for name in settings.arms if ARMS[name].guidance]
        if guided and not world.targets:
            raise ValueError(f"the arms {', '.join(guided)} need images of a target domain: there are none")
        devices = jax.device_count()
        for stage in ("optimizing", "generating", "finetuning"):
            batch = getattr(settings, stage).batch
            if batch % devices:
                raise ValueError(f"{stage}.batch must be a multiple of the {devices} devices, found {batch}")

    @property
    def most_prompts(self) -> int:
        """Of any arm."""
        count = self.settings.optimizing.prompts * max(len(self.world.targets), 1)
        return max(count, len(self.settings.plain()["written"] or self.world.written))

    def optimizer(self, arm: Arm, params: Any, target: str | None) -> PromptOptimizer:
        """An arm's: a program of all, with its weights; a part that it does not have weighs 0."""
        terms = objective(self.terms(arm, target))[1]
        weights = self.program.weights._replace(model=params, terms=terms)
        if not arm.adversarial:
            weights = weights._replace(threshold=np.float32(-np.inf))
        return self.program._replace(weights=weights)

    def terms(self, arm: Arm, target: str | None) -> list[Term]:
        """The model's loss and, where there are targets, CLIP's."""
        world = self.world
        found = [adversarial(world.task.adversarial, weight=arm.adversarial)]
        if world.targets:
            images = world.targets[target or next(iter(world.targets))]
            guide = image_guidance(world.clip, world.clip_params, images)
            weight = arm.guidance * self.settings.optimizing.guidance_weight
            found.append(Term("guidance", *guide, weight=weight))
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
            world.task.align(1.0),
            adamw(config.learning_rate, images_per_step=config.batch, weight_decay=config.weight_decay),
            placeholders=config.placeholders,
            negative_prompt=world.task.negative_prompt,
            sampling=Sampling(
                config.denoising_steps, config.guidance_scale, backprop_steps=config.backprop_steps
            ),
            accumulation=parts(config.batch // jax.device_count(), config.at_once),
            early_stop=EarlyStop(config.window, config.threshold),
            axis_name="data",
        )

    @lru_cache  # noqa: B019 (the same function is compiled only once; runs live as long as the program)
    def make(self, strength: float):
        """`make` of `loop.generate`: images, with the losses that the model and the critic have on them."""
        config, world = self.settings, self.world
        sampling = Sampling(config.generating.denoising_steps, config.optimizing.guidance_scale)
        align = world.task.align(strength)
        _, metric = next(iter(world.task.metrics.values()))

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
                losses["clip_similarity"] = 1 - cosine(features, Target(weights["subject"], None))
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
    def adam(self) -> optax.GradientTransformation:
        config = self.settings.finetuning
        return optax.chain(
            optax.add_decayed_weights(config.weight_decay), optax.amsgrad(config.learning_rate)
        )


def parts(count: int, at_once: int) -> int:
    """Into how many equal parts of at most `at_once` a batch of `count` images is split."""
    return next(n for n in range(1, count + 1) if count % n == 0 and count // n <= at_once)
