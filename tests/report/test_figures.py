import dataclasses
import itertools
import re
from xml.etree import ElementTree

import numpy as np
import pytest

from gap_jax.report import figures
from gap_jax.report.arms import INK, arms
from gap_jax.report.results import CONSTANT

# Machado, Oliveira & Fernandes 2009, complete deficiency, on linear RGB.
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


def optimised(sampled):
    return next(prompt for prompt in sampled.prompts if prompt.stopped)


@pytest.mark.parametrize("vision", VISION)
def test_arms_are_told_apart_with_any_colour_vision(sampled, vision):
    seen = {name: lab(VISION[vision] @ linear(arm.colour)) for name, arm in arms(sampled).items()}
    for one, other in itertools.combinations(seen, 2):
        assert np.linalg.norm(seen[one] - seen[other]) > 12, (one, other)


def test_arms_are_told_apart_without_colour_and_seen_on_white_and_near_black(sampled):
    trained = [arm for name, arm in arms(sampled).items() if name != CONSTANT]
    assert len({arm.marker for arm in trained}) == len(trained)
    for arm in trained:
        light, dark = ((linear(paper) @ TO_XYZ[1]) + 0.05 for paper in ("#fdfdfb", "#141518"))
        own = linear(arm.colour) @ TO_XYZ[1] + 0.05
        assert light / own > 2.4 and own / dark > 2.4, arm


def test_an_arm_of_ones_own_gets_a_look_and_keeps_its_name(sampled):
    prompts = (dataclasses.replace(sampled.prompts[0], arm="mine"),)
    found = arms(dataclasses.replace(sampled, prompts=prompts))
    assert list(found)[-2:] == ["mine", CONSTANT] and found["mine"].label == "mine"


def all_figures(sampled, folder):
    prompt = optimised(sampled)
    yield figures.losses(prompt, arms(sampled)[prompt.arm])
    yield figures.corruptions(sampled, "cc")
    yield figures.fidelity(sampled)
    yield figures.efficiency(sampled, "foggy")
    yield figures.filmstrip(prompt, folder)


def test_figures_are_svg_that_is_the_same_every_time(sampled, results_path):
    one, two = (
        [figures.to_svg(figure) for figure in all_figures(sampled, results_path.parent)] for _ in range(2)
    )
    assert one == two
    for svg in one:
        assert ElementTree.fromstring(svg).tag == "{http://www.w3.org/2000/svg}svg"


def test_on_a_page_figures_take_its_colour_name_no_address_and_have_ids_of_their_own(sampled, results_path):
    for figure in all_figures(sampled, results_path.parent):
        inline = figures.to_html(figure, "here", 'a "title" <&>')
        assert 'aria-label="a &quot;title&quot; &lt;&amp;>"' in inline
        assert "://" not in inline and INK not in inline
        assert inline.count(' id="') == inline.count(' id="here-')
        assert inline.count("url(#") == inline.count("url(#here-")


def test_the_current_steps_rule_starts_at_the_curves_start_and_moves_to_its_end(sampled):
    prompt = optimised(sampled)
    figure = figures.losses(prompt, arms(sampled)[prompt.arm])
    place, points = figure.axes[0].get_position(), 72 * figures.WIDTH
    rule = re.search(r'id="0-now">\s*<path d="M ([\d.]+) [\d.]+\s+L ([\d.]+) ', figures.to_svg(figure))
    assert float(rule[1]) == float(rule[2]) == pytest.approx(place.x0 * points, abs=1e-3)
    assert figures.step_width(figure) * prompt.steps == pytest.approx(place.width * points, rel=1e-6)


def test_the_axis_of_images_begins_at_0_and_grows_by_factors(sampled):
    axis = figures.efficiency(sampled, "foggy").axes[0]
    assert [label.get_text() for label in axis.get_xticklabels()] == ["0", "10", "30", "100", "300"]
    places = axis.transData.transform([(x, 10) for x in (0, 10, 30, 100, 300)])[:, 0]
    assert (np.diff(places) > 20).all()
    assert places[4] - places[3] == pytest.approx(places[2] - places[1], rel=1e-6)


def test_a_prompt_that_was_not_optimised_has_no_losses_to_show(sampled):
    fixed = next(prompt for prompt in sampled.prompts if not prompt.losses)
    with pytest.raises(ValueError, match="has no losses: it was not optimised"):
        figures.losses(fixed, arms(sampled)[fixed.arm])
