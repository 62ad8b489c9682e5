"""The settings of the depth experiment: its two worlds, and its presets by name.

The comments behind the fields are the help texts of the command line.
"""

import dataclasses
from pathlib import Path
from typing import Annotated, Literal

from gap_jax.closed_loop.command import Preset
from gap_jax.closed_loop.settings import (
    Evaluating,
    Finetuning,
    Generating,
    GeneratorFiles,
    Optimizing,
    SamplingSettings,
    Settings,
)
from gap_jax.ranges import DISTINCT, Count, FileName, Text


@dataclasses.dataclass(frozen=True, kw_only=True)
class SmallRooms:
    """The small world: procedural rooms, and the models that come with gap_jax."""

    original: Count = 512  # number of rooms that the model is fine-tuned on and images are generated from
    target_images: Count = 8  # number of images that show each target domain
    # other target domains: name, and a folder of images, a file of features, or a text; without any, targets
    # are validation rooms in fog and under defocus blur, also given in words
    targets: dict[FileName, Text] = dataclasses.field(default_factory=dict)
    model: Literal["unet", "dpt"] = "unet"  # depth model to improve: the small world's U-Net or DPT-hybrid
    # further depth models: prompts are found against each, and all models are measured on all their images;
    # "unet", "dpt" and "critic" are the small world's own, others are files, folders or hub ids
    models: Annotated[tuple[Text, ...], DISTINCT] = ()


@dataclasses.dataclass(frozen=True, kw_only=True)
class DepthFiles(GeneratorFiles):
    """Data sets made by `python -m gap_jax.data prepare`, and models in files, folders or on the hub."""

    data: Path = Path("data/taskonomy")  # prepared data set whose split "train" is used for training
    # prepared data set with validation and test at the model's own size; None: data
    held_out: Path | None = None
    # further test sets: name and prepared data set
    domains: dict[FileName, Path] = dataclasses.field(default_factory=dict)
    # target domains: name, and a folder of images, a file of features, a text, or the data set of one of the
    # domains, 8 of whose images are then not tested; without any, targets are validation images in fog and
    # under defocus blur, also given in words
    targets: dict[FileName, Text] = dataclasses.field(default_factory=dict)
    corrupted: Path | None = None  # folder of precomputed 3D Common Corruptions of the test images
    # folder or hub id of the ControlNet; None: the pipeline's
    controlnet: Text | None = "lllyasviel/sd-controlnet-depth"
    # depth model to improve: a file, folder or hub id, or module:factory, a function that returns a torch
    # module
    model: Text = "rgb2depth_consistency.pth"
    # stronger depth model that judges generated images; None: the model before fine-tuning
    critic: Text | None = None
    # further depth models: prompts are found against each, and all models are measured on all their images;
    # files, folders or hub ids
    models: Annotated[tuple[Text, ...], DISTINCT] = ()
    size: Count = 256  # side of the images that the depth models see, in pixels
    loss: Literal["l1", "midas"] = "l1"  # fine-tuning loss: L1, or MiDaS's scale- and shift-invariant loss


REPLICA = Path("data/omnidata")
UNET = Settings(
    sampling=SamplingSettings(guidance_scale=7.0, size=384),
    optimizing=Optimizing(
        prompts=8,
        placeholders=4,
        random_prompts=123,
        random_placeholders=1,
        steps=500,
        flips=True,
        batch=8,
        micro_batch=1,  # all prompts are optimised together
        learning_rate=5e-4,
        weight_decay=1e-2,
        denoising_steps=5,
        window=1,
        threshold=-0.2,
        checkpoint_every=20,
        picture_every=50,
    ),
    generating=Generating(
        images=8000,
        batch=8,
        denoising_steps=15,
        guidance_scale=7.5,
        joiner="",
        suffix=",photo,highly detailed,photorealistic",
    ),
    finetuning=Finetuning(steps=10_000, batch=32, learning_rate=3e-5, schedule="constant", share=0.5),
    evaluating=Evaluating(images=1000, efficiency=(10, 100, 1000)),
)
DPT = dataclasses.replace(
    UNET,
    optimizing=dataclasses.replace(UNET.optimizing, threshold=-1.0),
    finetuning=Finetuning(steps=10_000, batch=16, learning_rate=1e-5, schedule="constant", share=0.5),
)
# chosen with seed 100 on corrupted validation rooms: images that are hard, not hopeless
SMALL = Settings(
    arms=("control", "agnostic", "guided", "adversarial", "guided-adversarial", "oracle"),
    sampling=SamplingSettings(guidance_scale=3.0),
    optimizing=Optimizing(prompts=8, prompts_per_target=4, learning_rate=2e-3, threshold=-0.08),
    generating=Generating(images=128, sdedit_strength=0.8),
    finetuning=Finetuning(steps=400, share=0.25),
    evaluating=Evaluating(severities=(2, 4), efficiency=()),
)
PRESETS = {
    "small": Preset(SMALL, SmallRooms()),
    "taskonomy-unet": Preset(UNET, DepthFiles()),
    "taskonomy-dpt": Preset(DPT, DepthFiles(model="omnidata_dpt_depth_v1.ckpt", size=384, loss="midas")),
    "replica": Preset(
        dataclasses.replace(
            UNET, arms=("control", "agnostic", "guided", "adversarial", "guided-adversarial")
        ),
        DepthFiles(domains={"replica": REPLICA}, targets={"replica": str(REPLICA)}),
    ),
}
