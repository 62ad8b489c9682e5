"""The requirements that settings make of a world, checked before anything is computed."""

from gap_jax.closed_loop.arm_prompts import populations, prompts_owner, targets_of, tokens
from gap_jax.closed_loop.arms import ARMS, Arm, adversarial_arm
from gap_jax.closed_loop.settings import Optimizing, Settings
from gap_jax.closed_loop.terms import guidance, weights_of
from gap_jax.closed_loop.world import World
from gap_jax.data.generated import check_class_names
from gap_jax.data.loader import stack
from gap_jax.ranges import FILE_NAME
from gap_jax.stages.guidance import FeatureStatistics


def check_requirements(settings: Settings, world: World) -> None:
    """Raise ValueError for arms or sizes that this world cannot serve, and for labels that make no sense."""
    arms = {name: ARMS[name] for name in settings.arms}
    _check_names(world)
    _check_labels(world)
    _check_tokens(settings, world)
    for name, arm in arms.items():
        if arm.guided:
            _check_targets(name, arm, settings.optimizing, world)
    missing = [name for name, arm in arms.items() if arm.baseline and name not in world.baselines]
    if missing:
        raise ValueError(f"this experiment has no arm {', '.join(missing)}: leave it out of arms")
    if world.models.student is not None and settings.iterations > 1:
        raise ValueError(
            "a student cannot be combined with several iterations: prompts are optimised against the model, "
            "which is not the one that is fine-tuned; set iterations to 1, or leave the student out"
        )
    if world.models.others:
        adversarial_arm(settings.arms)  # raises if there is none
    _check_size(settings.sampling.size, world)


def _check_names(world: World) -> None:
    """Raise ValueError for a name that no file or folder can have, because files are named after it."""
    classes = world.task.classes or ()
    for kind, names in (
        ("target domain", world.targets),
        ("subset", world.data.subsets),
        ("class", classes),
        ("model", world.models.others),
    ):
        for name in names:
            if not FILE_NAME.holds(name):
                raise ValueError(f"the {kind} {name!r} must be renamed: its name must be {FILE_NAME.text}")
    check_class_names(classes, world.data.original[0])


def _check_labels(world: World) -> None:
    """Raise ValueError naming the data set whose labels do not fit the task.

    Of the training examples, the first one is looked at; the stages check the others as they use them.
    """
    data = world.data
    sets = {"the training set": stack([data.original[0]]), "the test set": data.test}
    sets |= {f"the validation set {name}": batch for name, batch in data.validation.items()}
    sets |= {f"the test set {name}": batch for name, batch in data.domains.items()}
    for name, batch in sets.items():
        try:
            world.task.check(batch)
        except ValueError as error:
            raise ValueError(f"{name}: {error}") from error


def _check_tokens(settings: Settings, world: World) -> None:
    """Raise ValueError if the prompts of two populations would have the same tokens."""
    populations_by_token: dict[str, tuple[str | None, str | None]] = {}
    for name in settings.arms:
        arm = ARMS[name]
        if arm.prompts not in ("random", "optimized") or arm.prompts_of in settings.arms:
            continue
        for population in populations(arm, world):
            (token,) = tokens(prompts_owner(name, 0), *population, 1)
            if token in populations_by_token:
                shown = (", ".join(filter(None, each)) for each in (populations_by_token[token], population))
                raise ValueError(
                    f"the prompts of {' and of '.join(shown)} would have the same token {token}: rename a "
                    "target domain or a subset"
                )
            populations_by_token[token] = population


def _check_targets(name: str, arm: Arm, config: Optimizing, world: World) -> None:
    """Raise ValueError if a guided arm has no target in the form it needs, or one that does not fit."""
    able = targets_of(arm, world)
    if not able:
        need = "as a text or as text states" if arm.text_guidance else "as images"
        need += " or as features of images" if arm.guidance else ""
        found = ", ".join(f"{other} ({target.form})" for other, target in world.targets.items()) or "none"
        raise ValueError(
            f"the arm {name} needs a target domain given {need}; found {found}: give one with "
            "the option `targets` or in `World.targets`, or leave the arm out"
        )
    weights = weights_of(arm, config)
    for term in filter(weights.get, ("guidance", "text guidance")):
        for target_name, target in able.items():
            given = target.text if term == "text guidance" else target.images
            try:
                if isinstance(given, FeatureStatistics):
                    guidance(term, world, target, config)  # raises for features of another network
            except ValueError as error:
                raise ValueError(f"target domain {target_name}: {error}") from error
            if term == "guidance":
                kind, single = "image", target.pictures is not None and len(target.pictures) == 1
            else:
                kind, single = "text", isinstance(target.text, str) or len(target.text or ()) == 1
            if single and getattr(config, f"{kind}_distance") == "standardised-l2":
                raise ValueError(
                    f"target domain {target_name} has one {kind}, and standardised-l2 needs a deviation: "
                    f"give two or more, or choose another {kind}-distance"
                )


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
