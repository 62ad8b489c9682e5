"""Ranges of settings: every field of every command refuses what makes no sense, by name, range and value."""

import dataclasses
import math
import types
import typing
from typing import Annotated, get_args, get_origin

import pytest

from gap_jax.adapt import Adapt
from gap_jax.closed_loop.command import parse, shortened
from gap_jax.closed_loop.settings import Finetuning, Settings
from gap_jax.data.__main__ import main as data_command
from gap_jax.experiments.depth.__main__ import EXPERIMENT as DEPTH
from gap_jax.experiments.iwildcam.__main__ import EXPERIMENT as IWILDCAM
from gap_jax.experiments.own.__main__ import experiment as own
from gap_jax.experiments.segmentation.__main__ import EXPERIMENT as SEGMENTATION
from gap_jax.experiments.waterbirds.__main__ import EXPERIMENT as WATERBIRDS
from gap_jax.planning.__main__ import PlanOptions
from gap_jax.ranges import check_ranges, is_file_name
from gap_jax.small_worlds.pretrain.__main__ import parse as parse_recipe
from gap_jax.small_worlds.pretrain.recipes import RECIPES

EXPERIMENTS = (DEPTH, SEGMENTATION, WATERBIRDS, IWILDCAM, own([]))
PRESETS = [preset for experiment in EXPERIMENTS for preset in experiment.presets.values()]
WORLDS = list({type(preset.world): preset.world for preset in PRESETS}.values())
SETTINGS = [
    Settings(),
    *WORLDS,
    Adapt(model="small", images="images"),
    PlanOptions(),
    *(recipe() for recipe in RECIPES.values()),
]
MALFORMED = {  # by type: values that no setting has
    int: (-1, 1.5, True),
    float: (math.nan, math.inf, -math.inf, "1"),
    str: ("\n", "\0", 1),
    bool: ("no", 1),
}


def malformed(kind):
    """Yield values that a field of this type must refuse, whatever it is for."""
    origin, parts = get_origin(kind), get_args(kind)
    if origin is Annotated:
        yield from malformed(parts[0])
    elif origin in (typing.Union, types.UnionType):
        for part in parts:
            yield from malformed(part)
    elif origin is tuple and parts[1:] == (...,):
        yield from ((value,) for value in malformed(parts[0]))
        yield (well_formed(parts[0]),) * 2
    elif origin is tuple:
        yield from ((value,) * len(parts) for value in malformed(parts[0]))
    elif origin is dict:
        yield from ({name: "x"} for name in ("", "../x", "/x", "a\0", "con"))
    elif origin is typing.Literal:
        yield "nothing of this name"
    else:
        yield from MALFORMED.get(kind, ())


def well_formed(kind):
    if get_origin(kind) is Annotated:
        return well_formed(get_args(kind)[0])
    return get_args(kind)[0] if get_origin(kind) is typing.Literal else kind("1")


def fields(settings, path=()):
    """Yield the path and the type of every field, also of the dataclasses in it."""
    hints = typing.get_type_hints(type(settings), include_extras=True)
    for field in dataclasses.fields(settings):
        value = getattr(settings, field.name)
        if dataclasses.is_dataclass(value):
            yield from fields(value, (*path, field.name))
        else:
            yield (*path, field.name), hints[field.name]


def changed(settings, path, value):
    name, *rest = path
    inner = changed(getattr(settings, name), rest, value) if rest else value
    return dataclasses.replace(settings, **{name: inner})


@pytest.mark.parametrize("settings", SETTINGS, ids=lambda settings: type(settings).__name__)
def test_every_field_refuses_what_makes_no_sense(settings):
    check_ranges(settings)
    tried = 0
    for path, kind in fields(settings):
        for value in malformed(kind):
            with pytest.raises(ValueError, match=r" must be .+; found .+") as refused:
                check_ranges(changed(settings, path, value))
            name, message = ".".join(path), str(refused.value)
            assert message.startswith(f"{name} must be ") and len(message) < 500
            shown = value[0] if isinstance(value, tuple) else next(iter(value), "") if kind is dict else value
            assert str(shown) in message or repr(shown) in message or isinstance(value, dict)
            tried += 1
    assert tried > 10


def test_presets_and_their_short_versions_are_within_the_ranges():
    for settings, world in PRESETS:
        check_ranges(world)
        shortened(settings)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ("--optimizing.batch 0", "optimizing.batch must be 1 or more; found 0"),
        ("--optimizing.checkpoint-every 0", "optimizing.checkpoint_every must be 1 or more; found 0"),
        ("--optimizing.prompts -1", "optimizing.prompts must be 1 or more; found -1"),
        ("--optimizing.learning-rate nan", "optimizing.learning_rate must be above 0; found nan"),
        ("--optimizing.unguided-steps 0", "optimizing.unguided_steps must be 1 or more; found 0"),
        ("--finetuning.share 2", "finetuning.share must be 0 or more and below 1; found 2.0"),
        ("--generating.images 0", "generating.images must be 1 or more; found 0"),
        ("--generating.difficulty 0.8 0.2", "the first below the second; found 0.8 0.2"),
        ("--sampling.strength 0", "sampling.strength must be above 0 and at most 1; found 0"),
        ("--arms control control", "arms must be different values; found control control"),
        ("--arms", "arms must be one or more values; found none"),
        ("--evaluating.severities 1 1", "evaluating.severities must be different values; found 1 1"),
        ("--evaluating.severities 6", "evaluating.severities must be between 1 and 5; found 6"),
        ("--profile -1", "profile must be 0 or more; found -1"),
        ("--seeds 4294967296", "seeds must be between 0 and 4294967295; found 4294967296"),
        ("--world.original 0", "world.original must be 1 or more; found 0"),
        ("--world.targets ../a b", "world.targets must be the name of a file or folder"),
        ("--optimizing.threshold 0.3", "optimizing.threshold must be below 0, as the adversarial loss"),
    ],
)
def test_a_command_line_is_refused_before_anything_runs(capsys, arguments, message):
    with pytest.raises((SystemExit, ValueError)) as refused:
        parse(DEPTH, arguments.split())
    printed = capsys.readouterr().err.replace("│", " ")
    assert message in " ".join(f"{refused.value} {printed}".split())


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ("check folder --root . --sample -1", "sample must be 0 or more; found -1"),
        ("check folder --root . --size 0", "size must be 1 or more; found 0"),
        ("prepare folder --root . --data-dir . --size 0", "size must be 1 or more; found 0"),
        (
            "prepare folder --root . --data-dir . --tolerance nan",
            "tolerance must be between 0 and 1; found nan",
        ),
        (
            "masks --boxes . --images . --masks . --tolerance 2",
            "tolerance must be between 0 and 1; found 2.0",
        ),
        ("export --data . --target . --format coco --images-per-shard 0", "shard must be 1 or more; found 0"),
    ],
)
def test_the_commands_of_data_refuse_it_too(arguments, message):
    with pytest.raises(SystemExit, match=f"^error: .*{message}$"):
        data_command(arguments.split())


def test_a_threshold_has_the_sign_of_the_loss_that_a_world_minimises():
    def threshold(experiment, *arguments):
        return parse(experiment, ["--optimizing.threshold", *arguments]).settings.optimizing.threshold

    assert threshold(DEPTH, "-0.1") == -0.1 and threshold(WATERBIRDS, "0.1") == 0.1
    cross_entropy = ("--world.adversarial", "cross-entropy")
    assert threshold(IWILDCAM, "-0.1", *cross_entropy) == -0.1 and threshold(DEPTH, "None") is None
    for experiment, *arguments in (
        (DEPTH, "0"),
        (WATERBIRDS, "-0.1"),
        (IWILDCAM, "-0.1"),
        (IWILDCAM, "0.1", *cross_entropy),
    ):
        with pytest.raises(ValueError, match=r"threshold must be (above|below) 0, .*; found -?0"):
            threshold(experiment, *arguments)


def test_recipes_and_types_are_checked():
    with pytest.raises(ValueError, match=r"vae.steps must be 1 or more; found 0"):
        parse_recipe(["--vae.steps", "0"])
    with pytest.raises(ValueError, match=r"finetuning.optimizer must be one of amsgrad, sgd; found 'adam'"):
        Settings(finetuning=Finetuning(optimizer="adam"))
    with pytest.raises(ValueError, match=r"seeds must be several values; found 3"):
        Settings(seeds=3)
    with pytest.raises(ValueError, match=r"finetuning.steps must be a whole number; found 1.5"):
        Settings(finetuning=Finetuning(steps=1.5))


@pytest.mark.parametrize(
    "name", ["", ".", "..", "a/b", "a\\b", "a\0", "a\n", " a", "a.", ".a", "NUL", "com1.png", "é" * 101]
)
def test_names_that_no_file_can_have_everywhere(name):
    assert not is_file_name(name)
    assert is_file_name(
        f"x{name[:9].translate(dict.fromkeys(range(33)))}x".replace("/", "").replace("\\", "")
    )
    assert all(map(is_file_name, ("foggy", "a, b", "001.Black_footed_Albatross", "Ära 5: ü", "console")))
