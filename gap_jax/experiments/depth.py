"""The depth experiment: `python -m gap_jax.experiments.depth`.

For each seed and arm: optimise prompts, generate a training set with the labels kept, fine-tune the depth
model on it; then measure all arms under corruptions and on other domains, and write the report. What is done
is kept: the same command goes on where it was stopped, and does nothing when all is done.
"""

import dataclasses
import json
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Literal, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax
import tyro

from gap_jax import parallel, prompts
from gap_jax.checkpoint import check_config
from gap_jax.data.corruptions import CORRUPTIONS
from gap_jax.data.corruptions_3d import CORRUPTIONS_3D
from gap_jax.diffusion.align import Alignment, Sampling, controlnet_depth
from gap_jax.diffusion.align import generate as sample
from gap_jax.experiments import depth_results as results_of
from gap_jax.experiments import worlds
from gap_jax.experiments.worlds import Arrays, DepthWorld
from gap_jax.guidance import image_guidance
from gap_jax.loop.evaluate import Shift, evaluate, shifts
from gap_jax.loop.finetune import Mixture, finetune
from gap_jax.loop.generate import Filter, generate, plan
from gap_jax.loop.objective import Term, adversarial
from gap_jax.loop.optimize import load_trajectory, optimize
from gap_jax.loop.prompt_optimizer import EarlyStop, Model, PromptOptimizer, adamw, prompt_optimizer
from gap_jax.report import page
from gap_jax.report.pictures import save as save_picture
from gap_jax.report.results import MEAN_MAP, Prompt, Results, save, write_whole
from gap_jax.tasks import depth as task


class Arm(NamedTuple):
    """How an arm's prompts come about."""

    adversarial: float = 0.0  # weight of the model's loss
    guidance: float = 0.0  # weight of CLIP's distance to the target images
    random: bool = False  # prompts drawn from the vocabulary's distribution
    written: bool = False  # prompts from a file
    fixed: str | None = None  # a prompt
    strength: float = 1.0  # of SDEdit; 1: from noise
    generates: bool = True


ARMS = {
    "control": Arm(generates=False),
    "agnostic": Arm(fixed="room"),
    "agnostic-random": Arm(random=True),
    "written": Arm(written=True),
    "guided": Arm(guidance=1.0),
    "adversarial": Arm(adversarial=1.0),
    "adversarial-sdedit": Arm(adversarial=1.0, strength=0.6),
    "guided-adversarial": Arm(adversarial=1.0, guidance=1.0),
}
ArmName = Literal[
    "control",
    "agnostic",
    "agnostic-random",
    "written",
    "guided",
    "adversarial",
    "adversarial-sdedit",
    "guided-adversarial",
]


@dataclasses.dataclass(frozen=True)
class Optimizing:
    """Optimising prompts; METHOD: AdamW through all of sampling."""

    prompts: int = 2  # of an arm, for each target if it is guided
    placeholders: int = 3  # tokens of a prompt
    steps: int = 20  # updates
    batch: int = 8  # images an update
    learning_rate: float = 2e-3  # times the batch
    denoising_steps: int = 5
    guidance_scale: float = 2.0  # of the caption: classifier-free guidance
    guidance_weight: float = 1.0  # λ, of CLIP's distance to the target
    window: int = 3  # adversarial losses that early stopping averages
    threshold: float = -0.2  # below which their mean stops, and the window's oldest prompt is taken
    backprop_steps: int | None = None  # last denoising steps to differentiate; all


@dataclasses.dataclass(frozen=True)
class Generating:
    """Generating training sets."""

    images: int = 96  # of an arm
    batch: int = 32  # images at once
    denoising_steps: int = 10
    suffix: str = ""  # after the prompt, e.g. ",photo,highly detailed,photorealistic"
    max_critic_l1: float | None = None  # images on which the critic errs more are dropped


@dataclasses.dataclass(frozen=True)
class Finetuning:
    """Fine-tuning the depth model."""

    steps: int = 100
    batch: int = 32
    learning_rate: float = 1e-3
    weight_decay: float = 2e-6
    share: float = 0.5  # of generated images in a batch


@dataclasses.dataclass(frozen=True)
class Evaluating:
    """Measuring."""

    images: int = 64  # of each test set
    severities: tuple[int, ...] = (1, 2, 3, 4, 5)
    efficiency: tuple[int, ...] = (10, 30)  # numbers of generated images for the data-efficiency curves


@dataclasses.dataclass(frozen=True)
class Depth:
    """The built-in small world, unless a preset says otherwise."""

    work: Path = Path("runs/depth")  # where everything goes
    seeds: tuple[int, ...] = (0,)
    arms: tuple[ArmName, ...] = tuple(ARMS)
    written: Path | None = None  # a file of prompts, one a line, for the arm `written`
    iterations: int = 1  # of optimise, generate, fine-tune, each on the model before
    optimizing: Optimizing = Optimizing()
    generating: Generating = Generating()
    finetuning: Finetuning = Finetuning()
    evaluating: Evaluating = Evaluating()


WRITTEN = ("a foggy room", "a dark room", "a checkered room", "a red room", "a striped room", "a blue room")
NEGATIVE = ""  # the small world's captions left out; Stable Diffusion's is tasks.depth.NEGATIVE_PROMPT


class Prompts(NamedTuple):
    """Some prompts of an arm: texts, or embeddings `[prompts,n,D]`; the target they were guided to."""

    texts: tuple[str, ...]
    embeddings: np.ndarray | None = None
    target: str | None = None


def main(config: Depth) -> None:
    """Run what is not done yet, and write the report."""
    parallel.initialize()
    if config.iterations < 1 or not config.seeds or not config.arms:
        raise ValueError("iterations, seeds and arms must be one or more")
    check_config(config.work / "config.json", settings(config))
    if (config.work / "report" / "index.html").exists():
        print(f"nothing to do: {config.work / 'report' / 'index.html'} is there")
        return
    world = worlds.small(held_out=config.evaluating.images)
    try:
        runs = [Run(config, world, seed) for seed in config.seeds]
        for run in runs:
            run.all()
        if jax.process_index() == 0:
            path = config.work / "results.json"
            save(path, assemble(config, world, runs))
            print(f"the report: {page.write(path, config.work / 'report')}")
    except KeyboardInterrupt:
        print("stopped; what is done is kept: the same command goes on", file=sys.stderr)
        raise SystemExit(130) from None


def settings(config: Depth) -> dict[str, Any]:
    """The configuration as JSON, without where it is."""
    plain = dataclasses.asdict(config)
    plain["written"] = None if config.written is None else config.written.read_text()
    return {name: _json(value) for name, value in plain.items() if name != "work"}


def _json(value: Any) -> Any:
    if isinstance(value, dict):
        return {name: _json(entry) for name, entry in value.items()}
    return [_json(entry) for entry in value] if isinstance(value, tuple) else value


class Run:
    """All arms of one seed, in `work/seed-{seed}/{arm}/{stage}`."""

    def __init__(self, config: Depth, world: DepthWorld, seed: int):
        self.config, self.world, self.seed = config, world, seed
        self.folder = config.work / f"seed-{seed}"
        self.settings = settings(config) | {"seed": seed}

    def all(self) -> None:
        models: dict[str, Any] = {}
        for name in self.config.arms:
            params = self.world.f
            for iteration in range(self.config.iterations):
                folder = self.folder / name / (f"iteration-{iteration}" if iteration else "")
                images = self.images(ARMS[name], params, folder)
                params = self.finetune(images, params, folder / "finetune")
            models[name] = params
            if images is not None and self.config.iterations == 1:
                for count in self.config.evaluating.efficiency:
                    if count < len(images):
                        few = images[:count]
                        models[f"{name}@{count}"] = self.finetune(few, self.world.f, folder / f"few-{count}")
        self.evaluate(models)

    def images(self, arm: Arm, params: Any, folder: Path) -> list[dict[str, np.ndarray]] | None:
        """The arm's generated training set."""
        if not arm.generates:
            return None
        found = self.prompts(arm, params, folder / "optimize")
        return self.generate(arm, found, folder / "generate")

    def prompts(self, arm: Arm, params: Any, folder: Path) -> list[Prompts]:
        """The arm's prompts, optimised against the model `params` where they are optimised."""
        config, world = self.config.optimizing, self.world
        if arm.fixed:
            return [Prompts((arm.fixed,))]
        if arm.written:
            texts = WRITTEN if self.config.written is None else self.config.written.read_text().splitlines()
            return [Prompts(tuple(filter(None, map(str.strip, texts))))]
        keys = jax.random.split(jax.random.fold_in(jax.random.key(self.seed), 1), config.prompts)
        starts = np.stack([prompts.from_vocabulary(world.params, config.placeholders, key) for key in keys])
        names = tuple(f"<gap-{i}>" for i in range(config.prompts))
        if arm.random:
            return [Prompts(names, starts)]
        return [
            Prompts(names, self.optimize(arm, params, target, starts, folder / (target or "all")), target)
            for target in (world.targets if arm.guidance else [None])
        ]

    def optimizer(self, arm: Arm, params: Any, target: str | None) -> PromptOptimizer:
        """One program for all arms: those without a part have it with weight 0."""
        config, world = self.config.optimizing, self.world
        images = world.targets[target or next(iter(world.targets))]
        guide = image_guidance(world.clip, world.clip_params, images)
        return prompt_optimizer(
            world.pipe,
            world.params,
            Model(world.predict, params),
            [
                adversarial(task.negative_l1, weight=arm.adversarial),
                Term("guidance", *guide, weight=arm.guidance * config.guidance_weight),
            ],
            alignment(arm),
            adamw(config.learning_rate, config.batch),
            placeholders=config.placeholders,
            negative_prompt=NEGATIVE,
            sampling=Sampling(
                config.denoising_steps, config.guidance_scale, backprop_steps=config.backprop_steps
            ),
            early_stop=EarlyStop(config.window, config.threshold) if arm.adversarial else None,
            axis_name="data",
        )

    def optimize(
        self, arm: Arm, params: Any, target: str | None, starts: np.ndarray, folder: Path
    ) -> np.ndarray:
        config = self.config.optimizing

        def load(step: int, rows: slice) -> Arrays:
            random = np.random.default_rng([self.seed, 2, step])
            numbers = random.integers(0, len(self.world.original["image"]), config.batch)[rows]
            return {name: array[numbers] for name, array in self.world.original.items()}

        return optimize(
            self.world.pipe,
            self.optimizer(arm, params, target),
            starts,
            load,
            images_per_step=config.batch,
            steps=config.steps,
            key=jax.random.fold_in(jax.random.key(self.seed), 3),
            folder=folder,
            config=self.settings,
            check=lambda batch: task.check_labels(batch["depth"], batch["mask"]),
            checkpoint_every=10,
        )

    def generate(self, arm: Arm, found: list[Prompts], folder: Path) -> list[dict[str, np.ndarray]]:
        """Images of all the arm's prompts, with the critic's error on each, as fine-tuning takes them."""
        config, world = self.config.generating, self.world
        pipe = world.pipe
        contexts = np.concatenate([self.contexts(some) for some in found])
        uncond = pipe.encode_text(world.params, pipe.tokenize([NEGATIVE]))
        sampling = Sampling(config.denoising_steps, self.config.optimizing.guidance_scale)
        weights = {"pipeline": world.params, "f": world.f, "critic": world.critic, "contexts": contexts}

        def make(weights, batch, keys):
            context = weights["contexts"][batch["prompt"]]
            images = sample(pipe, weights["pipeline"], context, uncond, batch, keys, alignment(arm), sampling)
            guess, judged = (
                world.predict(weights["f"], images),
                world.predict_critic(weights["critic"], images),
            )
            label = batch["depth"], batch["mask"]
            return images, {"f_l1": task.l1(guess, *label), "critic_l1": task.l1(judged, *label)}

        def load(sources: np.ndarray) -> Arrays:
            return {name: array[sources] for name, array in world.original.items()}

        limit = config.max_critic_l1
        generate(
            make,
            weights,
            load,
            plan(config.images, len(world.original["image"]), len(contexts), config.batch, self.seed),
            images_per_step=config.batch,
            seed=self.seed,
            folder=folder,
            config=self.settings,
            prompt_names=tuple(
                text if some.target is None else f"{some.target}: {text}"
                for some in found
                for text in some.texts
            ),
            filters=() if limit is None else (Filter("critic_l1", high=limit),),
        )
        return worlds.read_generated(folder)

    def contexts(self, some: Prompts) -> np.ndarray:
        """Text states of prompts, `[prompts,L,D]`."""
        pipe, params = self.world.pipe, self.world.params
        if some.embeddings is None:
            return np.asarray(pipe.encode_text(params, pipe.tokenize(list(some.texts))))
        count = some.embeddings.shape[1]
        text = ",".join(f"<{i}>" for i in range(count)) + self.config.generating.suffix
        ids = pipe.tokenize([text], count)
        return np.concatenate([pipe.encode_text(params, ids, embeddings) for embeddings in some.embeddings])

    def finetune(self, images: list[dict[str, np.ndarray]] | None, params: Any, folder: Path) -> Any:
        config, world = self.config.finetuning, self.world
        original = [
            {name: array[i] for name, array in world.original.items()}
            for i in range(len(world.original["image"]))
        ]
        return finetune(
            world.predict,
            params,
            lambda prediction, batch: task.l1(prediction, batch["depth"], batch["mask"]),
            Mixture(original, images, config.share),
            lambda example, random: example,
            optax.chain(
                optax.add_decayed_weights(config.weight_decay),
                optax.amsgrad(config.learning_rate),
            ),
            world.validation,
            steps=config.steps,
            images_per_step=config.batch,
            seed=self.seed,
            folder=folder,
            config=self.settings,
            probe_every=max(config.steps // 4, 1),
        )

    def pictures(self, root: Path, count: int = 3, frames: int = 8) -> Iterator[Prompt]:
        """Every prompt of this seed with pictures of the first test rooms, at some of its steps."""
        labels = {name: array[:count] for name, array in self.world.test.items()}
        for name in self.config.arms:
            arm, folder = ARMS[name], self.folder / name / "optimize"
            if not arm.generates:
                continue
            draw = self.drawing(arm, labels)
            for some in self.prompts(arm, self.world.f, folder):
                for i, text in enumerate(some.texts):
                    fields, steps = self.told(arm, some, i, folder / (some.target or "all"), frames)
                    fields |= {"arm": name, "seed": self.seed, "name": text, "target": some.target}
                    if some.target:
                        fields["targets"] = self.target_pictures(some.target, root)
                    place = root / "pictures" / name / f"{some.target or 'all'}-{i}"
                    yield results_of.draw_prompt(fields, draw, steps, labels, place, root)

    def told(
        self, arm: Arm, some: Prompts, i: int, folder: Path, frames: int
    ) -> tuple[dict[str, Any], dict[int, np.ndarray]]:
        """What the report says of a prompt, and its text states by step."""
        if some.embeddings is None:
            return {"losses": {}}, {0: self.contexts(some)[i]}
        world = self.world
        words = prompts.nearest_words(world.pipe, world.params, some.embeddings[i])
        fields: dict[str, Any] = {"losses": {}, "words": tuple(map(tuple, words))}
        if not (arm.adversarial or arm.guidance):
            return fields, {0: self.contexts(some)[i]}
        trajectory = load_trajectory(folder)
        terms = [("adversarial", arm.adversarial), ("guidance", arm.guidance)]
        used = tuple(term for term, weight in terms if weight)
        fields["losses"] = results_of.losses_of(trajectory, i, used)
        fields["stopped"] = results_of.stopping_step(trajectory, i, self.config.optimizing.window)
        last = len(fields["losses"][used[0]]) - 1
        steps = results_of.spread_steps(last, frames)
        path = Prompts(("",) * len(steps), trajectory["embeddings"][steps, i])
        return fields, dict(zip(steps, self.contexts(path), strict=True))

    def drawing(self, arm: Arm, labels: Arrays) -> results_of.Draw:
        """`draw(context) -> (images, predictions)` with the noise of optimising; one program for an arm."""
        world, config = self.world, self.config.optimizing
        uncond = world.pipe.encode_text(world.params, world.pipe.tokenize([NEGATIVE]))
        keys = jax.random.split(jax.random.key(0), len(labels["image"]))
        sampling = Sampling(config.denoising_steps, config.guidance_scale)

        @jax.jit
        def render(params, f, context):
            images = sample(world.pipe, params, context, uncond, labels, keys, alignment(arm), sampling)
            return images, world.predict(f, images)

        return lambda context: jax.device_get(render(world.params, world.f, context[None]))

    def target_pictures(self, target: str, root: Path) -> tuple[str, ...]:
        """The target's images, as paths from `root`."""
        paths = []
        for i, image in enumerate(self.world.targets[target]):
            path = root / "pictures" / "targets" / f"{target}-{i}.png"
            save_picture(path, image)
            paths.append(str(path.relative_to(root)))
        return tuple(paths)

    def evaluate(self, models: dict[str, Any]) -> None:
        """Measure every model, the mean map and the critic; kept in `evaluate.json`."""
        path, world, config = self.folder / "evaluate.json", self.world, self.config.evaluating
        if path.exists():
            return
        whole = {name: params for name, params in models.items() if "@" not in name}
        few = {name: params for name, params in models.items() if "@" in name}
        counts = len(CORRUPTIONS) + len(CORRUPTIONS_3D)
        total = 1 + len(world.domains) + len(config.severities) * counts
        sets = shifts(world.test, world.domains, config.severities)
        found = evaluate(world.predict, whole, sets, METRICS, total=total)
        plain = [Shift("clean", world.test), *(Shift(*domain) for domain in world.domains.items())]
        targets = [shift for shift in plain if shift.name in world.targets]
        if few:
            found |= evaluate(world.predict, few, targets, METRICS)
        mean = {MEAN_MAP: mean_map(world.original)}
        real = Shift("original", {name: array[: config.images] for name, array in world.original.items()})
        found |= evaluate(_always, mean, [*plain, real], METRICS)
        found |= evaluate(world.predict_critic, {"critic": world.critic}, [real], METRICS)
        if jax.process_index() == 0:
            write_whole(path, json.dumps(found, indent=1).encode())


def _always(depth: jax.Array, images: jax.Array) -> jax.Array:
    """The same depth map for all images."""
    return jnp.broadcast_to(depth, (len(images), *depth.shape))


def assemble(config: Depth, world: DepthWorld, runs: list[Run]) -> Results:
    """Everything measured, and pictures of the first seed's prompts."""
    measured = [json.loads((run.folder / "evaluate.json").read_text()) for run in runs]
    made = [name for name in config.arms if ARMS[name].generates]
    last = f"iteration-{config.iterations - 1}" if config.iterations > 1 else ""
    folders = {name: [run.folder / name / last / "generate" for run in runs] for name in made}
    generated = {
        name: results_of.generated(paths, [results_of.critic_errors(path) for path in paths])
        for name, paths in folders.items()
    }
    counts = {name: generated[name].kept // len(runs) for name in made}
    return Results(
        title="Depth in the small world",
        summary="A depth U-Net trained on plain, bright, clear rooms meets fog, darkness, textures, colours.",
        config=settings(config),
        seeds=config.seeds,
        columns=tuple(results_of.columns(measured, config.arms)),
        generated=generated,
        critic_real=tuple(seed["critic"]["original"]["l1"] for seed in measured),
        critic_mean_map=tuple(seed[MEAN_MAP]["original"]["l1"] for seed in measured),
        efficiency=results_of.efficiency(measured, config.arms, tuple(world.targets), counts),
        prompts=tuple(runs[0].pictures(config.work)),
    )


def alignment(arm: Arm) -> Alignment:
    return controlnet_depth(strength=arm.strength)


def mean_map(original: Arrays) -> np.ndarray:
    """The training set's mean depth, `[H,W,1]`: of each pixel where it is valid."""
    valid = np.maximum(original["mask"].sum(0), 1)
    return ((original["depth"] * original["mask"]).sum(0) / valid).astype(np.float32)


METRICS = {
    name: lambda prediction, batch, metric=metric: metric(prediction, batch["depth"], batch["mask"])
    for name, metric in task.METRICS.items()
}


if __name__ == "__main__":
    main(tyro.cli(Depth, description=__doc__))
