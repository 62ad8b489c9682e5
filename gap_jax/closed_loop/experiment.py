"""Runs a whole experiment: all stages of the closed loop for all arms and seeds, and the report."""

import dataclasses
from collections.abc import Sequence
from pathlib import Path

import jax

from gap_jax import parallel
from gap_jax.closed_loop.collect import collect
from gap_jax.closed_loop.programs import Programs
from gap_jax.closed_loop.run import Run, optimize_as_one
from gap_jax.closed_loop.settings import Settings
from gap_jax.closed_loop.transfer import SeveralModels, collect_models
from gap_jax.closed_loop.world import World
from gap_jax.report.page import write_page
from gap_jax.report.results import save


def run_experiment(settings: Settings, world: World, work: str | Path, stage: str = "report") -> Path | None:
    """Run all stages up to and including `stage` and return the path of the report, if it was made.

    - `work`: the folder of all files. Started again in it, the experiment continues where it stopped.
    - `stage`: `optimize`, `generate`, `finetune`, `evaluate` or `report`.

    Every process of a job calls it. Raises ValueError for settings that the world or devices cannot serve,
    and for a work folder of another configuration.
    """
    return run_programs(Programs(settings, world), Path(work), stage)


def run_programs(programs: Programs, work: Path, stage: str) -> Path | None:
    """Run the stages of programs that are made; arguments and result are those of `run_experiment`."""
    settings, world = programs.settings, programs.world
    runs = [Run(programs, work, seed) for seed in settings.seeds]
    optimize_jointly(runs)
    produced = [run.run_until(stage) for run in runs]
    compared = []
    if world.models.others:
        compared = [SeveralModels(*done) for done in zip(runs, produced, strict=True)]
        for models in compared:
            models.run_until(stage)
    if stage != "report":
        return None
    results = collect(runs, produced, work)
    if compared:
        results = dataclasses.replace(results, models=collect_models(compared, work))
    page = work / "report" / "index.html"
    if jax.process_index() == 0:
        save(work / "results.json", results)
        write_page(work / "results.json", page.parent)
    parallel.barrier("reported")
    return page


def optimize_jointly(runs: Sequence[Run]) -> None:
    """Optimise the first prompts of all arms, targets, subsets and seeds that use idle devices together.

    Their arms find them finished. Populations that run alone wait for their arm's turn.
    """
    by_place = {
        (task.folder, task.prompt_set.label): (run, task)
        for run in runs
        for name in run.settings.arms
        for task in run.tasks(name, run.world.models.model.params)
    }
    work = list(by_place.values())
    for group in runs[0].programs.groups([task for _, task in work]):
        if len(group) > 1:
            populations = [work[i] for i in group]
            names = [
                f"seed {run.seed} {task.folder.parent.name} {task.prompt_set.label}"
                for run, task in populations
            ]
            parallel.announce(f"optimise together: {'; '.join(names)}")
            optimize_as_one(populations)
