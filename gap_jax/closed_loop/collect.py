"""Puts together the results of all seeds: what was measured, what was generated, and pictures of prompts."""

import platform
import shlex
import sys
from collections.abc import Iterator, Mapping, Sequence
from importlib.metadata import version
from pathlib import Path

import jax
import numpy as np
from tqdm import tqdm

import gap_jax
from gap_jax import parallel, prompts
from gap_jax.closed_loop.arm_prompts import PromptSet
from gap_jax.closed_loop.arms import ARMS
from gap_jax.closed_loop.gallery import Gallery
from gap_jax.closed_loop.measurements import (
    AVERAGE_SET,
    WORST_SET,
    ModelKey,
    Scores,
    read_measurements,
    result_arm,
)
from gap_jax.closed_loop.run import CRITIC, ORIGINAL, Produced, Run
from gap_jax.closed_loop.settings import Optimizing, Settings
from gap_jax.closed_loop.terms import weights_of
from gap_jax.closed_loop.world import TargetDomain
from gap_jax.progress import compiling
from gap_jax.report.results import CONSTANT, ArmStyle, Column, Generated, Origin, Point, Prompt, Results
from gap_jax.stages.evaluate import CLEAN, SetKey
from gap_jax.stages.generate import read_summary
from gap_jax.stages.guidance import FeatureStatistics
from gap_jax.stages.optimize import load_trajectory

FRAMES = 5  # steps of an optimisation that are drawn, besides the one that was chosen
SHOWN = 16  # prompts that are drawn of each population or list of texts
CORRUPTIONS = ("cc", "3dcc")
_ITERATION_MARKERS = "1234x+"


def collect(runs: Sequence[Run], produced: Sequence[Sequence[Produced]], root: Path) -> Results:
    """Return the results of all seeds, with pictures of the first seed's prompts saved below `root`.

    - `runs`: one for each seed; `produced`: what `run_until` returned for each.

    All processes call it; process 0 writes. Raises ValueError for damaged files of measurements.
    """
    settings, world = runs[0].settings, runs[0].world
    scores = [read_measurements(run.measurements) for run in runs]
    metrics = {name: metric.style for name, metric in world.task.metrics.items()}
    main = next(iter(metrics))
    names = _result_arms(settings)
    generated = {
        result_arm(first.key, settings.iterations): _generated([seed[i].generated for seed in produced])
        for i, first in enumerate(produced[0])
        if first.prompt_sets
    }
    targets = [SetKey("domain", name) for name in world.targets if name in world.data.domains]
    return Results(
        title=world.title,
        summary=world.summary,
        label=world.task.pictures.name,
        legends=world.task.pictures.legends,
        note=world.task.pictures.note,
        config=settings.to_json(),
        seeds=settings.seeds,
        arms={name: _style(key, settings.iterations) for name, key in names.items()},
        metrics=metrics,
        columns=tuple(_columns(scores, names, tuple(metrics))),
        generated=generated,
        critic_real=tuple(seed[ModelKey(CRITIC)][ORIGINAL][main] for seed in scores),
        critic_constant=tuple(seed[ModelKey(CONSTANT)][ORIGINAL][main] for seed in scores),
        efficiency={
            target.name: _efficiency(
                scores,
                names,
                target,
                _images_per_seed(generated, len(runs)),
                settings.evaluating.efficiency,
                main,
            )
            for target in [AVERAGE_SET, *targets, WORST_SET]
            if target in scores[0][next(iter(names.values()))]
        },
        prompts=tuple(_prompts(runs[0], produced[0], root)),
        origin=_origin(runs[0], produced[0], root),
    )


def _origin(run: Run, produced: Sequence[Produced], root: Path) -> Origin:
    """Return how the results were made, with the files of a seed's arms."""
    artefacts = {}
    for work in produced:
        folders = {
            "prompts": work.optimized,
            "images": work.generated / "images" / "train",
            "model": run.stage_folder(work.key.arm, "finetune", work.key.iteration) / "best",
        }
        artefacts[result_arm(work.key, run.settings.iterations)] = {
            kind: folder.relative_to(root).as_posix() for kind, folder in folders.items() if folder.is_dir()
        }
    devices = jax.devices()
    return Origin(
        command=shlex.join(["python", *sys.orig_argv[1:]]),
        versions={"gap_jax": gap_jax.__version__, "Python": platform.python_version()}
        | {package: version(package) for package in ("jax", "flax", "optax", "numpy")},
        devices=f"{len(devices)} × {devices[0].device_kind}",
        artefacts=artefacts,
    )


def _result_arms(settings: Settings) -> dict[str, ModelKey]:
    """Return the model that each arm of the results stands for; earlier iterations count as own arms."""
    keys = [ModelKey(arm, iteration) for arm in settings.arms for iteration in range(settings.iterations)]
    return {result_arm(key, settings.iterations): key for key in keys}


def _style(key: ModelKey, iterations: int) -> ArmStyle:
    """Return how an arm after one of several iterations is shown: in its colour, with another marker."""
    style, number = ARMS[key.arm].style, key.iteration + 1
    if number == iterations:
        return style
    return ArmStyle(
        f"{style.label}, iteration {number}",
        f"The arm “{style.label}” after iteration {number}.",
        style.colour,
        _ITERATION_MARKERS[key.iteration % len(_ITERATION_MARKERS)],
        earlier_of=key.arm,
        reference=style.reference,
    )


def _columns(
    scores: Sequence[Scores], arms: Mapping[str, ModelKey], metrics: Sequence[str]
) -> Iterator[Column]:
    """Yield a column for each test set, with the scores of all arms and of the constant prediction."""
    for test_set in scores[0][next(iter(arms.values()))]:
        # A prediction that ignores the image is the same for a corrupted one.
        constant = CLEAN if test_set.kind in CORRUPTIONS else test_set
        measured = [(arm, key, test_set) for arm, key in arms.items()]
        measured.append((CONSTANT, ModelKey(CONSTANT), constant))
        yield Column(
            test_set.kind,
            test_set.name,
            test_set.severity,
            {
                arm: {metric: tuple(seed[key][place][metric] for seed in scores) for metric in metrics}
                for arm, key, place in measured
            },
        )


def _images_per_seed(generated: Mapping[str, Generated], seeds: int) -> dict[str, int]:
    return {arm: entry.kept // seeds for arm, entry in generated.items()}


def _efficiency(
    scores: Sequence[Scores],
    arms: Mapping[str, ModelKey],
    target: SetKey,
    images: Mapping[str, int],
    fewer: Sequence[int],
    metric: str,
) -> dict[str, tuple[Point, ...]]:
    """Return the metric on a test set against the number of generated images, for each arm.

    - `images`: the number of images that each arm generated per seed. 0 images is the arm `control`.
    - `fewer`: the smaller numbers of images, of which those that were measured for every seed are shown.
    """
    curves = {}
    for arm, key in arms.items():
        if arm not in images:
            continue
        models = {images[arm]: key}
        if "control" in arms:
            models[0] = arms["control"]
        for count in fewer:
            if all(key._replace(images=count) in seed for seed in scores):
                models.setdefault(count, key._replace(images=count))
        curves[arm] = tuple(
            Point(count, tuple(seed[models[count]][target][metric] for seed in scores))
            for count in sorted(models)
        )
    return curves


def _generated(folders: Sequence[Path]) -> Generated:
    """Return what an arm generated, from its folder of each seed."""
    summaries = [read_summary(folder) for folder in folders]
    removed: dict[str, int] = {}
    for summary in summaries:
        for reason, count in summary["dropped"].items():
            removed[reason] = removed.get(reason, 0) + count
    critic = tuple(summary["means"]["critic_score"] for summary in summaries)
    return Generated(sum(summary["images"] for summary in summaries), removed, critic)


def _prompts(run: Run, produced: Sequence[Produced], root: Path) -> Iterator[Prompt]:
    """Yield the prompts of a seed that are drawn, in the order of arms and iterations."""
    gallery = Gallery(run, root)
    numbered = [
        (work, prompt_set, i, number)
        for work in produced
        for number, (prompt_set, i) in enumerate(
            (prompt_set, i) for prompt_set in work.prompt_sets for i in range(len(prompt_set.texts))
        )
        if i < SHOWN
    ]
    with tqdm(total=len(numbered), desc="draw", unit="prompt", disable=jax.process_index() != 0) as bar:
        for work, prompt_set, i, number in numbered:
            with compiling(bar, bar.n == 0):
                drawn = _prompt(run, gallery, work, prompt_set, i, number)
            parallel.stop_if_preempted()
            bar.update()
            yield drawn


def _prompt(
    run: Run, gallery: Gallery, work: Produced, prompt_set: PromptSet, index: int, number: int
) -> Prompt:
    """Return one prompt with its losses, nearest words and pictures by step."""
    losses: dict[str, tuple[float, ...]] = {}
    words: tuple[tuple[tuple[str, float], ...], ...] = ()
    stopped: int | None = None
    paths: dict[int, np.ndarray | None] = {0: None}
    if prompt_set.embeddings is not None:
        generator, embedding = run.world.generator, prompt_set.embeddings[index]
        nearest = prompts.nearest_words(generator.pipe, generator.params, embedding)
        words, paths = tuple(map(tuple, nearest)), {0: embedding}
        if ARMS[work.key.arm].prompts == "optimized" and run.settings.optimizing.steps:
            trajectory = load_trajectory(work.optimized / prompt_set.label)
            losses, stopped, paths = _history(trajectory, index, embedding, run.settings.optimizing)
            weights = weights_of(ARMS[work.key.arm], run.settings.optimizing)
            losses = {term: losses[term] for term, weight in weights.items() if weight}
    text, subset = prompt_set.texts[index], prompt_set.subset
    return Prompt(
        arm=result_arm(work.key, run.settings.iterations),
        seed=run.seed,
        name=f"{text}, {subset}" if subset and subset not in text else text,
        losses=losses,
        examples=gallery.examples(work, prompt_set, index, number, paths),
        stopped=stopped,
        words=words,
        target=prompt_set.target,
        targets=tuple(gallery.target_pictures(prompt_set.target)) if prompt_set.target else (),
        target_note=_target_note(work.key.arm, run.world.targets.get(prompt_set.target or "")),
    )


def _target_note(arm: str, target: TargetDomain | None) -> str:
    """Return what guided the prompts of an arm if it was not pictures: a text in quotes, or a file."""
    if target is None:
        return ""
    if not ARMS[arm].text_guidance:
        return "features from a file" if isinstance(target.images, FeatureStatistics) else ""
    if isinstance(target.text, FeatureStatistics):
        return "text states from a file"
    texts = (target.text,) if isinstance(target.text, str) else target.text or ()
    return ", ".join(f"“{text}”" for text in texts)


def _history(
    trajectory: Mapping[str, np.ndarray], index: int, last: np.ndarray, config: Optimizing
) -> tuple[dict[str, tuple[float, ...]], int | None, dict[int, np.ndarray | None]]:
    """Return a prompt's losses by term, the step that early stopping chose, and the embeddings to draw."""
    stops = np.flatnonzero(trajectory["stopped"][:, index])
    end = int(stops[0]) + 1 if len(stops) else len(trajectory["stopped"])
    losses = {
        term: tuple(map(float, values[:end, index]))
        for term, values in trajectory.items()
        if term != "embeddings" and values.ndim == 2
    }
    steps = {round(step) for step in np.linspace(0, end - 1, min(FRAMES, end))}
    stopped = int(stops[0]) - config.window + 2 if len(stops) else None
    chosen = end if stopped is None else stopped
    embeddings = trajectory["embeddings"][:, index]  # those that each update began with
    paths: dict[int, np.ndarray | None] = {step: embeddings[step] for step in steps} | {chosen: last}
    return losses, stopped, dict(sorted(paths.items()))
