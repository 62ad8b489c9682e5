"""The terms that the prompts of an arm minimise: the model's loss and the distances to a target domain."""

from functools import lru_cache

from gap_jax.closed_loop.arms import Arm
from gap_jax.closed_loop.settings import Optimizing
from gap_jax.closed_loop.world import World
from gap_jax.stages.guidance import (
    Guidance,
    cosine,
    cosine_over_positions,
    image_guidance,
    l2,
    standardised_l2,
    text_guidance,
    textual_inversion,
)
from gap_jax.stages.objective import Term, adversarial

_TEXT_DISTANCES = {
    "cosine-over-positions": cosine_over_positions,
    "cosine-over-features": cosine,
    "l2": l2,
    "standardised-l2": standardised_l2,
}


def has_texts(world: World) -> bool:
    """Return True if every target domain is also given in words."""
    return bool(world.targets) and all(target.text for target in world.targets.values())


def weights_of(arm: Arm, config: Optimizing) -> dict[str, float]:
    """Return the weight of each possible term of an arm's objective; 0 if the arm does without it."""
    return {
        "adversarial": arm.adversarial,
        "guidance": arm.guidance * config.guidance_weight,
        "text guidance": arm.text_guidance * config.text_guidance_weight,
        "textual inversion": arm.guidance * config.inversion_weight,
    }


class ArmTerms:
    """The objective terms of all arms, whose targets are encoded once.

    Every arm gets the same terms with other weights, so that one compiled program serves all of them.
    """

    def __init__(self, world: World, config: Optimizing):
        self._world, self._config = world, config

    def __call__(self, arm: Arm, target: str | None) -> list[Term]:
        """Return the terms of an arm for a target domain; None is an arm without one."""
        weights, start = weights_of(arm, self._config), self._config.adversarial_start
        terms = [adversarial(self._world.task.adversarial, weights["adversarial"], start)]
        if self._world.targets:
            guidances = self._guidance_terms(target or next(iter(self._world.targets)))
            terms += [Term(name, *guidance, weight=weights[name]) for name, guidance in guidances.items()]
        return terms

    @lru_cache  # noqa: B019 (an object lives as long as its experiment)
    def _guidance_terms(self, name: str) -> dict[str, Guidance]:
        generator, target = self._world.generator, self._world.targets[name]
        guidances = {"guidance": image_guidance(generator.clip, generator.clip_params, target.images)}
        if has_texts(self._world):
            distance = _TEXT_DISTANCES[self._config.text_distance]
            guidances["text guidance"] = text_guidance(
                generator.pipe, generator.params, [target.text or ""], distance
            )
        if self._config.inversion_weight:
            guidances["textual inversion"] = textual_inversion(
                generator.pipe, generator.params, target.images
            )
        return guidances
