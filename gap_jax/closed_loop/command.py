"""The command line that all experiments share: presets, stages, resuming in a work folder, the report.

It imports heavy modules only when an experiment runs, so that `--help` is fast.
"""

import argparse
import dataclasses
import json
import sys
from collections.abc import Callable, Mapping, Sequence
from functools import reduce
from operator import or_
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal, NamedTuple

import tyro

from gap_jax.closed_loop.settings import STAGES, Evaluating, Settings
from gap_jax.errors import exit_when_stopped, one_line_errors
from gap_jax.ranges import CountOrZero, check_ranges

if TYPE_CHECKING:
    from gap_jax.closed_loop.world import World


class Preset(NamedTuple):
    """The values of all settings that one name stands for.

    `world` is a dataclass that says what the world is made of, such as the paths of data and models.
    """

    settings: Settings
    world: Any


class Experiment(NamedTuple):
    """An experiment with a command line of its own.

    - `name`: its name; by default, it works in the folder `runs/{name}`.
    - `description`: the text at the top of its `--help`.
    - `presets`: its presets by name. The first one is the default.
    - `build_world(world, held_out)`: returns the `World` that a preset's `world` describes, with `held_out`
      images in each held-out set. It should import heavy modules itself, so that `--help` is fast.
    - `adversarial_sign(world)`: returns the sign, 1 or -1, of the loss that adversarial prompts minimise. A
      threshold of early stopping must have it, too. None: it is known only after the first update.
    - `prefix`: the first part of the names of the world's options, as in `--world.data`; "": they have none.
    """

    name: str
    description: str
    presets: Mapping[str, Preset]
    build_world: Callable[[Any, int], "World"]
    adversarial_sign: Callable[[Any], int] | None = None
    prefix: str = "world"


@dataclasses.dataclass(frozen=True, kw_only=True)
class Options:
    """The resolved command line of an experiment."""

    stage: str
    preset: str
    work: Path
    settings: Settings
    world: Any
    profile: CountOrZero = 0  # number of steps of each stage to trace; no part of what a run is

    def identity(self) -> dict[str, Any]:
        """Return, as JSON, the values that all runs in the work folder must share."""
        world = json.loads(json.dumps(dataclasses.asdict(self.world), default=str))
        return self.settings.identity() | {"world": world}

    def reported(self) -> bool:
        """Return whether the work folder has a report of these very settings, with readable results."""
        try:
            results = json.loads((self.work / "results.json").read_bytes())
            return self.page.exists() and results["config"] == self.settings.to_json()
        except (FileNotFoundError, ValueError, TypeError, KeyError, RecursionError):
            return False

    @property
    def page(self) -> Path:
        """The page of the report."""
        return self.work / "report" / "index.html"


def parse(experiment: Experiment, args: Sequence[str]) -> Options:
    """Return the options of a command line: the chosen preset's values, changed by the other arguments.

    Raises ValueError for a value outside its range.
    """
    first = argparse.ArgumentParser(add_help=False, allow_abbrev=False)
    first.add_argument("--preset", choices=experiment.presets, default=next(iter(experiment.presets)))
    first.add_argument("--quick", action="store_true")
    chosen, _ = first.parse_known_args(args)
    settings, world = experiment.presets[chosen.preset]
    command = _command(experiment, shortened(settings) if chosen.quick else settings, world)
    spec = sys.modules["__main__"].__spec__
    program = f"python -m {spec.parent}" if spec else None
    values: Any = tyro.cli(command, prog=program, description=experiment.description, args=args)
    check_ranges(values.world, experiment.prefix)
    _check_threshold(experiment, values.settings.optimizing.threshold, values.world)
    options = Options(
        stage=values.stage,
        preset=chosen.preset,
        work=values.work,
        settings=values.settings,
        world=values.world,
        profile=values.profile,
    )
    check_ranges(options)
    return options


def _check_threshold(experiment: Experiment, threshold: float | None, world: Any) -> None:
    """Raise ValueError unless a threshold of early stopping has the sign of the adversarial loss."""
    if threshold is None or experiment.adversarial_sign is None:
        return
    sign = experiment.adversarial_sign(world)
    if threshold * sign <= 0:
        raise ValueError(
            f"optimizing.threshold must be {'above' if sign > 0 else 'below'} 0, as the adversarial loss of "
            f"{experiment.name} is, or None; found {threshold:g}"
        )


def _command(experiment: Experiment, settings: Settings, world: Any) -> type:
    """Return the dataclass that tyro reads a command line into, with these defaults."""
    worlds = dict.fromkeys(type(other.world) for other in experiment.presets.values())
    any_world: Any = reduce(or_, worlds)

    def option(kind: Any, text: str, *markers: Any) -> Any:
        return Annotated[kind, tyro.conf.arg(help=text), *markers]

    fields = [
        ("stage", option(Literal[STAGES], "last stage to run", tyro.conf.Positional), "report"),
        (
            "preset",
            option(
                Literal[tuple(experiment.presets)],
                "name of the preset; it sets the defaults of all other options",
            ),
            next(iter(experiment.presets)),
        ),
        (
            "work",
            option(Path, "folder for all files of this run; the same command continues in it"),
            Path("runs", experiment.name),
        ),
        (
            "profile",
            option(
                int,
                "number of steps of each stage that jax.profiler traces into the folder profile of this run; "
                "0: none",
            ),
            0,
        ),
        ("quick", option(bool, "run a short version with few arms, to see that everything works"), False),
        ("settings", Annotated[Settings, tyro.conf.arg(name="")], settings),
        (
            "world",
            tyro.conf.AvoidSubcommands[Annotated[any_world, tyro.conf.arg(name=experiment.prefix)]],  # type: ignore[misc]
            world,
        ),
    ]
    return dataclasses.make_dataclass(
        "Command",
        [(name, kind, dataclasses.field(default=value)) for name, kind, value in fields],
        frozen=True,
    )


def shortened(settings: Settings) -> Settings:
    """Return the settings of a run of a few minutes: few arms and short stages."""
    arms = ("control", "agnostic", "guided-adversarial", "guided-adversarial-text")
    severities = settings.evaluating.severities
    middle = severities[len(severities) // 2 :][:1]
    return dataclasses.replace(
        settings,
        arms=tuple(arm for arm in arms if arm in settings.arms),
        optimizing=dataclasses.replace(
            settings.optimizing,
            prompts=1,
            prompts_per_target=None,
            random_prompts=None,
            steps=4,
            unguided_steps=None,
            threshold=None,
            adversarial_start=min(settings.optimizing.adversarial_start, 2),
            backprop_steps=1,
        ),
        generating=dataclasses.replace(settings.generating, images=32, denoising_steps=5),
        finetuning=dataclasses.replace(settings.finetuning, steps=20, checkpoints=4),
        evaluating=Evaluating(images=16, severities=middle, efficiency=()),
    )


def execute(experiment: Experiment, options: Options) -> None:
    """Run what is not done yet, up to the chosen stage.

    Another run in the same work folder may add seeds, arms and iterations; its report has what it names.

    Ctrl-C and SIGTERM, by which SLURM, Kubernetes and preemptible machines announce the end, save what is
    done and exit with status 130 or 143.

    Raises ValueError if the work folder belongs to another configuration, or to another process that runs.
    """
    import jax

    from gap_jax import ownership, parallel
    from gap_jax.checkpoint import check_config

    parallel.use_all_cores()
    parallel.initialize()
    check_config(options.work / "config.json", options.identity(), save=False)
    if parallel.all_agree(options.reported()):
        print(f"nothing to do: the report {options.page} exists; delete it to make it again")
        return
    if jax.config.jax_compilation_cache_dir is None:  # type: ignore[attr-defined]
        jax.config.update("jax_compilation_cache_dir", str(options.work.absolute() / "compiled"))
    with exit_when_stopped(), ownership.only_job(options.work):
        _run(experiment, options)


def _run(experiment: Experiment, options: Options) -> None:
    import jax

    from gap_jax.checkpoint import check_config
    from gap_jax.closed_loop.experiment import run_programs
    from gap_jax.closed_loop.programs import Programs
    from gap_jax.progress import tracing

    world = experiment.build_world(options.world, options.settings.evaluating.images)
    programs = Programs(options.settings, world)  # refuses before the folder belongs to these settings
    check_config(options.work / "config.json", options.identity())
    with tracing(options.profile, options.work / "profile"):
        page = run_programs(programs, options.work, options.stage)
    if page is not None and jax.process_index() == 0:
        print(f"the report: {page}")


def main(experiment: Experiment) -> None:
    """Run an experiment from the command line; an error becomes one line."""
    with one_line_errors():
        execute(experiment, parse(experiment, sys.argv[1:]))
