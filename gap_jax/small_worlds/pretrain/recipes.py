"""How long, how fast and from which random numbers the small worlds' models are trained."""

import dataclasses
from pathlib import Path
from typing import Literal

PARTS = (  # each has its own random numbers
    *("vae", "clip", "depth", "critic", "diffusion", "refine"),
    *("waterbirds", "waterbirds_critic", "iwildcam", "iwildcam_critic", "polish", "animals"),
)


@dataclasses.dataclass(frozen=True)
class TrainingPart:
    """How long and how fast one network is trained."""

    steps: int
    batch: int  # images a step, over all devices
    learning_rate: float  # its highest; warmed up, then a cosine to 0
    optimizer: Literal["adamw", "muon"] = "adamw"


@dataclasses.dataclass(frozen=True)
class Recipe:
    """Of what all worlds have: autoencoder, CLIP and diffusion model."""

    world: Literal["rooms", "wildlife"]
    work: Path
    seed: int = 0
    dtype: str = "float32"  # of computation; bfloat16 on accelerators
    few: bool = False  # only some 130 pictures, to try the recipe out
    vae: TrainingPart = TrainingPart(300, 32, 4e-4)
    clip: TrainingPart = TrainingPart(900, 64, 1.5e-3)
    diffusion: TrainingPart = TrainingPart(3600, 32, 3e-3, "muon")
    refine: TrainingPart = TrainingPart(
        3600, 32, 1.5e-3, "muon"
    )  # the diffusion model again, from where it ended
    polish: TrainingPart = TrainingPart(1800, 32, 1e-3, "muon")  # and once more


@dataclasses.dataclass(frozen=True)
class RoomsRecipe(Recipe):
    """The small world of rooms."""

    world: Literal["rooms", "wildlife"] = "rooms"  # what all other settings are by default
    work: Path = Path("runs/pretrain")  # where everything goes
    depth: TrainingPart = TrainingPart(500, 32, 3e-3, "muon")
    critic: TrainingPart = TrainingPart(900, 32, 3e-3, "muon")


@dataclasses.dataclass(frozen=True)
class WildlifeRecipe(Recipe):
    """The small world of animals."""

    world: Literal["rooms", "wildlife"] = "wildlife"  # what all other settings are by default
    work: Path = Path("runs/pretrain-wildlife")  # where everything goes
    refine: TrainingPart = TrainingPart(900, 32, 1.5e-3, "muon")
    polish: TrainingPart = TrainingPart(300, 32, 1e-3, "muon")
    animals: TrainingPart = TrainingPart(900, 32, 3e-3, "muon")
    waterbirds: TrainingPart = TrainingPart(100, 32, 1e-3, "muon")  # from `animals`
    waterbirds_critic: TrainingPart = TrainingPart(900, 32, 3e-3, "muon")
    iwildcam: TrainingPart = TrainingPart(500, 32, 3e-3, "muon")
    iwildcam_critic: TrainingPart = TrainingPart(900, 32, 3e-3, "muon")


RECIPES = {"rooms": RoomsRecipe, "wildlife": WildlifeRecipe}
