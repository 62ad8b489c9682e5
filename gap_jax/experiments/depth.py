"""The depth experiment: `python -m gap_jax.experiments.depth`.

The closed loop on a depth model: prompts on which it fails, images of them, fine-tuning on these, and the
result as a table, curves and a page. What is done is kept: the same command goes on where it was stopped.
"""

import argparse
import dataclasses
import json
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Annotated, Literal

import jax
import tyro

from gap_jax import parallel
from gap_jax.checkpoint import check_config
from gap_jax.closed_loop import story
from gap_jax.closed_loop.programs import Programs
from gap_jax.closed_loop.run import Run
from gap_jax.closed_loop.settings import STAGES, Settings
from gap_jax.experiments.depth_files import Files
from gap_jax.experiments.depth_presets import PRESETS, quick
from gap_jax.experiments.depth_rooms import Rooms
from gap_jax.report import page
from gap_jax.report.results import save


@dataclasses.dataclass(frozen=True)
class Depth:
    """What to run, and where. Defaults are the preset's."""

    stage: tyro.conf.Positional[Literal[STAGES]] = "report"  # the last stage to run
    preset: Literal[tuple(PRESETS)] = "small"  # what all other settings are by default
    quick: bool = False  # a few minutes: three arms, short stages
    work: Path = Path("runs/depth")  # where everything goes
    settings: Annotated[Settings, tyro.conf.arg(name="")] = PRESETS["small"][0]
    world: tyro.conf.AvoidSubcommands[Rooms | Files] = PRESETS["small"][1]

    def plain(self) -> dict:
        """As JSON: what tells this experiment from another."""
        return json.loads(
            json.dumps(self.settings.plain() | {"world": dataclasses.asdict(self.world)}, default=str)
        )


def parse(args: Sequence[str]) -> Depth:
    """The experiment of a command line: first its preset, then what it changes."""
    first = argparse.ArgumentParser(add_help=False, allow_abbrev=False)
    first.add_argument("--preset", choices=PRESETS, default="small")
    first.add_argument("--quick", action="store_true")
    chosen, _ = first.parse_known_args(args)
    settings, world = PRESETS[chosen.preset]
    default = Depth(preset=chosen.preset, settings=quick(settings) if chosen.quick else settings, world=world)
    return tyro.cli(Depth, default=default, description=__doc__, args=args)


def main(config: Depth) -> None:
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


if __name__ == "__main__":
    try:
        main(parse(sys.argv[1:]))
    except (ValueError, OSError) as error:
        raise SystemExit(f"error: {error}") from error
