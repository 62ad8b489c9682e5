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
    size: int | None = None  # side of generated images in pixels; None: that of the original images


@dataclasses.dataclass(frozen=True, kw_only=True)
class Optimizing:
    """The optimisation of prompts, by AdamW and through the denoising steps."""

    prompts: int = 2  # number of prompts per arm (per target, for guided arms)
    prompts_per_target: int | None = None  # number of prompts per target of guided arms; None: prompts
    placeholders: int = 3  # number of placeholder tokens in a prompt
    random_prompts: int | None = None  # number of prompts of the arm agnostic-random; None: prompts
    # number of placeholder tokens in a prompt of the arm agnostic-random; None: placeholders
    random_placeholders: int | None = None
    # word that prompts start from, or * for random words; None draws from the vocabulary's distribution
    start: str | None = None
    earlier: tuple[Path, ...] = ()  # files of earlier prompts to start from, or folders with learned_embeds*
    # use of the earlier prompts: prompts start as they are; prompts are drawn from the mean and covariance of
    # their embeddings; or from their covariance around the word start or, without it, the vocabulary's mean
    earlier_use: Literal["start", "mean-covariance", "covariance"] = "start"
    steps: int = 12  # number of updates
    unguided_steps: int | None = None  # number of updates of prompts without guidance; None: steps
    # number of original images that prompts are optimised on, equally many of each subset; None: all
    images: int | None = None
    flips: bool = False  # mirror each image, with its depth and masks, with probability 1/2
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
    # weight λ of CLIP's distance to the target images: to their mean or, for the arms "guided-set" and
    # "guided-adversarial-set", to the set of them
    guidance_weight: float = 1.0
    # smoothing of the distance between two sets of images, in units of 1 - cosine similarity: each image
    # counts its near neighbours in the other set, and fewer of them at a lower temperature
    set_temperature: float = 0.02
    text_guidance_weight: float = 1.0  # weight λ of the distance to the target text
    # distance between the text states of a prompt and of the target: the paper's cosine over the positions of
    # the text, the cosine over the features of each position, the mean squared difference (l2), or l2 with
    # each difference divided by the standard deviation of several target texts
    text_distance: Literal["cosine-over-positions", "cosine-over-features", "l2", "standardised-l2"] = (
        "cosine-over-positions"
    )
    inversion_weight: float = 1.0  # weight of textual inversion on the target images
    # weight of the similarity, in CLIP, of images that different prompts of a population generate, for all
    # optimised arms; 0: off
    diversity_weight: float = 0.0
    # distance between CLIP's features of images and of the target: the cosine to the target's mean, or mean
    # squares, standardised by the target's deviation or not
    image_distance: Literal["cosine", "l2", "standardised-l2"] = "cosine"
    adversarial_start: int = 0  # first update in which the adversarial loss of guided prompts counts
    window: int = 1  # number of last updates whose mean adversarial loss early stopping looks at
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
    guidance_scale: float | None = None  # scale of classifier-free guidance; None: that of sampling
    joiner: str = ","  # text between the placeholders of a prompt; while prompts are optimised, it is a comma
    suffix: str = ""  # text that is appended to optimised prompts
    # generate equally many images of each subset; otherwise, in proportion to the subsets' sizes
    balanced: bool = True
    # keep only images whose loss under the model lies between these two quantiles of an arm's images, such as
    # 0.2 0.8, and generate more until the number of images is reached; None: keep all
    difficulty: tuple[float, float] | None = None
    max_critic_loss: float | None = None  # drop images on which the critic's loss is larger; None: keep all
    # drop images less similar to the subject in CLIP; None: keep all
    min_clip_similarity: float | None = None
    # text that the CLIP filter compares images with; used only with min-clip-similarity
    subject: str = "a room"


@dataclasses.dataclass(frozen=True, kw_only=True)
class Finetuning:
    """The fine-tuning of the model."""

    optimizer: Literal["amsgrad", "sgd"] = "amsgrad"  # Adam with AMSGrad, or SGD with momentum 0.9
    steps: int = 80  # number of updates
    batch: int = 8  # images per update
    learning_rate: float = 1e-3  # learning rate of the first update
    # schedule of the learning rate; cosine goes down to 0
    schedule: Literal["constant", "cosine"] = "cosine"
    weight_decay: float = 2e-6  # weight decay, added to the gradient
    # share of generated images in the training data; None: every original and generated image once
    share: float | None = 0.3
    checkpoints: int = 4  # number of checkpoints, of which the best on the validation sets is kept


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
        for name, value in (
            ("optimizing.micro_batch", self.optimizing.micro_batch),
            ("finetuning.checkpoints", self.finetuning.checkpoints),
        ):
            if value < 1:
                raise ValueError(f"{name} must be 1 or more; found {value}")
        if self.optimizing.diversity_weight and self.optimizing.prompts < 2:
            raise ValueError(
                f"a diversity_weight needs several prompts to compare: set prompts to 2 or more; found "
                f"{self.optimizing.prompts}"
            )
        if self.generating.difficulty is not None:
            low, high = self.generating.difficulty
            if not 0 <= low < high <= 1:
                raise ValueError(
                    f"difficulty must be two quantiles with 0 <= low < high <= 1; found {low:g} {high:g}"
                )
        if not self.optimizing.set_temperature > 0:
            raise ValueError(f"set_temperature must be positive; found {self.optimizing.set_temperature:g}")

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
        return json.loads(json.dumps(values, default=str))
