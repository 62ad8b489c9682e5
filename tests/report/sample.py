"""A results folder to make reports from: its pictures are rendered rooms, and its numbers are invented."""

from functools import lru_cache
from pathlib import Path

import numpy as np

from gap_jax.closed_loop.arms import ARMS
from gap_jax.data.corruptions.common import CORRUPTIONS
from gap_jax.data.corruptions.three_d import CORRUPTIONS_3D
from gap_jax.experiments.depth.task import PICTURES, STYLES
from gap_jax.report import pictures
from gap_jax.report.results import (
    CONSTANT,
    Column,
    ExamplePictures,
    Frame,
    Generated,
    Origin,
    Point,
    Prompt,
    Results,
    save,
)
from gap_jax.small_worlds import rooms

SEEDS = (0, 1, 2)
STEPS = 40
FRAMES = (0, 5, 10, 15, 20, 25, 30, 35, 40)
STOPPED = 25
TARGETS = ("foggy", "dark")
COUNTS = (0, 10, 30, 100, 300)
_INVENTED = {  # arm: errors on clean images, under corruptions and on a target shift; the critic's error
    "control": (0.041, 0.098, 0.160, None),
    "agnostic": (0.043, 0.094, 0.155, 0.026),
    "agnostic-random": (0.044, 0.090, 0.140, 0.034),
    "written": (0.043, 0.086, 0.100, 0.028),
    "guided": (0.045, 0.083, 0.066, 0.030),
    "adversarial": (0.046, 0.072, 0.110, 0.047),
    "adversarial-sdedit": (0.043, 0.069, 0.104, 0.033),
    "guided-adversarial": (0.045, 0.076, 0.058, 0.041),
    CONSTANT: (0.105, 0.106, 0.107, None),
}
_ROOMS = {
    ("agnostic", None): rooms.Style(),
    ("agnostic-random", None): rooms.Style("blue"),
    ("written", None): rooms.Style("beige", light="dark"),
    ("guided", "foggy"): rooms.Style(air="foggy"),
    ("guided", "dark"): rooms.Style(light="dark"),
    ("adversarial", None): rooms.Style("red", "dark", camera="blurry"),
    ("adversarial-sdedit", None): rooms.Style("red", camera="blurry"),
    ("guided-adversarial", "foggy"): rooms.Style("green", air="foggy", camera="grainy"),
    ("guided-adversarial", "dark"): rooms.Style("green", "dark", camera="grainy"),
}
ORIGIN = Origin(
    command="python -m gap_jax.experiments.depth --seeds 0 1 2",
    versions={"gap_jax": "0.1.0", "jax": "0.10.2"},
    devices="1 × cpu",
    artefacts={
        "control": {"model": "seed-0/control/finetune/best"},
        "adversarial": {
            "prompts": "seed-0/adversarial/optimize",
            "images": "seed-0/adversarial/generate/images/train",
        },
    },
)
_OPTIMISED = ("guided", "adversarial", "guided-adversarial")


def write(
    folder: Path, *, size: int = 64, examples: int = 3, prompts: int = 2, seeds: tuple[int, ...] = SEEDS
) -> Path:
    """Write pictures and `results.json` into `folder` and return the path of the latter."""
    path = Path(folder) / "results.json"
    save(path, results(Path(folder), size, examples, prompts, seeds))
    return path


def results(folder: Path, size: int, examples: int, prompts: int, seeds: tuple[int, ...]) -> Results:
    random = np.random.default_rng(0)

    def values(mean, spread=0.02):
        return tuple(float(mean * (1 + spread * noise)) for noise in random.standard_normal(len(seeds)))

    def scores(column, harder=1.0):
        return {
            arm: {
                "l1": values(row[column] * (1 if arm == CONSTANT else harder)),
                "ssi_mae": values(4 * row[column]),
                "absrel": values(2 * row[column]),
                "delta1": values(1 - 2 * row[column], 0.005),
            }
            for arm, row in _INVENTED.items()
        }

    def corrupted(kind, names):
        return [
            Column(kind, name, severity, scores(1, (0.6 + 0.15 * severity) * random.uniform(0.7, 1.2)))
            for name in names
            for severity in range(1, 6)
        ]

    start = values(0.16)

    def curve(end, arm):
        if arm in ("control", CONSTANT):
            return tuple(Point(n, start if arm == "control" else values(end, 0)) for n in COUNTS)
        steps = [(n, end + (0.16 - end) / (1 + n / 15)) for n in COUNTS[1:]]
        return (Point(0, start), *(Point(n, values(mean)) for n, mean in steps))

    columns = [Column("clean", "rooms", None, scores(0))]
    columns += corrupted("cc", CORRUPTIONS) + corrupted("3dcc", CORRUPTIONS_3D)
    columns += [Column("domain", target, None, scores(2)) for target in TARGETS]
    generated = {
        arm: Generated(900, {"degenerate": int(random.integers(0, 9))}, values(row[3]))
        for arm, row in _INVENTED.items()
        if row[3]
    }
    efficiency = {target: {arm: curve(row[2], arm) for arm, row in _INVENTED.items()} for target in TARGETS}
    return Results(
        title="Depth in the small world",
        summary="A sample made for tests: the pictures are rendered rooms, and every number is invented.",
        label=PICTURES.name,
        legends=PICTURES.legends,
        note=PICTURES.note,
        config={
            "preset": "small",
            "optimize": {"steps": STEPS, "lr": 0.01, "early_stop": {"window": 5, "threshold": -0.2}},
            "generate": {"steps": 15, "images": 300, "filters": []},
            "finetune": {"lr": 3e-5, "mixture": 0.5},
        },
        seeds=seeds,
        arms={name: ARMS[name].style for name in _INVENTED if name in ARMS},
        metrics=STYLES,
        columns=tuple(columns),
        generated=generated,
        critic_real=values(0.021),
        critic_constant=values(0.105),
        efficiency=efficiency,
        prompts=_prompts(folder, size, examples, prompts),
        origin=ORIGIN,
    )


def _prompts(folder: Path, size: int, examples: int, count: int) -> tuple[Prompt, ...]:
    prompts = []
    for (arm, target), style in _ROOMS.items():
        for i in range(count):
            name = "-".join(filter(None, (arm, target, str(i))))
            optimised = arm in _OPTIMISED
            prompts.append(
                Prompt(
                    arm=arm,
                    seed=i % len(SEEDS),
                    name=f"{target or arm} {i}" if optimised else f"a {' '.join(style)} room",
                    losses=_losses(arm, i) if optimised else {},
                    examples=_examples(folder, name, size, examples, style, optimised),
                    stopped=STOPPED if arm == "adversarial" else None,
                    words=_words(i) if optimised else (),
                    target=target,
                    targets=_targets(folder, target, size) if target else (),
                )
            )
    return tuple(prompts)


def _losses(arm: str, prompt: int) -> dict[str, tuple[float, ...]]:
    random = np.random.default_rng(prompt)
    progress = 1 - np.exp(-np.arange(STEPS) / 12)
    noise = random.normal(0, 0.008, (2, STEPS))
    terms = {}
    if arm != "guided":
        terms["adversarial"] = tuple((-0.05 - 0.2 * progress + noise[0]).tolist())
    if arm != "adversarial":
        terms["guidance"] = tuple((0.3 - 0.25 * progress + noise[1]).tolist())
    return terms


def _words(prompt: int) -> tuple[tuple[tuple[str, float], ...], ...]:
    words = ("red", "blurry", "bright", "foggy", "dark", "grainy", "clear", "green")
    return tuple(
        tuple((words[(prompt + 3 * i + j) % len(words)], 0.6 - 0.07 * j) for j in range(3)) for i in range(4)
    )


def _examples(
    folder: Path, name: str, size: int, count: int, style: rooms.Style, optimised: bool
) -> tuple[ExamplePictures, ...]:
    plain, styled = (_render(1, count, room, size) for room in (rooms.Style(), style))
    random = np.random.default_rng(len(name))
    made = []
    for i in range(count):
        depth, mask = plain.depth[i], plain.mask[i]
        pictures.save(folder / f"pictures/{i}/depth.png", pictures.depth(depth, mask))
        pictures.save(folder / f"pictures/{i}/original.png", plain.image[i])
        frames = []
        for step in FRAMES if optimised else (0,):
            share = step / STEPS if optimised else 1.0
            image = (1 - share) * plain.image[i] / 255 + share * styled.image[i] / 255
            blotches = np.kron(random.normal(0, 1, (8, 8)), np.ones((size // 8, size // 8)))[..., None]
            prediction = depth + (0.02 + 0.15 * share) * blotches
            paths = [f"pictures/{i}/{name}-{step}-{part}.png" for part in ("image", "prediction", "error")]
            pictures.save(folder / paths[0], image)
            pictures.save(folder / paths[1], pictures.depth(prediction))
            pictures.save(folder / paths[2], pictures.error(prediction, depth, mask))
            frames.append(Frame(step, *paths))
        made.append(ExamplePictures(f"pictures/{i}/depth.png", f"pictures/{i}/original.png", tuple(frames)))
    return tuple(made)


@lru_cache
def _render(seed: int, count: int, style: rooms.Style, size: int) -> rooms.RenderedRooms:
    return rooms.render(seed, range(count), [style] * count, size)


def _targets(folder: Path, target: str, size: int) -> tuple[str, ...]:
    axis = next(axis for axis, words in rooms.AXES.items() if target in words)
    style = rooms.Style()._replace(**{axis: target})
    images = _render(2, 6, style, size).image
    paths = tuple(f"pictures/target-{target}-{i}.png" for i in range(len(images)))
    for path, image in zip(paths, images, strict=True):
        pictures.save(folder / path, image)
    return paths
