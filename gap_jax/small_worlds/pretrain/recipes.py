"""The recipes of the small worlds' models: how long and how fast each is trained, and from which seed."""

import dataclasses
from pathlib import Path
from typing import Literal

from gap_jax.ranges import Count, Positive, Seed, Text

PARTS = (  # a part's position here decides its random numbers, so new parts go to the end
    *("vae", "clip", "depth", "critic", "diffusion", "refine"),
    *("waterbirds", "waterbirds_critic", "iwildcam", "iwildcam_critic", "polish", "animals"),
    *("segmentation", "dpt"),
)


@dataclasses.dataclass(frozen=True)
class TrainingPart:
    """The training of one network."""

    steps: Count  # number of updates
    batch: Count  # images per step, over all devices
    learning_rate: Positive  # highest learning rate; warmed up over 2 % of the steps, then a cosine to 0
    optimizer: Literal["adamw", "muon"] = "adamw"  # Muon trains biases and scales by Adam


@dataclasses.dataclass(frozen=True)
class Recipe:
    """The training of the models that every world has: autoencoder, CLIP and diffusion model."""

    world: Literal["rooms", "wildlife"]
    work: Path
    seed: Seed = 0  # seed of all random numbers but the pictures'
    dtype: Text = "float32"  # dtype of the computation, such as bfloat16 on accelerators
    few: bool = False  # use about 130 training pictures and small probes, to try the recipe out
    # the autoencoder's decoder; its encoder is a PCA of patches
    vae: TrainingPart = TrainingPart(300, 32, 4e-4)
    # CLIP's text and vision models
    clip: TrainingPart = TrainingPart(900, 64, 1.5e-3)
    # the diffusion model: the UNet and, for rooms, the ControlNet
    diffusion: TrainingPart = TrainingPart(3600, 32, 3e-3, "muon")
    # the diffusion model again, from the weights that `diffusion` ended with
    refine: TrainingPart = TrainingPart(900, 32, 1.5e-3, "muon")
    # the diffusion model once more, from the weights that `refine` ended with
    polish: TrainingPart = TrainingPart(300, 32, 1e-3, "muon")


@dataclasses.dataclass(frozen=True)
class RoomsRecipe(Recipe):
    """The small world of rooms."""

    world: Literal["rooms", "wildlife"] = "rooms"  # the world, which decides all other defaults
    work: Path = Path("runs/pretrain")  # folder of everything that is written
    # the autoencoder's decoder; its encoder is a PCA of patches
    vae: TrainingPart = TrainingPart(2000, 32, 6e-4)
    # CLIP's text and vision models
    clip: TrainingPart = TrainingPart(3000, 64, 1.5e-3)
    # the diffusion model: the UNet and the ControlNet
    diffusion: TrainingPart = TrainingPart(4000, 32, 3e-3, "muon")
    # the diffusion model again, from the weights that `diffusion` ended with
    refine: TrainingPart = TrainingPart(4000, 32, 1.5e-3, "muon")
    # the diffusion model once more, from the weights that `refine` ended with
    polish: TrainingPart = TrainingPart(700, 32, 1e-3, "muon")
    # the depth model `f`, trained on rooms of a narrow style
    depth: TrainingPart = TrainingPart(800, 16, 3e-3, "muon")
    # the depth model trained on rooms of all styles
    critic: TrainingPart = TrainingPart(900, 32, 3e-3, "muon")
    # the segmentation model, trained on rooms of a narrow style
    segmentation: TrainingPart = TrainingPart(500, 32, 3e-3, "muon")
    # the small DPT-hybrid, trained on rooms of a narrow style like `depth`
    dpt: TrainingPart = TrainingPart(2000, 16, 3e-3, "muon")


@dataclasses.dataclass(frozen=True)
class WildlifeRecipe(Recipe):
    """The small world of animals."""

    world: Literal["rooms", "wildlife"] = "wildlife"  # the world, which decides all other defaults
    work: Path = Path("runs/pretrain-wildlife")  # folder of everything that is written
    # a classifier of all animals, from which `waterbirds` starts
    animals: TrainingPart = TrainingPart(900, 32, 3e-3, "muon")
    # the classifier of the experiment Waterbirds
    waterbirds: TrainingPart = TrainingPart(100, 32, 1e-3, "muon")
    # its critic, trained on birds in all places and lights
    waterbirds_critic: TrainingPart = TrainingPart(900, 32, 3e-3, "muon")
    # the classifier of the experiment iWildCam
    iwildcam: TrainingPart = TrainingPart(500, 32, 3e-3, "muon")
    # its critic, trained on mammals in all places and lights, and on the training cameras' pictures
    iwildcam_critic: TrainingPart = TrainingPart(900, 32, 3e-3, "muon")


RECIPES = {"rooms": RoomsRecipe, "wildlife": WildlifeRecipe}
