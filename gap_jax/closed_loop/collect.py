"""What the stages left behind, put together as the report's `Results`, with pictures."""

import json
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

import jax
import numpy as np
from tqdm import tqdm

from gap_jax import prompts
from gap_jax.closed_loop.programs import Prompts
from gap_jax.closed_loop.run import Run
from gap_jax.closed_loop.settings import ARMS, Arm
from gap_jax.closed_loop.world import Arrays, Task, World, take
from gap_jax.diffusion.align import generate as sample
from gap_jax.report import pictures
from gap_jax.report.results import (
    CONSTANT,
    WORST,
    Column,
    Example,
    Frame,
    Generated,
    Point,
    Prompt,
    Results,
)
from gap_jax.stages.optimize import load_trajectory

CORRUPTED = ("cc", "3dcc")
EXAMPLES, FRAMES = 3, 8  # labels drawn of each prompt; steps
Draw = Callable[[np.ndarray, Arrays], tuple[np.ndarray, np.ndarray]]
Measured = list[dict[str, Any]]  # `evaluate.json` of each seed


def assemble(runs: list[Run], root: Path) -> Results:
    """Everything measured, and pictures of the first seed's prompts, under `root`; by all processes."""
    first = runs[0]
    settings, world = first.settings, first.world
    measured = [json.loads((run.folder / "evaluate.json").read_text()) for run in runs]
    metrics = {name: metric.shown for name, metric in world.task.metrics.items()}
    metric = next(iter(metrics))
    last = settings.iterations - 1
    made = {
        name: generated([run.stage(name, "generate", last) for run in runs])
        for name in settings.arms
        if ARMS[name].generates
    }
    full = {name: found.kept // len(runs) for name, found in made.items()}
    return Results(
        title=world.title,
        summary=world.summary,
        label=world.task.pictures.name,
        legends=world.task.pictures.legends,
        note=world.task.pictures.note,
        config=settings.plain(),
        seeds=settings.seeds,
        metrics=metrics,
        columns=tuple(columns(measured, settings.arms, tuple(metrics))),
        generated=made,
        critic_real=tuple(seed["critic"]["original"][metric] for seed in measured),
        critic_constant=tuple(seed[CONSTANT]["original"][metric] for seed in measured),
        efficiency={
            target: efficiency(measured, settings.arms, target, full, metric)
            for target in [*(name for name in world.targets if name in world.domains), WORST]
            if target in measured[0][settings.arms[0]]
        },
        prompts=tuple(drawn(first, root)),
    )


def columns(measured: Measured, arms: tuple[str, ...], metrics: tuple[str, ...]) -> Iterator[Column]:
    """A column for each test set."""
    for name in measured[0][arms[0]]:
        kind, *rest = name.split("/")
        corruption = kind in CORRUPTED
        plain = "clean" if corruption else name  # what looks at no image cannot tell a corrupted one
        scores = {
            arm: {metric: tuple(seed[arm][place][metric] for seed in measured) for metric in metrics}
            for arm, place in [*((arm, name) for arm in arms), (CONSTANT, plain)]
        }
        if corruption:
            yield Column(kind, rest[0], int(rest[1]), scores)
        else:
            yield Column("clean" if name == "clean" else "domain", name, None, scores)


def efficiency(
    measured: Measured, arms: tuple[str, ...], target: str, full: Mapping[str, int], metric: str
) -> dict[str, tuple[Point, ...]]:
    """The metric on a test set against the number of generated images, of each arm; 0 is the control's."""
    found = {}
    for arm in filter(full.__contains__, arms):
        counts = {full[arm]: arm} | ({0: "control"} if "control" in arms else {})
        fewer = {name for seed in measured for name in seed if name.startswith(f"{arm}@")}
        for name in fewer.intersection(*measured):  # what is there for every seed
            counts.setdefault(int(name.split("@")[1]), name)
        found[arm] = tuple(
            Point(count, tuple(seed[counts[count]][target][metric] for seed in measured))
            for count in sorted(counts)
        )
    return found


def generated(folders: list[Path]) -> Generated:
    """What an arm generated, in one folder for each seed."""
    summaries = [json.loads((folder / "summary.json").read_text()) for folder in folders]
    removed: dict[str, int] = {}
    for summary in summaries:
        for reason, count in summary["dropped"].items():
            removed[reason] = removed.get(reason, 0) + count
    critic = []
    for folder in folders:
        lines = (folder / "images" / "train" / "metadata.jsonl").read_text().splitlines()
        critic.append(float(np.mean([json.loads(line)["critic_score"] for line in lines])))
    return Generated(sum(summary["images"] for summary in summaries), removed, tuple(critic))


def drawn(run: Run, root: Path) -> Iterator[Prompt]:
    """Every prompt of this seed with pictures of some original images, at some of its steps."""
    draw = drawing(run)
    made = [
        (name, some, i)
        for name in run.settings.arms
        for some in run.prompts(name, run.world.model.params, 0)
        for i in range(len(some.texts))
    ]
    for name, some, i in tqdm(made, desc="draw", unit="prompt", disable=jax.process_index() != 0):
        labels = take(run.world.original, examples(run.world, some.part))
        fields, contexts = told(run, name, some, i)
        if some.target:
            fields["targets"] = tuple(target_pictures(run, some.target, root))
        folder = root / "pictures" / name / f"{some.aim or 'all'}-{i}"
        by_step = {step: draw(context, labels) for step, context in contexts.items()}
        shown = tuple(
            example(
                folder / str(j),
                root,
                {field: array[j] for field, array in labels.items()},
                {step: (images[j], guesses[j]) for step, (images, guesses) in by_step.items()},
                run.world.task,
            )
            for j in range(len(labels["image"]))
        )
        text = some.texts[i]
        text = f"{text}, {some.part}" if some.part and some.part not in text else text
        yield Prompt(arm=name, seed=run.seed, name=text, target=some.target, examples=shown, **fields)


def examples(world: World, part: str | None) -> np.ndarray:
    """Numbers of the original images that a prompt is shown on: of its part, or of each part in turn."""
    if part is not None:
        return np.resize(world.parts[part], EXAMPLES)
    if not world.parts:
        return np.arange(EXAMPLES)
    parts = list(world.parts.values())
    return np.array([parts[i % len(parts)][i // len(parts)] for i in range(EXAMPLES)])


def told(run: Run, name: str, some: Prompts, i: int) -> tuple[dict[str, Any], dict[int, np.ndarray]]:
    """What the report says of prompt `i`, and its text states by step."""
    arm = ARMS[name]
    if some.embeddings is None:
        return {"losses": {}}, {0: run.programs.contexts(some)[i]}
    words = prompts.nearest_words(run.world.pipe, run.world.params, some.embeddings[i])
    fields: dict[str, Any] = {"losses": {}, "words": tuple(map(tuple, words))}
    if not arm.optimized:
        return fields, {0: run.programs.contexts(some)[i]}
    trajectory = load_trajectory(run.stage(arm.prompts_of or name, "optimize") / (some.aim or "all"))
    stopped = np.flatnonzero(trajectory["stopped"][:, i])
    end = stopped[0] + 1 if len(stopped) else len(trajectory["stopped"])
    fields["losses"] = {term: tuple(map(float, trajectory[term][:end, i])) for term in terms(arm)}
    path = trajectory["embeddings"][:end, i]  # what each update began with
    steps = {round(step) for step in np.linspace(0, end - 1, min(FRAMES, end))}
    if len(stopped):
        fields["stopped"] = int(stopped[0]) - run.settings.optimizing.window + 1
        steps.add(fields["stopped"])
    else:
        path = np.concatenate([path, some.embeddings[None, i]])
        steps.add(end)
    steps = sorted(steps)
    path = Prompts(("",) * len(steps), path[steps])
    return fields, dict(zip(steps, run.programs.contexts(path), strict=True))


def terms(arm: Arm) -> tuple[str, ...]:
    """The losses that an arm's prompts were optimised for."""
    weights = {
        "adversarial": arm.adversarial,
        "guidance": arm.guidance,
        "text guidance": arm.text_guidance,
    }
    return tuple(term for term, weight in weights.items() if weight)


def drawing(run: Run) -> Draw:
    """`draw(context [L,D], labels) -> (images, predictions)`, with the same noise for all prompts."""
    world, config = run.world, run.settings.optimizing
    keys = jax.random.split(jax.random.key(0), EXAMPLES)
    sampling = run.programs.sampling(config.denoising_steps)

    @jax.jit
    def render(params, model, context, uncond, labels):
        align = world.task.align(config.strength)
        images = sample(world.pipe, params, context, uncond, labels, keys, align, sampling)
        return images, world.model.predict(model, images)

    return lambda context, labels: jax.device_get(
        render(world.params, world.model.params, context[None], run.programs.uncond, dict(labels))
    )


def example(
    folder: Path,
    root: Path,
    label: Mapping[str, np.ndarray],
    frames: Mapping[int, tuple[np.ndarray, np.ndarray]],
    task: Task,
) -> Example:
    """The pictures of one label and its `image`, and by step of a generated image and a prediction."""

    def keep(name: str, picture: np.ndarray) -> str:
        path = folder / f"{name}.png"
        _save(path, picture)
        return str(path.relative_to(root))

    shown = []
    for step, (image, prediction) in sorted(frames.items()):
        drawn = image, *task.pictures.prediction(prediction, label)
        names = [f"{name}-{step:05d}" for name in ("generated", "prediction", "error")]
        shown.append(Frame(step, *map(keep, names, drawn)))
    return Example(keep("label", task.pictures.label(label)), keep("original", label["image"]), tuple(shown))


def target_pictures(run: Run, target: str, root: Path) -> Iterator[str]:
    """The target's images, as paths from `root`."""
    for i, image in enumerate(run.world.targets[target].images):
        path = root / "pictures" / "targets" / f"{target}-{i}.png"
        _save(path, image)
        yield str(path.relative_to(root))


def _save(path: Path, picture: np.ndarray) -> None:
    if jax.process_index() == 0:
        pictures.save(path, picture)
