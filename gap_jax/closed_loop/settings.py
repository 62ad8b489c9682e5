"""What a closed loop is to do: its stages, the arms it compares, the settings of each stage."""

import dataclasses
import json
from pathlib import Path
from typing import Any, Literal, NamedTuple

STAGES = ("optimize", "generate", "finetune", "evaluate", "report")
BASELINES = ("balanced", "randaugment", "augmix", "cutmix", "copy-paste")  # arms that a world may have


class Arm(NamedTuple):
    """How an arm's prompts come about; without any, it generates nothing."""

    adversarial: float = 0.0  # weight of the model's loss
    guidance: float = 0.0  # weight of CLIP's distance to the target images
    text_guidance: float = 0.0  # weight of the distance to the target's text
    random: bool = False  # drawn from the vocabulary's distribution
    written: bool = False  # by a person
    fixed: bool = False  # the world's agnostic one
    prompts_of: str | None = None  # those of another arm
    strength: float = 1.0  # of SDEdit in generating; 1: from noise

    @property
    def guided(self) -> bool:
        return bool(self.guidance or self.text_guidance)

    @property
    def optimized(self) -> bool:
        return bool(self.adversarial or self.guided)

    @property
    def generates(self) -> bool:
        return self.optimized or self.random or self.written or self.fixed


ARMS = {
    "control": Arm(),
    "agnostic": Arm(fixed=True),
    "agnostic-random": Arm(random=True),
    "written": Arm(written=True),
    "guided": Arm(guidance=1.0),
    "adversarial": Arm(adversarial=1.0),
    "adversarial-sdedit": Arm(adversarial=1.0, prompts_of="adversarial", strength=0.6),
    "guided-adversarial": Arm(adversarial=1.0, guidance=1.0),
    "guided-text": Arm(text_guidance=1.0),
    "guided-adversarial-text": Arm(adversarial=1.0, text_guidance=1.0),
    **dict.fromkeys(BASELINES, Arm()),
}


@dataclasses.dataclass(frozen=True)
class Optimizing:
    """Optimising prompts: AdamW through all of sampling."""

    prompts: int = 2  # of an arm, for each target if it is guided
    placeholders: int = 3  # tokens of a prompt
    start: str | None = None  # the word they begin as; none: drawn from the vocabulary's distribution
    steps: int = 12  # updates
    batch: int = 4  # images an update
    at_once: int = 8  # images of each prompt that a device computes at once; more are accumulated
    learning_rate: float = 1.2e-2  # times the batch
    decay: Literal["constant", "linear", "cosine"] = "constant"  # of the learning rate, to 0
    weight_decay: float = 1e-2
    denoising_steps: int = 5
    eta: float = 0.0  # DDIM's: 0 draws no noise on the way, 1 as much as DDPM; in generating, too
    strength: float = 1.0  # of SDEdit: 1, from noise; in generating, too
    guidance_scale: float = 1.5  # of the prompt: classifier-free guidance; in generating, too
    guidance_weight: float = 1.0  # λ, of CLIP's distance to the target
    text_guidance_weight: float = 1.0  # λ, of the distance to the target's text
    text_distance: Literal["l2", "cosine"] = "cosine"
    adversarial_start: int = 0  # the update from which on the model's loss counts
    window: int = 3  # adversarial losses that early stopping averages
    threshold: float | None = -0.3  # below which their mean stops, and the window's oldest prompt is taken
    backprop_steps: int | None = None  # last denoising steps to differentiate; all
    checkpoint_every: int = 5  # updates


@dataclasses.dataclass(frozen=True)
class Generating:
    """Generating training sets."""

    images: int = 64  # of an arm
    batch: int = 32  # images at once
    denoising_steps: int = 10
    suffix: str = ""  # after an optimised prompt
    max_critic_loss: float | None = None  # images on which the critic errs more are dropped
    subject: str = "a room"  # what images are to show, for the next
    min_clip_similarity: float | None = None  # images whose cosine to the subject in CLIP is less are dropped


@dataclasses.dataclass(frozen=True)
class Finetuning:
    """Fine-tuning the model; of four times, the parameters with the least validation loss."""

    optimizer: Literal["amsgrad", "sgd"] = "amsgrad"  # Adam's variant; SGD with momentum 0.9
    steps: int = 80
    batch: int = 8  # images an update
    learning_rate: float = 1e-3
    schedule: Literal["constant", "cosine"] = "cosine"  # of the learning rate, from there to 0
    weight_decay: float = 2e-6
    share: float = 0.3  # of generated images in a batch


@dataclasses.dataclass(frozen=True)
class Evaluating:
    """Measuring."""

    images: int = 32  # of each test set
    severities: tuple[int, ...] = (1, 2, 3, 4, 5)
    efficiency: tuple[int, ...] = (10, 30)  # numbers of generated images for the data-efficiency curves


@dataclasses.dataclass(frozen=True)
class Settings:
    """Of all stages; the defaults are the small world's."""

    seeds: tuple[int, ...] = (0,)  # everything is repeated with each
    arms: tuple[str, ...] = tuple(ARMS)[:8]  # what to compare
    written: Path | None = None  # a file of prompts, one a line, for the arm `written`
    iterations: int = 1  # of optimise, generate, fine-tune, each on the model before
    optimizing: Optimizing = Optimizing()
    generating: Generating = Generating()
    finetuning: Finetuning = Finetuning()
    evaluating: Evaluating = Evaluating()

    def __post_init__(self) -> None:
        unknown = set(self.arms) - set(ARMS)
        if unknown or not self.arms:
            raise ValueError(f"arms must be among {', '.join(ARMS)}, found {', '.join(unknown) or 'none'}")
        if self.iterations < 1 or not self.seeds or len(set(self.seeds)) < len(self.seeds):
            raise ValueError("iterations and seeds must be one or more, seeds all different")
        if set(self.evaluating.severities) - {1, 2, 3, 4, 5}:
            raise ValueError(f"severities must be among 1 to 5, found {self.evaluating.severities}")
        if self.optimizing.at_once < 1:
            raise ValueError(f"at_once must be one image or more, found {self.optimizing.at_once}")

    def plain(self) -> dict[str, Any]:
        """As JSON, to be kept and compared, with a file of prompts as its lines; ValueError for none."""
        values = dataclasses.asdict(self)
        if self.written is not None:
            values["written"] = list(filter(None, map(str.strip, self.written.read_text().splitlines())))
            if not values["written"]:
                raise ValueError(f"{self.written} has no prompt: write one on each line")
        return json.loads(json.dumps(values))
