"""The terms that the prompts of an arm minimise: the model's loss and the distances to a target domain."""

from functools import lru_cache

from gap_jax.closed_loop.arms import ARMS, Arm
from gap_jax.closed_loop.settings import Optimizing, Settings
from gap_jax.closed_loop.world import World
from gap_jax.stages.guidance import Guidance, cosine, image_guidance, l2, text_guidance, textual_inversion
from gap_jax.stages.objective import SetTerm, Term, adversarial
from gap_jax.stages.set_terms import SetLoss, diversity, set_guidance

_TEXT_DISTANCES = {"l2": l2, "cosine": cosine}


def has_texts(world: World) -> bool:
    """Return True if every target domain is also given in words."""
    return bool(world.targets) and all(target.text for target in world.targets.values())


def weights_of(arm: Arm, config: Optimizing) -> dict[str, float]:
    """Return the weight of each possible term of an arm's objective; 0 if the arm does without it."""
    return {
        "adversarial": arm.adversarial,
        "guidance": arm.guidance * config.guidance_weight,
        "set guidance": arm.set_guidance * config.guidance_weight,
        "text guidance": arm.text_guidance * config.text_guidance_weight,
        "textual inversion": arm.guidance * config.inversion_weight,
        "diversity": config.diversity_weight if arm.prompts == "optimized" else 0.0,
    }


class ArmTerms:
    """The objective terms of all arms, whose targets are encoded once.

    Every arm gets the same terms with other weights, so that one compiled program serves all of them.
    """

    def __init__(self, world: World, settings: Settings):
        self._world, self._config = world, settings.optimizing
        self._has_sets = any(ARMS[name].set_guidance for name in settings.arms)

    def __call__(self, arm: Arm, target: str | None) -> list[Term | SetTerm]:
        """Return the terms of an arm for a target domain; None is an arm without one."""
        weights, start = weights_of(arm, self._config), self._config.adversarial_start
        terms: list[Term | SetTerm] = [
            adversarial(self._world.task.adversarial, weights["adversarial"], start)
        ]
        set_losses = self._diversity()
        if self._world.targets:
            name = target or next(iter(self._world.targets))
            guidances = self._guidance_terms(name)
            terms += [Term(name, *guidance, weight=weights[name]) for name, guidance in guidances.items()]
            set_losses |= self._set_guidance(name)
        return terms + [SetTerm(name, *loss, weight=weights[name]) for name, loss in set_losses.items()]

    def _diversity(self) -> dict[str, SetLoss]:
        if not self._config.diversity_weight:
            return {}
        return {"diversity": diversity(self._world.generator.clip, self._world.generator.clip_params)}

    @lru_cache  # noqa: B019 (an object lives as long as its experiment)
    def _set_guidance(self, name: str) -> dict[str, SetLoss]:
        if not self._has_sets:
            return {}
        generator, images = self._world.generator, self._world.targets[name].images
        temperature = self._config.set_temperature
        return {"set guidance": set_guidance(generator.clip, generator.clip_params, images, temperature)}

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
