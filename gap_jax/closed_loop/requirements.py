"""The requirements that settings make of a world, checked before anything is computed."""

from gap_jax.closed_loop.arm_prompts import (
    RANDOM_WORDS,
    populations,
    prompts_owner,
    source_groups,
    targets_of,
    text_prompts,
    tokens,
)
from gap_jax.closed_loop.arms import ARMS, Arm, adversarial_arm
from gap_jax.closed_loop.settings import Optimizing, Settings
from gap_jax.closed_loop.terms import check_target, weights_of
from gap_jax.closed_loop.world import World
from gap_jax.data.generated import check_class_names
from gap_jax.data.loader import stack
from gap_jax.data.resized import Resized
from gap_jax.diffusion.align import Sampling, check_alignment
from gap_jax.diffusion.schedule import SOLVERS
from gap_jax.models.layers import Layer
from gap_jax.prompts import word_id
from gap_jax.ranges import FILE_NAME
from gap_jax.weights.component import parameter_shapes


def check_requirements(settings: Settings, world: World) -> None:
    """Raise ValueError for arms or sizes that this world cannot serve, and for labels that make no sense.

    Of Stable Diffusion and CLIP, the configurations are read, last of all. Their weights, which may take
    minutes to load, are not.
    """
    arms = {name: ARMS[name] for name in settings.arms}
    _check_names(world)
    _check_labels(world)
    _check_tokens(settings, world)
    _check_prompts(settings, world)
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
    world.task.align(settings.sampling.strength)  # raises for a strength that keeps no label
    size = _generated_size(settings.sampling.size, world)
    _check_size(size, world)
    _check_alignments(settings, world)
    _check_words(settings.optimizing, world)
    for arm in arms.values():
        _check_fit(arm, settings.optimizing, world)


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


def _check_prompts(settings: Settings, world: World) -> None:
    """Raise ValueError for prompts that lack subsets, or images to be optimised on."""
    kinds = {ARMS[name].prompts for name in settings.arms}
    if "agnostic" in kinds:
        text_prompts((world.prompts.agnostic,), tuple(world.data.subsets))
    if "written" in kinds:
        text_prompts(settings.written_lines() or world.prompts.written, tuple(world.data.subsets))
    for arm in map(ARMS.__getitem__, settings.arms):
        if arm.prompts == "optimized":
            for target, subset in populations(arm, world):
                source_groups(world, subset, target)


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
            if term == "guidance":
                kind, single = "image", target.pictures is not None and len(target.pictures) == 1
            else:
                kind, single = "text", isinstance(target.text, str) or len(target.text or ()) == 1
            if single and getattr(config, f"{kind}_distance") == "standardised-l2":
                raise ValueError(
                    f"target domain {target_name} has one {kind}, and standardised-l2 needs a deviation: "
                    f"give two or more, or choose another {kind}-distance"
                )


def _generated_size(size: int | None, world: World) -> tuple[int, int]:
    """Return the height and width of generated images; None: those of the original ones.

    Raises ValueError if the original images are not square or smaller than `size` pixels.
    """
    height, width = world.data.original[0]["image"].shape[:2]
    if size is None:
        return height, width
    if height != width or height < size:
        raise ValueError(
            f"images are generated at {size}x{size} pixels (sampling.size), but the original images have "
            f"{width}x{height}: prepare the data at {size} pixels or more, or set sampling.size to what "
            "they have"
        )
    return size, size


def _check_size(size: tuple[int, int], world: World) -> None:
    """Raise ValueError if the generator's VAE cannot draw images of this height and width."""
    height, width = size
    downscale = world.generator.pipe.downscale
    if height % downscale or width % downscale:
        raise ValueError(
            f"generated images must have sides that are multiples of {downscale}, the factor of the VAE; "
            f"found {width}x{height}: set sampling.size"
        )


def _check_alignments(settings: Settings, world: World) -> None:
    """Raise ValueError if images cannot be generated from the original ones as the task aligns them."""
    pipe, general, task = world.generator.pipe, settings.sampling, world.task
    parts: dict[str, Layer] = {"text_encoder": pipe.text_encoder, "vae": pipe.vae, "unet": pipe.unet}
    params = {name: parameter_shapes(module) for name, module in parts.items()}
    original = world.data.original if general.size is None else Resized(world.data.original, general.size)
    batch = stack([original[0]])
    generation_align = task.generation_align or task.align
    alignments = [(settings.optimizing.denoising_steps, task.align(general.strength))]
    for strength in sorted({settings.generation_strength(ARMS[name].sdedit) for name in settings.arms}):
        alignments.append((settings.generating.denoising_steps, generation_align(strength)))
    for steps, alignment in alignments:
        sampling = Sampling(steps, general.guidance_scale, general.eta, SOLVERS[general.solver])
        try:
            check_alignment(pipe, params, batch, alignment, sampling)
        except ValueError as error:
            raise ValueError(f"images cannot be generated from the original ones: {error}") from error


def _check_words(config: Optimizing, world: World) -> None:
    """Raise ValueError if prompts are to start from a word that the vocabulary does not have."""
    if config.start not in (None, RANDOM_WORDS):
        word_id(world.generator.pipe, config.start)


def _check_fit(arm: Arm, config: Optimizing, world: World) -> None:
    """Raise ValueError if an arm's targets do not fit the generator."""
    for term in filter(weights_of(arm, config).get, ("guidance", "text guidance", "textual inversion")):
        for name, target in targets_of(arm, world).items():
            try:
                check_target(term, world, target, config)
            except ValueError as error:
                raise ValueError(f"target domain {name}: {error}") from error
