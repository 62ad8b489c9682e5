"""The terms that the prompts of an arm minimise: the model's loss and the distances to a target domain."""

from functools import lru_cache
from typing import Any

from gap_jax.checks import expect_divisible
from gap_jax.closed_loop.arm_prompts import targets_of
from gap_jax.closed_loop.arms import ARMS, Arm
from gap_jax.closed_loop.settings import Optimizing, Settings
from gap_jax.closed_loop.world import TargetDomain, World
from gap_jax.stages.guidance import (
    FeatureStatistics,
    Guidance,
    cosine,
    cosine_over_positions,
    image_guidance,
    image_statistics,
    l2,
    standardised_l2,
    text_guidance,
    text_statistics,
    textual_inversion,
)
from gap_jax.stages.objective import SetTerm, Term, adversarial
from gap_jax.stages.set_terms import SetLoss, diversity, set_guidance

IMAGE_DISTANCES = {"cosine": cosine, "l2": l2, "standardised-l2": standardised_l2}
_TEXT_DISTANCES = {
    "cosine-over-positions": cosine_over_positions,
    "cosine-over-features": cosine,
    "l2": l2,
    "standardised-l2": standardised_l2,
}


def weights_of(arm: Arm, config: Optimizing) -> dict[str, float]:
    """Return the weight of each possible term of an arm's objective; 0 if the arm does without it."""
    return {
        "adversarial": arm.adversarial,
        "guidance": arm.guidance * config.guidance_weight,
        "set guidance": arm.set_guidance * config.guidance_weight,
        "text guidance": arm.text_guidance * config.text_guidance_weight,
        "textual inversion": arm.inversion * config.inversion_weight,
        "diversity": config.diversity_weight if arm.prompts == "optimized" else 0.0,
    }


def adversarial_start(arm: Arm, config: Optimizing) -> int:
    """Return the first update in which an arm's adversarial loss counts; without guidance, the very first."""
    return config.adversarial_start if arm.guided else 0


class ArmTerms:
    """The objective terms of an experiment's arms, whose targets are encoded once.

    All arms get the same terms, those that any of them needs, with other weights, so that one compiled
    program serves all of them. A term without weight gets some target that has its form.
    """

    def __init__(self, world: World, settings: Settings):
        self._world, self._config = world, settings.optimizing
        self._arms = [ARMS[name] for name in settings.arms]

    def __call__(self, arm: Arm, target: str | None) -> list[Term | SetTerm]:
        """Return the terms of an arm for a target domain; None is an arm without one."""
        weights, start = weights_of(arm, self._config), adversarial_start(arm, self._config)
        terms: list[Term | SetTerm] = [
            adversarial(self._world.task.adversarial, weights["adversarial"], start)
        ]
        for name in ("guidance", "text guidance", "textual inversion"):
            if chosen := self._chosen(name, target):
                terms.append(Term(name, *self._guidance(name, chosen), weight=weights[name]))
        if self._config.diversity_weight:
            terms.append(SetTerm("diversity", *self._diversity(), weight=weights["diversity"]))
        if chosen := self._chosen("set guidance", target):
            terms.append(SetTerm("set guidance", *self._set_guidance(chosen), weight=weights["set guidance"]))
        return terms

    def _chosen(self, term: str, target: str | None) -> str | None:
        """Return `target`, or another that has the form which a term needs; None if no arm has the term."""
        users = [arm for arm in self._arms if weights_of(arm, self._config)[term]]
        if not users:
            return None
        able = targets_of(users[0], self._world)
        return target if target in able else next(iter(able))

    def _diversity(self) -> SetLoss:
        return diversity(self._world.generator.clip, self._world.generator.clip_params)

    @lru_cache  # noqa: B019 (an object lives as long as its experiment)
    def _set_guidance(self, target: str) -> SetLoss:
        generator, images = self._world.generator, self._world.targets[target].pictures
        assert images is not None  # targets_of looked
        temperature = self._config.set_temperature
        return set_guidance(generator.clip, generator.clip_params, images, temperature)

    @lru_cache  # noqa: B019 (an object lives as long as its experiment)
    def _guidance(self, term: str, target: str) -> Guidance:
        return guidance(term, self._world, self._world.targets[target], self._config)


def guidance(term: str, world: World, target: TargetDomain, config: Optimizing) -> Guidance:
    """Return the loss and the parameters of the term with this name, for a target in the form it needs."""
    generator = world.generator
    images: Any = target.images
    if term == "guidance":
        distance = IMAGE_DISTANCES[config.image_distance]
        return image_guidance(generator.clip, generator.clip_params, images, distance)
    if term == "textual inversion":
        return textual_inversion(generator.pipe, generator.params, images)
    texts: Any = [target.text] if isinstance(target.text, str) else target.text
    return text_guidance(generator.pipe, generator.params, texts, _TEXT_DISTANCES[config.text_distance])


def check_target(term: str, world: World, target: TargetDomain, config: Optimizing) -> None:
    """Raise ValueError for a target whose features or images do not fit the generator; load no weights.

    `term` is the name of the term that uses the target.
    """
    if term == "guidance" and isinstance(target.images, FeatureStatistics):
        image_statistics(world.generator.clip, target.images, IMAGE_DISTANCES[config.image_distance])
    if term == "text guidance" and isinstance(target.text, FeatureStatistics):
        text_statistics(world.generator.pipe, target.text, _TEXT_DISTANCES[config.text_distance])
    if term == "textual inversion" and target.pictures is not None:
        expect_divisible("images", target.pictures, world.generator.pipe.downscale)
