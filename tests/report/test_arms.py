import dataclasses
import itertools

import numpy as np
import pytest
from matplotlib.markers import MarkerStyle

from gap_jax.closed_loop.arms import ARMS
from gap_jax.report.arms import INK, arm_styles
from gap_jax.report.results import CONSTANT

# Matrices for linear RGB at complete deficiency: Machado, Oliveira and Fernandes, 2009.
VISION = {
    "usual": np.eye(3),
    "protanopia": [[0.1523, 1.0526, -0.2049], [0.1145, 0.7863, 0.0992], [-0.0039, -0.0481, 1.0520]],
    "deuteranopia": [[0.3673, 0.8606, -0.2280], [0.2801, 0.6725, 0.0474], [-0.0118, 0.0429, 0.9690]],
    "tritanopia": [[1.2555, -0.0767, -0.1788], [-0.0784, 0.9308, 0.1476], [0.0047, 0.6914, 0.3039]],
}
TO_XYZ = [[0.4124, 0.3576, 0.1805], [0.2126, 0.7152, 0.0722], [0.0193, 0.1192, 0.9505]]


def linear(colour):
    values = np.array([int(colour[i : i + 2], 16) / 255 for i in (1, 3, 5)])
    return np.where(values <= 0.04045, values / 12.92, ((values + 0.055) / 1.055) ** 2.4)


def lab(rgb):
    ratio = (np.array(TO_XYZ) @ np.clip(rgb, 0, 1)) / np.sum(TO_XYZ, 1)
    x, y, z = np.where(ratio > 0.008856, np.cbrt(ratio), 7.787 * ratio + 16 / 116)
    return np.array([116 * y - 16, 500 * (x - y), 200 * (y - z)])


def distance(one, other):
    """Return the least distance of two colours in CIELAB over all kinds of colour vision."""
    pairs = ([lab(matrix @ linear(colour)) for colour in (one, other)] for matrix in VISION.values())
    return min(np.linalg.norm(a - b) for a, b in pairs)


def contrasts(colour):
    """Return the contrasts of a colour with the page's light and dark backgrounds."""
    own = linear(colour) @ TO_XYZ[1] + 0.05
    light, dark = ((linear(paper) @ TO_XYZ[1]) + 0.05 for paper in ("#fdfdfb", "#141518"))
    return light / own, own / dark


def with_unknown_arms(sampled, names, described):
    """Return results that describe the arms of `described`, with prompts of further arms, `names`."""
    prompt = sampled.prompts[0]
    prompts = tuple(dataclasses.replace(prompt, arm=name) for name in [*described, *names])
    return dataclasses.replace(sampled, prompts=prompts, arms=described)


def test_arms_are_told_apart_with_any_colour_vision(sampled):
    for (one, style), (other, other_style) in itertools.combinations(arm_styles(sampled).items(), 2):
        assert distance(style.colour, other_style.colour) > 12, (one, other)


def test_arms_are_told_apart_without_colour_and_seen_on_white_and_near_black(sampled):
    trained = [arm for name, arm in arm_styles(sampled).items() if name != CONSTANT]
    assert len({arm.marker for arm in trained}) == len(trained)
    for arm in trained:
        assert min(contrasts(arm.colour)) > 2.4, arm


@pytest.mark.parametrize("count", [1, 2, 3, 4])
def test_unknown_arms_have_colours_and_markers_that_no_other_arm_has(sampled, count):
    names = [f"mine-{i}" for i in range(count)]
    described = {name: arm.style for name, arm in ARMS.items()}
    styles = arm_styles(with_unknown_arms(sampled, names, described))
    assert {name: styles[name] for name in ARMS} == described
    for name in names:
        others = [style for other, style in styles.items() if other != name]
        assert min(distance(styles[name].colour, style.colour) for style in others) > 12, name
        assert distance(styles[name].colour, INK) > 12, name
        assert styles[name].marker not in {style.marker for style in others}, name
        assert min(contrasts(styles[name].colour)) > 2.4, name
        MarkerStyle(styles[name].marker)  # raises for what matplotlib does not know


@pytest.mark.parametrize("count", [1, 2, 3, 4])
def test_unknown_arms_differ_from_earlier_iterations_and_from_described_arms_with_their_styles(
    sampled, count
):
    names = [f"mine-{i}" for i in range(count)]
    usual = arm_styles(with_unknown_arms(sampled, names, {}))
    taken = usual["mine-0"]
    described = {"other": taken, "other, iteration 1": dataclasses.replace(taken, marker="1")}
    styles = arm_styles(with_unknown_arms(sampled, names, described))
    for name in names:
        assert styles[name].colour != taken.colour
        assert styles[name].marker not in {taken.marker, "1"}
    assert len({styles[name].marker for name in names}) == count


def test_an_unknown_arm_keeps_its_name_and_precedes_the_constant(sampled):
    prompts = (dataclasses.replace(sampled.prompts[0], arm="mine"),)
    styles = arm_styles(dataclasses.replace(sampled, prompts=prompts))
    assert list(styles)[-2:] == ["mine", CONSTANT] and styles["mine"].label == "mine"


def test_described_arms_without_numbers_and_prompts_are_left_out(sampled):
    assert "cutmix" not in arm_styles(
        dataclasses.replace(sampled, arms={**sampled.arms, "cutmix": ARMS["cutmix"].style})
    )


def test_more_unknown_arms_than_colours_still_have_styles(sampled):
    names = [f"mine-{i}" for i in range(20)]
    assert set(names) < set(arm_styles(with_unknown_arms(sampled, names, {})))
