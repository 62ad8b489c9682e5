"""The arms that experiments compare: where each gets its training images, and how the report shows it.

An arm is one way to make training data. The paper's arms generate images with prompts of one kind; baselines
change the original images instead; `control` adds nothing. Colours are told apart with any colour vision, on
white and on near-black; markers are matplotlib's and differ without any colour.
"""

import dataclasses
from collections.abc import Sequence
from typing import Literal

from gap_jax.report.results import ArmStyle

ExperimentName = Literal["depth", "waterbirds", "iwildcam"]
_EVERY: tuple[ExperimentName, ...] = ("depth", "waterbirds", "iwildcam")
_CLASSIFICATION: tuple[ExperimentName, ...] = ("waterbirds", "iwildcam")


@dataclasses.dataclass(frozen=True, kw_only=True)
class Arm:
    """One way to make training data.

    - `prompts`: where its prompts come from. `none` generates no images; `agnostic` is the world's fixed
      prompt; `random` draws embeddings from the vocabulary's distribution; `written` uses prompts that a
      person wrote; `optimized` minimises the terms below.
    - `adversarial`, `guidance`, `set_guidance`, `text_guidance`, `inversion`: factors on the weights of the
      model's loss, of CLIP's distance to the mean of the target images, of its distance to the set of them,
      of the distance to the target text, and of textual inversion on the target images. 0 switches a term
      off.
    - `words`: True if prompts consist of real words, as in PEZ (Wen et al., arXiv 2302.03668): images are
      generated with the words nearest to the embeddings, whose gradient updates the embeddings.
    - `prompts_of`: the arm whose optimised prompts are used instead of own ones.
    - `sdedit`: True if generation starts from the original image with noise added (SDEdit, Meng et al., arXiv
      2108.01073), of the strength `Generating.sdedit_strength`.
    - `baseline`: True if the arm changes the original images instead of generating new ones.
    - `experiments`: the experiments that compare it by default.
    """

    style: ArmStyle
    prompts: Literal["none", "agnostic", "random", "written", "optimized"] = "none"
    adversarial: float = 0.0
    guidance: float = 0.0
    set_guidance: float = 0.0
    text_guidance: float = 0.0
    inversion: float = 0.0
    words: bool = False
    prompts_of: str | None = None
    sdedit: bool = False
    baseline: bool = False
    experiments: tuple[ExperimentName, ...] = _EVERY

    @property
    def guided(self) -> bool:
        """True if its prompts are drawn towards a target domain."""
        return bool(self.guidance or self.set_guidance or self.text_guidance or self.inversion)


ARMS: dict[str, Arm] = {
    "control": Arm(style=ArmStyle("Control", "The same fine-tuning without added images.", "#7c7c7c", "o")),
    "agnostic": Arm(
        style=ArmStyle(
            "Agnostic", "Images of one fixed prompt that knows neither model nor target.", "#7ea9d4", "^"
        ),
        prompts="agnostic",
    ),
    "agnostic-random": Arm(
        style=ArmStyle(
            "Agnostic (random)",
            "Images of prompts drawn from the distribution of the vocabulary’s embeddings.",
            "#5a7cf0",
            "v",
        ),
        prompts="random",
        experiments=("depth",),
    ),
    "written": Arm(
        style=ArmStyle(
            "Written", "Images of prompts that a person wrote for the target domains.", "#8b4f80", "P"
        ),
        prompts="written",
    ),
    "guided": Arm(
        style=ArmStyle(
            "Guided", "Prompts optimised towards images of a target domain, by CLIP alone.", "#1f7a57", "s"
        ),
        prompts="optimized",
        guidance=1.0,
    ),
    "adversarial": Arm(
        style=ArmStyle("Adversarial", "Prompts optimised to maximise the model’s loss.", "#dc8d15", "D"),
        prompts="optimized",
        adversarial=1.0,
    ),
    "adversarial-sdedit": Arm(
        style=ArmStyle(
            "Adversarial (SDEdit)",
            "The adversarial prompts, but generation starts from the noised original image.",
            "#c94005",
            "X",
        ),
        prompts="optimized",
        adversarial=1.0,
        prompts_of="adversarial",
        sdedit=True,
        experiments=("depth",),
    ),
    "guided-adversarial": Arm(
        style=ArmStyle(
            "Guided adversarial",
            "Prompts optimised both to raise the model’s loss and to match the target domain.",
            "#5b4cd6",
            "*",
        ),
        prompts="optimized",
        adversarial=1.0,
        guidance=1.0,
    ),
    "guided-set": Arm(
        style=ArmStyle(
            "Guided (set)",
            "Prompts optimised so that together their images match all images of a target domain.",
            "#be05aa",
            "$S$",
        ),
        prompts="optimized",
        set_guidance=1.0,
        experiments=(),
    ),
    "guided-adversarial-set": Arm(
        style=ArmStyle(
            "Guided adversarial (set)",
            "Prompts optimised both to raise the model’s loss and, together, to match all target images.",
            "#736ec8",
            "$A$",
        ),
        prompts="optimized",
        adversarial=1.0,
        set_guidance=1.0,
        experiments=(),
    ),
    "guided-text": Arm(
        style=ArmStyle(
            "Guided (text)",
            "Prompts optimised towards a text that describes the target domain.",
            "#63a788",
            "<",
        ),
        prompts="optimized",
        text_guidance=1.0,
        experiments=("waterbirds",),
    ),
    "guided-adversarial-text": Arm(
        style=ArmStyle(
            "Guided adversarial (text)",
            "Prompts optimised both to raise the model’s loss and to match a text.",
            "#a294ea",
            ">",
        ),
        prompts="optimized",
        adversarial=1.0,
        text_guidance=1.0,
        experiments=("waterbirds",),
    ),
    "guided-inversion": Arm(
        style=ArmStyle(
            "Guided (inversion)",
            "Prompts under which the generator denoises images of the target domain best: textual inversion.",
            "#f44db3",
            r"$\clubsuit$",
        ),
        prompts="optimized",
        inversion=1.0,
        experiments=(),
    ),
    "guided-adversarial-inversion": Arm(
        style=ArmStyle(
            "Guided adversarial (inversion)",
            "Prompts optimised both to raise the model’s loss and for textual inversion of the target.",
            "#9d3023",
            r"$\spadesuit$",
        ),
        prompts="optimized",
        adversarial=1.0,
        inversion=1.0,
        experiments=(),
    ),
    "adversarial-words": Arm(
        style=ArmStyle(
            "Adversarial (words)",
            "Adversarial prompts of real words: the nearest ones stand in for the embeddings (PEZ).",
            "#e6055a",
            r"$W$",
        ),
        prompts="optimized",
        adversarial=1.0,
        words=True,
        experiments=(),
    ),
    "balanced": Arm(
        style=ArmStyle("Balanced", "No added images; every group is sampled equally often.", "#9aa02c", "p"),
        baseline=True,
        experiments=_CLASSIFICATION,
    ),
    "randaugment": Arm(
        style=ArmStyle("RandAugment", "No added images; the originals are augmented.", "#c76a8f", "h"),
        baseline=True,
        experiments=_CLASSIFICATION,
    ),
    "augmix": Arm(
        style=ArmStyle(
            "AugMix", "No added images; the originals are mixed with augmented copies.", "#2a9db0", "d"
        ),
        baseline=True,
        experiments=_CLASSIFICATION,
    ),
    "cutmix": Arm(
        style=ArmStyle("CutMix", "No added images; pieces of other originals are pasted in.", "#a0522d", "8"),
        baseline=True,
        experiments=_CLASSIFICATION,
    ),
    "copy-paste": Arm(
        style=ArmStyle(
            "Copy-paste", "Added images are foregrounds pasted on other originals.", "#6b5b3e", "H"
        ),
        baseline=True,
        experiments=_CLASSIFICATION,
    ),
    "oracle": Arm(
        style=ArmStyle(
            "Oracle",
            "Added images are true renders, in looks from which the model can learn much: what a perfect "
            "generator could give.",
            "#b9874b",
            r"$\diamondsuit$",
            reference=True,
        ),
        baseline=True,
        experiments=(),
    ),
}


def arms_of(experiment: ExperimentName) -> tuple[str, ...]:
    """Return the names of the arms that an experiment compares by default, in the report's order."""
    return tuple(name for name, arm in ARMS.items() if experiment in arm.experiments)


def adversarial_arm(arms: Sequence[str]) -> str:
    """Return the first arm that optimises adversarial prompts of its own; unguided ones come first.

    Raises ValueError if there is none.
    """
    found = [name for name in arms if ARMS[name].adversarial and ARMS[name].prompts_of is None]
    if not found:
        raise ValueError(
            f"several models are compared by adversarial prompts, but the arms {', '.join(arms)} have none: "
            "add the arm adversarial, or leave the further models out"
        )
    return min(found, key=lambda name: ARMS[name].guided)
