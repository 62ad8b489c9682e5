"""The arms of an experiment as the report shows them: their order, and how unknown arms are shown."""

from collections.abc import Iterable

from gap_jax.report.results import CONSTANT, ArmStyle, Results

INK = "#1b1b1f"
_CONSTANT_STYLE = ArmStyle(
    "Constant", "No model: the best single prediction, the same for every image.", INK, "None"
)
_PALETTE = ("#4e8b8b", "#b0447a", "#7d7a2b", "#355c9a", "#a8612f", "#6a5aa0")  # for arms without a style
_MARKERS = ("1", "2", "3", "4", "+", "x")


def arms(results: Results) -> dict[str, ArmStyle]:
    """Return the style of every measured arm: first those that the results describe, the constant last.

    An arm that the results do not describe is shown under its name, in a colour and with a marker that no
    described arm has.
    """
    measured = dict.fromkeys(_measured(results))
    shown = {name: style for name, style in results.arms.items() if name in measured}
    taken = {style.colour.lower() for style in shown.values()}
    colours = [colour for colour in _PALETTE if colour not in taken]
    others = [name for name in measured if name not in shown and name != CONSTANT]
    for i, name in enumerate(others):
        shown[name] = ArmStyle(name, "", colours[i % len(colours)], _MARKERS[i % len(_MARKERS)])
    if CONSTANT in measured:
        shown[CONSTANT] = _CONSTANT_STYLE
    return shown


def _measured(results: Results) -> Iterable[str]:
    for column in results.columns:
        yield from column.scores
    for curves in results.efficiency.values():
        yield from curves
    yield from results.generated
    yield from (prompt.arm for prompt in results.prompts)
