"""The settings of a closed loop: the arms to compare, and the work of each stage.

A field's type holds the range of its values, which `Settings` checks. The comments behind the fields are the
help texts of the command line.
"""

import dataclasses
import json
from pathlib import Path
from typing import Annotated, Any, Literal

from gap_jax.closed_loop.arms import ARMS, arms_of
from gap_jax.data.reading.text import read_lines
from gap_jax.ranges import (
    ANY_TEXT,
    DISTINCT,
    FINITE,
    INCREASING,
    NOT_EMPTY,
    Count,
    CountOrZero,
    DenoisingSteps,
    NotNegative,
    Positive,
    Seed,
    Share,
    Text,
    above,
    below,
    between,
    check_ranges,
    one_of,
)

ArmName = Annotated[str, one_of(ARMS)]
STAGES = ("optimize", "generate", "finetune", "evaluate", "report")


@dataclasses.dataclass(frozen=True, kw_only=True)
class GeneratorFiles:
    """Stable Diffusion and CLIP in folders, on the hub or in a small world, and how they compute."""

    # folder or hub id of Stable Diffusion; "small" draws the small world's rooms, "wildlife" its animals
    pipeline: Text = "stable-diffusion-v1-5/stable-diffusion-v1-5"
    clip: Text = "openai/clip-vit-large-patch14"  # folder or hub id of CLIP, or the name of a small world
    dtype: Literal["float32", "bfloat16", "float16"] = "float32"  # precision of Stable Diffusion and CLIP
    # how long sequences attend: the whole map ("xla"), blocks of queries, a fused kernel of the GPU or TPU
    # ("flash"), or what suits the machine
    attention: Literal["auto", "xla", "blocks", "flash"] = "auto"
    # what gradients compute again to save memory: nothing, the blocks of Stable Diffusion and DPT, or these
    # only for images of 256 pixels or more
    recompute: Literal["auto", "nothing", "blocks"] = "auto"


@dataclasses.dataclass(frozen=True, kw_only=True)
class SamplingSettings:
    """The way Stable Diffusion draws images, both while prompts are optimised and when data is generated."""

    guidance_scale: NotNegative = 1.5  # scale of classifier-free guidance; 1 switches it off
    eta: Share = 0.0  # DDIM's η: 0 adds no noise between denoising steps, 1 as much as DDPM
    # SDEdit's strength: 1 starts from pure noise, less from the original image with noise added
    strength: Annotated[float, above(0, 1)] = 1.0
    size: Count | None = None  # side of generated images in pixels; None: that of the original images
    # rule of the denoising steps; euler is for SD-Turbo and the like, lcm for latent consistency models
    solver: Literal["ddim", "dpm-solver", "euler", "lcm"] = "ddim"


@dataclasses.dataclass(frozen=True, kw_only=True)
class Optimizing:
    """The optimisation of prompts, by AdamW and through the denoising steps."""

    prompts: Count = 2  # number of prompts per arm (per target, for guided arms)
    prompts_per_target: Count | None = None  # number of prompts per target of guided arms; None: prompts
    placeholders: Count = 3  # number of placeholder tokens in a prompt
    random_prompts: Count | None = None  # number of prompts of the arm agnostic-random; None: prompts
    # number of placeholder tokens in a prompt of the arm agnostic-random; None: placeholders
    random_placeholders: Count | None = None
    # word that prompts start from, or * for random words; None draws from the vocabulary's distribution
    start: Text | None = None
    # files of earlier prompts to start from, or folders with learned_embeds*
    earlier: Annotated[tuple[Path, ...], DISTINCT] = ()
    # use of the earlier prompts: prompts start as they are; prompts are drawn from the mean and covariance of
    # their embeddings; or from their covariance around the word start or, without it, the vocabulary's mean
    earlier_use: Literal["start", "mean-covariance", "covariance"] = "start"
    steps: CountOrZero = 12  # number of updates
    unguided_steps: Count | None = None  # number of updates of prompts without guidance; None: steps
    # number of original images that prompts are optimised on, equally many of each subset; None: all
    images: Count | None = None
    flips: bool = False  # mirror each image, with its depth and masks, with probability 1/2
    batch: Count = 4  # images per update and prompt
    # number of images per prompt that a device computes at once; gradients of a larger batch are
    # accumulated over several passes
    micro_batch: Count = 8
    learning_rate: Positive = 1.2e-2  # AdamW learning rate per image; multiplied by the batch size
    # schedule of the learning rate; linear and cosine go down to 0
    decay: Literal["constant", "linear", "cosine"] = "constant"
    weight_decay: NotNegative = 1e-2  # AdamW weight decay of the embeddings
    denoising_steps: DenoisingSteps = 5  # denoising steps per image while prompts are optimised
    # number of denoising steps whose networks gradients go through, the last ones; None: all of them
    backprop_steps: Count | None = None
    # number of last denoising steps that gradients pass by a shortcut, which takes the networks' outputs
    # there as constants; backprop_steps then counts the steps before them
    shortcut_steps: CountOrZero = 0
    # first denoising step with classifier-free guidance, from 0, and the first one after it without; any
    # other step takes half the time; None: all steps have guidance
    guided_steps: Annotated[tuple[CountOrZero, CountOrZero], INCREASING] | None = None
    # weight λ of CLIP's distance to the target images: to their mean or, for the arms "guided-set" and
    # "guided-adversarial-set", to the set of them
    guidance_weight: NotNegative = 1.0
    # smoothing of the distance between two sets of images, in units of 1 - cosine similarity: each image
    # counts its near neighbours in the other set, and fewer of them at a lower temperature
    set_temperature: Positive = 0.02
    text_guidance_weight: NotNegative = 1.0  # weight λ of the distance to the target text
    # distance between the text states of a prompt and of the target: the paper's cosine over the positions of
    # the text, the cosine over the features of each position, the mean squared difference (l2), or l2 with
    # each difference divided by the standard deviation of several target texts
    text_distance: Literal["cosine-over-positions", "cosine-over-features", "l2", "standardised-l2"] = (
        "cosine-over-positions"
    )
    inversion_weight: NotNegative = 1.0  # weight of textual inversion on the target images
    # weight of the similarity, in CLIP, of images that different prompts of a population generate, for all
    # optimised arms; 0: off
    diversity_weight: NotNegative = 0.0
    # distance between CLIP's features of images and of the target: the cosine to the target's mean, or mean
    # squares, standardised by the target's deviation or not
    image_distance: Literal["cosine", "l2", "standardised-l2"] = "cosine"
    adversarial_start: CountOrZero = 0  # first update in which the adversarial loss of guided prompts counts
    window: Count = 1  # number of last updates whose mean adversarial loss early stopping looks at
    # stop a prompt early when the mean of its last adversarial losses falls below this; None: never
    threshold: Annotated[float, FINITE] | None = -0.3
    checkpoint_every: Count = 5  # updates between checkpoints
    picture_every: Count | None = None  # updates between pictures of each prompt; None: no pictures


@dataclasses.dataclass(frozen=True, kw_only=True)
class Generating:
    """The generation of training images."""

    images: Count = 64  # number of images to generate per arm
    batch: Count = 32  # images generated at once, over all devices
    denoising_steps: DenoisingSteps = 10  # denoising steps per generated image
    guidance_scale: NotNegative | None = None  # scale of classifier-free guidance; None: that of sampling
    # strength of SDEdit in the arm adversarial-sdedit; the strength of sampling counts if it is lower
    sdedit_strength: Annotated[float, above(0, 1)] = 0.6
    # text between the placeholders of a prompt; while prompts are optimised, it is a comma
    joiner: Annotated[str, ANY_TEXT] = ","
    suffix: Annotated[str, ANY_TEXT] = ""  # text that is appended to optimised prompts
    # generate equally many images of each subset; otherwise, in proportion to the subsets' sizes
    balanced: bool = True
    # keep only images whose loss under the model lies between these two quantiles of an arm's images, such as
    # 0.2 0.8, and generate more until the number of images is reached; None: keep all
    difficulty: Annotated[tuple[Share, Share], INCREASING] | None = None
    # drop images on which the critic's loss is larger; None: keep all
    max_critic_loss: Annotated[float, FINITE] | None = None
    # drop images less similar to the subject in CLIP; None: keep all
    min_clip_similarity: Annotated[float, between(-1, 1)] | None = None
    # text that the CLIP filter compares images with; used only with min-clip-similarity
    subject: Text = "a room"


@dataclasses.dataclass(frozen=True, kw_only=True)
class Finetuning:
    """The fine-tuning of the model."""

    optimizer: Literal["amsgrad", "sgd"] = "amsgrad"  # Adam with AMSGrad, or SGD with momentum 0.9
    steps: Count = 80  # number of updates
    batch: Count = 8  # images per update
    learning_rate: Positive = 1e-3  # learning rate of the first update
    # schedule of the learning rate; cosine goes down to 0
    schedule: Literal["constant", "cosine"] = "cosine"
    weight_decay: NotNegative = 2e-6  # weight decay, added to the gradient
    # share of generated images in the training data; None: every original and generated image once
    share: Annotated[float, below(0, 1)] | None = 0.3
    checkpoints: Count = 4  # number of checkpoints, of which the best on the validation sets is kept


@dataclasses.dataclass(frozen=True, kw_only=True)
class Evaluating:
    """The measurement of models."""

    images: Count = 32  # number of images in each validation set and each test set
    # severities of the corruptions, from 1 to 5; none: no test under corruptions
    severities: Annotated[tuple[Annotated[int, between(1, 5)], ...], DISTINCT] = (1, 2, 3, 4, 5)
    # numbers of generated images to fine-tune with for the curves
    efficiency: Annotated[tuple[Count, ...], DISTINCT] = (10, 30)


@dataclasses.dataclass(frozen=True, kw_only=True)
class Settings:
    """The settings of all stages. The defaults suit a short run in the small world of rooms."""

    # random seeds; the whole experiment is repeated with each
    seeds: Annotated[tuple[Seed, ...], NOT_EMPTY, DISTINCT] = (0,)
    # arms to compare
    arms: Annotated[tuple[ArmName, ...], NOT_EMPTY, DISTINCT] = arms_of("depth")
    written: Path | None = None  # text file with one prompt per line for the arm "written"
    # rounds of optimising, generating and fine-tuning, each starting from the last model
    iterations: Count = 1
    sampling: SamplingSettings = SamplingSettings()
    optimizing: Optimizing = Optimizing()
    generating: Generating = Generating()
    finetuning: Finetuning = Finetuning()
    evaluating: Evaluating = Evaluating()

    def __post_init__(self) -> None:
        check_ranges(self)
        if self.optimizing.diversity_weight and self.optimizing.prompts < 2:
            raise ValueError(
                f"a diversity_weight needs several prompts to compare: set prompts to 2 or more; found "
                f"{self.optimizing.prompts}"
            )
        num_steps = int(self.optimizing.denoising_steps * self.sampling.strength)
        if 0 < num_steps <= self.optimizing.shortcut_steps:
            raise ValueError(
                f"shortcut_steps must be less than the {num_steps} denoising steps that run, so that the "
                f"gradient passes through the networks of one; found {self.optimizing.shortcut_steps}"
            )

    def generation_strength(self, sdedit: bool) -> float:
        """Return the strength that training images are generated with, in an arm that is SDEdit or not."""
        general = self.sampling.strength
        return min(self.generating.sdedit_strength, general) if sdedit else general

    def written_lines(self) -> tuple[str, ...]:
        """Return the prompts in the file `written`, without empty lines; no prompts without a file.

        Raises ValueError for a file without a prompt.
        """
        if self.written is None:
            return ()
        prompts = tuple(line for _, line in read_lines(self.written))
        if not prompts:
            raise ValueError(f"{self.written} has no prompt: write one prompt per line")
        return prompts

    def to_json(self) -> dict[str, Any]:
        """Return the settings as JSON values, a file of written prompts replaced by its lines.

        Raises the errors of `written_lines`.
        """
        values = dataclasses.asdict(self) | {"written": self.written_lines() or None}
        return json.loads(json.dumps(values, default=str))

    def identity(self) -> dict[str, Any]:
        """Return, as JSON, the settings that work in a folder must share: all but those of what is compared.

        Seeds, arms, iterations and the numbers of images for curves may change in a folder, where earlier
        work is kept. Raises the errors of `written_lines`.
        """
        values = self.to_json()
        del values["seeds"], values["arms"], values["iterations"], values["evaluating"]["efficiency"]
        return values
