"""The arms of an experiment as the report shows them: order, names, what each is, colours and markers.

Colours are told apart with any colour vision and on white as on near-black, markers without any colour.
"""

from collections.abc import Iterable
from typing import NamedTuple

from gap_jax.report.results import CONSTANT, Results

INK = "#1b1b1f"


class ArmStyle(NamedTuple):
    """`marker` is one of matplotlib's."""

    label: str
    description: str
    colour: str
    marker: str


_KNOWN = {
    "control": ArmStyle("Control", "the same fine-tuning without generated images", "#7c7c7c", "o"),
    "agnostic": ArmStyle(
        "Agnostic", "images of one fixed prompt, chosen without looking at anything", "#7ea9d4", "^"
    ),
    "agnostic-random": ArmStyle(
        "Agnostic (random)",
        "prompts drawn from the distribution of the vocabulary's embeddings",
        "#5a7cf0",
        "v",
    ),
    "written": ArmStyle("Written", "prompts that a person wrote for the shifts", "#8b4f80", "P"),
    "guided": ArmStyle(
        "Guided", "prompts optimised towards images of a target domain, by CLIP alone", "#1f7a57", "s"
    ),
    "adversarial": ArmStyle("Adversarial", "prompts optimised to maximise the model's loss", "#dc8d15", "D"),
    "adversarial-sdedit": ArmStyle(
        "Adversarial (SDEdit)", "the same prompts, generating from the noised original image", "#c94005", "X"
    ),
    "guided-adversarial": ArmStyle(
        "Guided adversarial", "prompts optimised for both, the model's loss and the target", "#5b4cd6", "*"
    ),
    "guided-text": ArmStyle(
        "Guided (text)", "prompts optimised towards the target in words, by the text encoder", "#63a788", "<"
    ),
    "guided-adversarial-text": ArmStyle(
        "Guided adversarial (text)", "prompts optimised for the model's loss and these words", "#a294ea", ">"
    ),
    "balanced": ArmStyle("Balanced", "no images: all groups are seen as often", "#9aa02c", "p"),
    "randaugment": ArmStyle("RandAugment", "no images: the originals are augmented", "#c76a8f", "h"),
    "augmix": ArmStyle("AugMix", "no images: mixtures of augmentations of the originals", "#2a9db0", "d"),
    "cutmix": ArmStyle("CutMix", "no images: pieces of other originals are pasted in", "#a0522d", "8"),
    "copy-paste": ArmStyle("Copy-paste", "no images: animals are pasted on other originals", "#6b5b3e", "H"),
    CONSTANT: ArmStyle(
        "Constant",
        "no model: one prediction for all images, the best there is",
        INK,
        "None",
    ),
}
_OTHERS = (("#a0522d", "1"), ("#2a9db0", "2"), ("#9aa02c", "3"), ("#c76a8f", "4"))  # in turn


def arms(results: Results) -> dict[str, ArmStyle]:
    """Every arm that was measured: those known here in their order, then others, the constant last."""
    return _describe(_measured(results))


def _measured(results: Results) -> Iterable[str]:
    for column in results.columns:
        yield from column.scores
    for curves in results.efficiency.values():
        yield from curves
    yield from results.generated
    yield from (prompt.arm for prompt in results.prompts)


def _describe(names: Iterable[str]) -> dict[str, ArmStyle]:
    found = dict.fromkeys(names)
    others = [name for name in found if name not in _KNOWN]
    drawn = {name: ArmStyle(name, "", *_OTHERS[i % len(_OTHERS)]) for i, name in enumerate(others)}
    first = {name: arm for name, arm in _KNOWN.items() if name in found and name != CONSTANT}
    last = {CONSTANT: _KNOWN[CONSTANT]} if CONSTANT in found else {}
    return first | drawn | last
