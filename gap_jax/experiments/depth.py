"""The depth experiment: `python -m gap_jax.experiments.depth`.

The closed loop on a depth model: prompts on which it fails, images of them, fine-tuning on these, and the
result as a table, curves and a page. What is done is kept: the same command goes on where it was stopped.
"""

import dataclasses
import sys
from pathlib import Path
from typing import Annotated, Literal

import jax
import tyro

from gap_jax import parallel
from gap_jax.checkpoint import check_config
from gap_jax.experiments import story, worlds
from gap_jax.experiments.closed_loop import (
    STAGES,
    Evaluating,
    Finetuning,
    Generating,
    Optimizing,
    Run,
    Settings,
)
from gap_jax.report import page
from gap_jax.report.results import save

SMALL = Settings()
QUICK = Settings(
    arms=("control", "agnostic", "guided-adversarial"),
    optimizing=Optimizing(prompts=1, steps=4, backprop_steps=1),
    generating=Generating(images=32, denoising_steps=5),
    finetuning=Finetuning(steps=20),
    evaluating=Evaluating(images=16, severities=(3,), efficiency=()),
)


@dataclasses.dataclass(frozen=True)
class Depth:
    """What to run, and where."""

    stage: tyro.conf.Positional[Literal[STAGES]] = "report"  # the last stage to run
    work: Path = Path("runs/depth")  # where everything goes
    quick: bool = False  # a few minutes: three arms, short stages
    settings: Annotated[Settings, tyro.conf.arg(name="")] = SMALL


def main(config: Depth) -> None:
    """Run what is not done yet, up to the stage."""
    parallel.initialize()
    work, settings = config.work, config.settings
    check_config(work / "config.json", settings.plain())
    report = work / "report" / "index.html"
    if report.exists():
        print(f"nothing to do: {report} is there")
        return
    jax.config.update("jax_compilation_cache_dir", str(work.absolute() / "compiled"))
    world = worlds.small(held_out=settings.evaluating.images)
    runs = [Run(settings, world, work, seed) for seed in settings.seeds]
    try:
        for run in runs:
            run.upto(config.stage)
        if config.stage == "report" and jax.process_index() == 0:
            save(work / "results.json", story.assemble(runs, work))
            print(f"the report: {page.write(work / 'results.json', report.parent)}")
    except KeyboardInterrupt:
        print("stopped; what is done is kept: the same command goes on", file=sys.stderr)
        raise SystemExit(130) from None


if __name__ == "__main__":
    default = Depth(settings=QUICK) if "--quick" in sys.argv else Depth()
    main(tyro.cli(Depth, default=default, description=__doc__))
