"""Settings of the depth experiment by name: the small world's, and the paper's for real data and models."""

import dataclasses
from pathlib import Path

from gap_jax.closed_loop.settings import Evaluating, Finetuning, Generating, Optimizing, Settings
from gap_jax.experiments.depth_files import DepthFiles
from gap_jax.experiments.depth_rooms import SmallRooms

REPLICA = Path("data/omnidata")
UNET = Settings(
    optimizing=Optimizing(
        prompts=8,
        placeholders=4,
        steps=500,
        batch=8,
        at_once=1,  # all prompts are optimised together
        learning_rate=5e-4,
        weight_decay=1e-2,
        denoising_steps=5,
        guidance_scale=7.0,
        window=10,
        threshold=-0.2,
        checkpoint_every=20,
    ),
    generating=Generating(
        images=8000, batch=8, denoising_steps=15, suffix=",photo,highly detailed,photorealistic"
    ),
    finetuning=Finetuning(steps=10_000, batch=32, learning_rate=3e-5, schedule="constant", share=0.5),
    evaluating=Evaluating(images=1000, efficiency=(10, 100, 1000)),
)
DPT = dataclasses.replace(
    UNET,
    optimizing=dataclasses.replace(UNET.optimizing, threshold=-2.0),
    finetuning=Finetuning(steps=10_000, batch=16, learning_rate=1e-5, schedule="constant", share=0.5),
)
PRESETS: dict[str, tuple[Settings, SmallRooms | DepthFiles]] = {
    "small": (Settings(), SmallRooms()),
    "taskonomy-unet": (UNET, DepthFiles()),
    "taskonomy-dpt": (DPT, DepthFiles(model="omnidata_dpt_depth_v2.ckpt", size=384, loss="midas")),
    "replica": (
        dataclasses.replace(
            UNET, arms=("control", "agnostic", "guided", "adversarial", "guided-adversarial")
        ),
        DepthFiles(domains={"replica": REPLICA}, targets={"replica": REPLICA}),
    ),
}
