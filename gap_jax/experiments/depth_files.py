"""The depth experiment's world in files: prepared data sets, Stable Diffusion, a depth model of one's own."""

import dataclasses
from collections.abc import Iterator
from pathlib import Path
from typing import Literal

import jax
import numpy as np

from gap_jax.closed_loop.world import Arrays, Network, TargetDomain, Task, World, take, whole
from gap_jax.data.corruptions.common import corrupt
from gap_jax.data.corruptions.files import available, check_complete, corrupted_sets
from gap_jax.data.images import read_images
from gap_jax.data.prepared import Prepared, splits
from gap_jax.experiments.depth_task import depth_task
from gap_jax.tasks.depth import NEGATIVE_PROMPT
from gap_jax.weights.depth import load_depth
from gap_jax.weights.pipeline import load_clip, load_pipeline

TARGET_IMAGES = 8
CORRUPTED = {"fog": "fog", "blur": "defocus_blur"}  # targets made from validation images: the paper's
WRITTEN = (
    "a room in fog",
    "a dark room at night",
    "a blurry photo of a room",
    "a room in bright sunlight",
    "a cluttered room",
    "an old room with patterned wallpaper",
)


@dataclasses.dataclass(frozen=True)
class DepthFiles:
    """Where data and models are: data sets made by `python -m gap_jax.data prepare`; folders or hub ids."""

    data: Path = Path("data/taskonomy")  # `train`: fine-tuned on, and images of its labels generated
    held_out: Path | None = None  # has `validation` and `test`, best of the model's own size; None: `data`
    domains: dict[str, Path] = dataclasses.field(default_factory=dict)  # further test sets by name
    # Of target domains: folders of images, or a domain's data set again, 8 of its images then left out of the
    # test. None: validation images in fog and blur.
    targets: dict[str, Path] = dataclasses.field(default_factory=dict)
    corrupted: Path | None = None  # precomputed 3D Common Corruptions of the test images
    pipeline: str = "stable-diffusion-v1-5/stable-diffusion-v1-5"
    controlnet: str | None = "lllyasviel/sd-controlnet-depth"  # None: the pipeline's own
    clip: str = "openai/clip-vit-large-patch14"
    model: str = "rgb2depth_consistency.pth"  # under improvement: a file, folder or hub id
    critic: str | None = None  # a stronger one, of the same kind of depth; None: the model as it was
    size: int = 256  # pixels, of what the depth models see
    loss: Literal["l1", "midas"] = "l1"  # L1, or MiDaS's: scale- and shift-invariant, with gradients
    dtype: Literal["float32", "bfloat16", "float16"] = "float32"  # of Stable Diffusion and CLIP

    def build(self, held_out: int) -> World:
        """The world, with so many images in each held-out set."""
        original = Prepared(self.data, "train")
        validation, test = (
            Prepared(self.held_out or self.data, split).some(held_out) for split in ("validation", "test")
        )
        if self.corrupted:
            for corruption, severity in available(self.corrupted):
                check_complete(self.corrupted / corruption / str(severity), test.files())
        clean, tested = whole(validation), whole(test)
        domains, targets = {}, {}
        taken = {"clean", *({} if self.targets else CORRUPTED)} & set(self.domains)
        if taken:
            raise ValueError(f"domains cannot be named {', '.join(taken)}: that is another test set's name")
        for name, folder in self.domains.items():
            domains[name], targets[folder] = domain(folder, held_out)
        targets = {
            name: targets[folder] if folder in targets else read_images(folder, self.size)
            for name, folder in self.targets.items()
        }
        if not targets:
            targets = in_fog_and_blur(clean["image"][:TARGET_IMAGES])
            foggy_and_blurred = in_fog_and_blur(tested["image"])
            domains |= {name: {**tested, "image": shown} for name, shown in foggy_and_blurred.items()}
        pipe, params = load_pipeline(self.pipeline, self.controlnet, self.dtype)
        return World(
            "Depth",
            f"{self.model}, trained on {self.data}, under distribution shift.",
            pipe,
            params,
            *load_clip(self.clip, self.dtype),
            self.task(),
            network(self.model, self.size),
            network(self.critic or self.model, self.size),
            original,
            {"clean": clean},
            tested,
            domains,
            {name: TargetDomain(images) for name, images in targets.items()},
            WRITTEN,
            corrupted=lambda: precomputed(self.corrupted, test) if self.corrupted else (),
        )

    def task(self) -> Task:
        """Depth with the chosen loss."""
        return depth_task(self.loss, NEGATIVE_PROMPT)


def network(model: str, size: int) -> Network:
    """A depth model, for images of any size."""
    module, params = load_depth(model)

    def predict(params, images: jax.Array) -> jax.Array:
        shape = (len(images), size, size, images.shape[-1])
        return module.apply({"params": params}, jax.image.resize(images, shape, "bilinear"))

    return Network(predict, params)


def domain(folder: Path, count: int) -> tuple[Arrays, np.ndarray]:
    """Examples of a data set to be tested on, and images of its that are not among them."""
    names = splits(folder)
    source = Prepared(folder, "test" if "test" in names else names[0])
    order = np.random.default_rng(0).permutation(len(source))
    if len(order) <= TARGET_IMAGES:
        raise ValueError(f"{source.folder} has {len(order)} examples, more than {TARGET_IMAGES} are needed")
    targets, tested = order[:TARGET_IMAGES], order[TARGET_IMAGES:][:count]
    return take(source, tested), take(source, targets)["image"]


def in_fog_and_blur(clean: np.ndarray) -> dict[str, np.ndarray]:
    """Images under two Common Corruptions, severity 3."""
    numbers = np.arange(len(clean))
    return {target: corrupt(clean, name, 3, ids=numbers) for target, name in CORRUPTED.items()}


def precomputed(root: Path, test: Prepared) -> Iterator[tuple[str, np.ndarray]]:
    """The test images under precomputed 3D Common Corruptions, by the set's name."""
    return corrupted_sets(root, test.files(), test[0]["image"].shape[0])
