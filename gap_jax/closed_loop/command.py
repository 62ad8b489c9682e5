"""The command line that all experiments share: presets, stages, a folder that is gone on with, the report."""

import argparse
import dataclasses
import json
import sys
from collections.abc import Mapping, Sequence
from typing import Annotated, Any, ClassVar, Literal, Protocol

import jax
import tyro

from gap_jax import parallel
from gap_jax.checkpoint import check_config
from gap_jax.closed_loop import collect as story
from gap_jax.closed_loop.programs import Programs
from gap_jax.closed_loop.run import Run
from gap_jax.closed_loop.settings import STAGES, Evaluating, Settings
from gap_jax.closed_loop.world import World
from gap_jax.report import page
from gap_jax.report.results import save


class Builds(Protocol):
    """A dataclass of what a world is made of."""

    def build(self, held_out: int) -> World:
        """The world, with so many images in each held-out set."""
        ...


@dataclasses.dataclass(frozen=True)
class Command:
    """What to run, and where. Defaults are the preset's.

    An experiment adds its `PRESETS`, `preset`, `work` and `world`, with the first preset's defaults.
    """

    PRESETS: ClassVar[Mapping[str, tuple[Settings, Builds]]] = {}

    stage: tyro.conf.Positional[Literal[STAGES]] = "report"  # the last stage to run
    quick: bool = False  # a few minutes: three arms, short stages
    settings: Annotated[Settings, tyro.conf.arg(name="")] = dataclasses.field(default_factory=Settings)

    def plain(self) -> dict[str, Any]:
        """As JSON: what tells this experiment from another."""
        return json.loads(
            json.dumps(self.settings.plain() | {"world": dataclasses.asdict(self.world)}, default=str)
        )


def parse(command: type[Command], args: Sequence[str]) -> Command:
    """The experiment of a command line: first its preset, then what it changes."""
    presets = command.PRESETS
    first = argparse.ArgumentParser(add_help=False, allow_abbrev=False)
    first.add_argument("--preset", choices=presets, default=next(iter(presets)))
    first.add_argument("--quick", action="store_true")
    chosen, _ = first.parse_known_args(args)
    settings, world = presets[chosen.preset]
    settings = quick(settings) if chosen.quick else settings
    default = command(preset=chosen.preset, settings=settings, world=world)
    description = sys.modules[command.__module__].__doc__
    return tyro.cli(command, default=default, description=description, args=args)


def quick(settings: Settings) -> Settings:
    """The same in a few minutes: at most three arms and short stages, to see that everything runs."""
    arms = [arm for arm in ("control", "agnostic", "guided-adversarial") if arm in settings.arms]
    return dataclasses.replace(
        settings,
        arms=tuple(arms),
        optimizing=dataclasses.replace(settings.optimizing, prompts=1, steps=4, backprop_steps=1),
        generating=dataclasses.replace(settings.generating, images=32, denoising_steps=5),
        finetuning=dataclasses.replace(settings.finetuning, steps=20),
        evaluating=Evaluating(images=16, severities=settings.evaluating.severities[2:3], efficiency=()),
    )


def main(config: Command) -> None:
    """Run what is not done yet, up to the stage."""
    parallel.use_all_cores()
    parallel.initialize()
    work, settings = config.work, config.settings
    check_config(work / "config.json", config.plain())
    report = work / "report" / "index.html"
    if report.exists():
        print(f"nothing to do: {report} is there")
        return
    jax.config.update("jax_compilation_cache_dir", str(work.absolute() / "compiled"))
    world = config.world.build(settings.evaluating.images)
    programs = Programs(settings, world)
    runs = [Run(programs, work, seed) for seed in settings.seeds]
    try:
        for run in runs:
            run.upto(config.stage)
        if config.stage == "report":
            results = story.assemble(runs, work)
            if jax.process_index() == 0:
                save(work / "results.json", results)
                print(f"the report: {page.write(work / 'results.json', report.parent)}")
            parallel.barrier("reported")
    except KeyboardInterrupt:
        print("stopped; what is done is kept: the same command goes on", file=sys.stderr)
        raise SystemExit(130) from None


def run(command: type[Command]) -> None:
    """What `python -m` of an experiment does."""
    try:
        main(parse(command, sys.argv[1:]))
    except (ValueError, OSError) as error:
        raise SystemExit(f"error: {error}") from error
