"""The requirements that settings make of a world, checked before anything is computed."""

import jax

from gap_jax.closed_loop.arms import ARMS
from gap_jax.closed_loop.settings import Settings
from gap_jax.closed_loop.terms import has_texts
from gap_jax.closed_loop.world import World


def check_requirements(settings: Settings, world: World) -> None:
    """Raise ValueError for arms or batches that this world or these devices cannot serve."""
    arms = {name: ARMS[name] for name in settings.arms}
    guided = [name for name, arm in arms.items() if arm.guided]
    if guided and not world.targets:
        raise ValueError(
            f"the arms {', '.join(guided)} need images of a target domain, but the world has none: add one "
            "to `targets`, or leave these arms out"
        )
    guided_by_text = [name for name, arm in arms.items() if arm.text_guidance]
    if guided_by_text and not has_texts(world):
        raise ValueError(
            f"the arms {', '.join(guided_by_text)} need a text for every target domain, but not all have "
            "one: give each target domain a text, or leave these arms out"
        )
    missing = [name for name, arm in arms.items() if arm.baseline and name not in world.baselines]
    if missing:
        raise ValueError(f"this experiment has no arm {', '.join(missing)}: leave it out of arms")
    if world.models.student is not None and settings.iterations > 1:
        raise ValueError(
            "a student cannot be combined with several iterations: prompts are optimised against the model, "
            "which is not the one that is fine-tuned; set iterations to 1, or leave the student out"
        )
    _check_size(settings.sampling.size, world)
    devices = jax.device_count()
    for stage in ("optimizing", "generating", "finetuning"):
        batch = getattr(settings, stage).batch
        if batch % devices:
            raise ValueError(f"{stage}.batch must be a multiple of the {devices} devices; found {batch}")


def _check_size(size: int | None, world: World) -> None:
    """Raise ValueError if images cannot be generated at `size` pixels from the original ones."""
    if size is None:
        return
    height, width = world.data.original[0]["image"].shape[:2]
    downscale = world.generator.pipe.downscale
    if size % downscale:
        raise ValueError(
            f"sampling.size must be a multiple of {downscale}, the factor of the VAE; found {size}"
        )
    if height != width or height < size:
        raise ValueError(
            f"images are generated at {size}x{size} pixels (sampling.size), but the original images have "
            f"{width}x{height}: prepare the data with --size {size} or more, or set sampling.size to what "
            "they have"
        )
