"""The settings of a closed loop: the arms to compare, and the work of each stage.

The comments behind the fields are the help texts of the command line.
"""

import dataclasses
import json
from pathlib import Path
from typing import Any, Literal

from gap_jax.closed_loop.arms import ARMS, arms_of

STAGES = ("optimize", "generate", "finetune", "evaluate", "report")


@dataclasses.dataclass(frozen=True, kw_only=True)
class SamplingSettings:
    """The way Stable Diffusion draws images, both while prompts are optimised and when data is generated."""

    guidance_scale: float = 1.5  # scale of classifier-free guidance; 1 switches it off
    eta: float = 0.0  # DDIM's η: 0 adds no noise between denoising steps, 1 as much as DDPM
    # SDEdit's strength: 1 starts from pure noise, less from the original image with noise added
    strength: float = 1.0


@dataclasses.dataclass(frozen=True, kw_only=True)
class Optimizing:
    """The optimisation of prompts, by AdamW and through the denoising steps."""

    prompts: int = 2  # number of prompts per arm (per target, for guided arms)
    placeholders: int = 3  # number of placeholder tokens in a prompt
    start: str | None = None  # word that prompts start from; None draws from the vocabulary's distribution
    steps: int = 12  # number of updates
    batch: int = 4  # images per update and prompt
    # number of images per prompt that a device computes at once; gradients of a larger batch are
    # accumulated over several passes
    micro_batch: int = 8
    learning_rate: float = 1.2e-2  # AdamW learning rate per image; multiplied by the batch size
    # schedule of the learning rate; linear and cosine go down to 0
    decay: Literal["constant", "linear", "cosine"] = "constant"
    weight_decay: float = 1e-2  # AdamW weight decay of the embeddings
    denoising_steps: int = 5  # denoising steps per image while prompts are optimised
    # number of last denoising steps to differentiate through; None: all of them
    backprop_steps: int | None = None
    guidance_weight: float = 1.0  # weight λ of CLIP's distance to the target images
    text_guidance_weight: float = 1.0  # weight λ of the distance to the target text
    # distance between the text states of a prompt and of the target: the paper's cosine over the positions of
    # the text, the cosine over the features of each position, the mean squared difference (l2), or l2 with
    # each difference divided by the standard deviation of several target texts
    text_distance: Literal["cosine-over-positions", "cosine-over-features", "l2", "standardised-l2"] = (
        "cosine-over-positions"
    )
    inversion_weight: float = 0.0  # weight of textual inversion on the target images, for guided arms; 0: off
    adversarial_start: int = 0  # first update in which the adversarial loss counts
    window: int = 3  # number of last updates whose mean adversarial loss early stopping looks at
    # stop a prompt early when the mean of its last adversarial losses falls below this; None: never
    threshold: float | None = -0.3
    checkpoint_every: int = 5  # updates between checkpoints
    picture_every: int | None = None  # updates between pictures of each prompt; None: no pictures


@dataclasses.dataclass(frozen=True, kw_only=True)
class Generating:
    """The generation of training images."""

    images: int = 64  # number of images to generate per arm
    batch: int = 32  # images generated at once, over all devices
    denoising_steps: int = 10  # denoising steps per generated image
    suffix: str = ""  # text that is appended to optimised prompts
    max_critic_loss: float | None = None  # drop images on which the critic's loss is larger; None: keep all
    # drop images less similar to the subject in CLIP; None: keep all
    min_clip_similarity: float | None = None
    # text that the CLIP filter compares images with; used only with min-clip-similarity
    subject: str = "a room"


@dataclasses.dataclass(frozen=True, kw_only=True)
class Finetuning:
    """The fine-tuning of the model; of four checkpoints, the best on the validation sets is kept."""

    optimizer: Literal["amsgrad", "sgd"] = "amsgrad"  # Adam with AMSGrad, or SGD with momentum 0.9
    steps: int = 80  # number of updates
    batch: int = 8  # images per update
    learning_rate: float = 1e-3  # learning rate of the first update
    # schedule of the learning rate; cosine goes down to 0
    schedule: Literal["constant", "cosine"] = "cosine"
    weight_decay: float = 2e-6  # weight decay, added to the gradient
    share: float = 0.3  # share of generated images in the training data


@dataclasses.dataclass(frozen=True, kw_only=True)
class Evaluating:
    """The measurement of models."""

    images: int = 32  # number of images in each validation set and each test set
    # severities of the corruptions, from 1 to 5; none: no test under corruptions
    severities: tuple[int, ...] = (1, 2, 3, 4, 5)
    efficiency: tuple[int, ...] = (10, 30)  # numbers of generated images to fine-tune with for the curves


@dataclasses.dataclass(frozen=True, kw_only=True)
class Settings:
    """The settings of all stages. The defaults suit the small world of rooms."""

    seeds: tuple[int, ...] = (0,)  # random seeds; the whole experiment is repeated with each
    arms: tuple[str, ...] = arms_of("depth")  # arms to compare
    written: Path | None = None  # text file with one prompt per line for the arm "written"
    iterations: int = 1  # rounds of optimising, generating and fine-tuning, each starting from the last model
    sampling: SamplingSettings = SamplingSettings()
    optimizing: Optimizing = Optimizing()
    generating: Generating = Generating()
    finetuning: Finetuning = Finetuning()
    evaluating: Evaluating = Evaluating()

    def __post_init__(self) -> None:
        unknown = set(self.arms) - set(ARMS)
        if unknown or not self.arms:
            raise ValueError(f"arms must be among {', '.join(ARMS)}; found {', '.join(unknown) or 'none'}")
        if self.iterations < 1:
            raise ValueError(f"iterations must be 1 or more; found {self.iterations}")
        if not self.seeds or len(set(self.seeds)) < len(self.seeds):
            raise ValueError(f"seeds must be one or more different numbers; found {list(self.seeds)}")
        if set(self.evaluating.severities) - {1, 2, 3, 4, 5}:
            raise ValueError(f"severities must be between 1 and 5; found {self.evaluating.severities}")
        if self.optimizing.micro_batch < 1:
            raise ValueError(f"micro_batch must be 1 or more images; found {self.optimizing.micro_batch}")

    def written_lines(self) -> tuple[str, ...]:
        """Return the prompts in the file `written`, without empty lines; no prompts without a file.

        Raises ValueError for a file without a prompt.
        """
        if self.written is None:
            return ()
        lines = map(str.strip, self.written.read_text(encoding="utf-8").splitlines())
        prompts = tuple(filter(None, lines))
        if not prompts:
            raise ValueError(f"{self.written} has no prompt: write one prompt per line")
        return prompts

    def to_json(self) -> dict[str, Any]:
        """Return the settings as JSON values, a file of written prompts replaced by its lines.

        Raises the errors of `written_lines`.
        """
        values = dataclasses.asdict(self) | {"written": self.written_lines() or None}
        return json.loads(json.dumps(values))
