"""The arms of a report: their order, and the styles of arms that the results do not describe."""

from collections.abc import Iterator

from gap_jax.report.results import CONSTANT, ArmStyle, Results

INK = "#1b1b1f"
_CONSTANT_STYLE = ArmStyle(
    "Constant", "No model: the best single prediction, the same for every image.", INK, "None", reference=True
)
# Colours that are told apart from each other, from INK and from those of `closed_loop.arms`, with any colour
# vision, and seen on white and near-black.
_PALETTE = ("#b9874b", "#7828f5", "#e6055a", "#554b91", "#bea073", "#be05aa", "#736ec8", "#b20d00")
_MARKERS = ("x", "+", "4", "3", "2", "1")  # no described arm but an earlier iteration has these


def arm_styles(results: Results) -> dict[str, ArmStyle]:
    """Return the style of every arm with numbers or prompts, in the report's order.

    Arms that the results describe come first, the constant prediction last. An arm that the results do not
    describe is labelled with its name and gets a colour and a marker that no described arm has; they repeat
    only when there are more such arms than colours or markers left.
    """
    names = dict.fromkeys(_names(results))
    styles = {name: style for name, style in results.arms.items() if name in names}
    colours = {style.colour.lower() for style in results.arms.values()}
    markers = {style.marker for style in results.arms.values()}
    free_colours = [colour for colour in _PALETTE if colour not in colours] or _PALETTE
    free_markers = [marker for marker in _MARKERS if marker not in markers] or _MARKERS
    undescribed = [name for name in names if name not in styles and name != CONSTANT]
    for i, name in enumerate(undescribed):
        colour, marker = free_colours[i % len(free_colours)], free_markers[i % len(free_markers)]
        styles[name] = ArmStyle(name, "", colour, marker)
    if CONSTANT in names:
        styles[CONSTANT] = _CONSTANT_STYLE
    return styles


def references(results: Results) -> set[str]:
    """Return the names of the arms that are measured for reference alone; the constant prediction is one."""
    return {name for name, style in results.arms.items() if style.reference} | {CONSTANT}


def iterated_arms(results: Results) -> dict[str, tuple[str, ...]]:
    """Return the names of each arm after iterations 1 to n, by its own name; empty for one iteration."""
    styles = arm_styles(results)
    earlier: dict[str, list[str]] = {}
    for name, style in styles.items():
        if style.earlier_of is not None:
            earlier.setdefault(style.earlier_of, []).append(name)
    return {name: (*names, name) for name, names in earlier.items() if name in styles}


def _names(results: Results) -> Iterator[str]:
    for column in results.columns:
        yield from column.scores
    for curves in results.efficiency.values():
        yield from curves
    yield from results.generated
    yield from (prompt.arm for prompt in results.prompts)
