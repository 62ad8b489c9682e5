import dataclasses
import re
from itertools import pairwise
from xml.etree import ElementTree

import numpy as np
import pytest
from matplotlib.backends.backend_agg import FigureCanvasAgg

from gap_jax.report import figures
from gap_jax.report.arms import INK, arm_styles
from gap_jax.report.results import AVERAGE, Point
from gap_jax.tasks.metric import MetricStyle


def optimised(sampled):
    return next(prompt for prompt in sampled.prompts if prompt.stopped)


def all_figures(sampled, folder):
    prompt = optimised(sampled)
    yield figures.losses(prompt, arm_styles(sampled)[prompt.arm])
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


def test_a_sign_of_mathematics_as_a_marker_is_drawn_as_the_sign(sampled):
    """Its outline is that of matplotlib's own rules; the letters of its name would be a flat dash."""
    styles = {
        name: dataclasses.replace(style, marker=r"$\diamondsuit$") for name, style in sampled.arms.items()
    }
    axis = figures.corruptions(dataclasses.replace(sampled, arms=styles), "cc").axes[0]
    drawn = next(line for line in axis.lines if line.get_linestyle() == "None")
    extent = drawn.get_marker().get_extents()
    assert 0.5 < extent.width / extent.height < 1.2


def test_a_loss_that_was_measured_once_is_seen(sampled):
    once = {"losses": {"adversarial": (0.5,)}, "stopped": 1, "examples": ()}
    prompt = dataclasses.replace(optimised(sampled), **once)
    axis = figures.losses(prompt, arm_styles(sampled)[prompt.arm]).axes[0]
    assert axis.lines[0].get_marker() == "o"


def test_the_current_steps_rule_starts_at_the_curves_start_and_moves_to_its_end(sampled):
    prompt = optimised(sampled)
    figure = figures.losses(prompt, arm_styles(sampled)[prompt.arm])
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


@pytest.mark.parametrize(
    "counts", [(0, 10, 30, 100, 128), (0, 1, 2, 3, 4), (0, 52, 105, 210, 420, 5000, 6000)]
)
def test_labels_of_numbers_of_images_that_lie_close_together_do_not_overlap(sampled, counts):
    curve = tuple(Point(count, (0.1, 0.2, 0.3)) for count in counts)
    found = dataclasses.replace(sampled, efficiency={"foggy": {"adversarial": curve}})
    figure = figures.efficiency(found, "foggy")
    FigureCanvasAgg(figure).draw()
    labels = [label for label in figure.axes[0].get_xticklabels() if label.get_text()]
    extents = [label.get_window_extent() for label in labels]
    assert all(left.x1 < right.x0 for left, right in pairwise(extents))
    assert {labels[0].get_text(), labels[-1].get_text()} == {"0", str(counts[-1])}


def test_a_target_without_generated_images_gets_an_axis_without_numbers(sampled):
    axis = figures.efficiency(dataclasses.replace(sampled, efficiency={"foggy": {}}), "foggy").axes[0]
    assert not [label.get_text() for label in axis.get_xticklabels()]


def test_the_average_over_domains_is_drawn_against_the_amount_of_data_beside_the_control(sampled):
    curve = (Point(0, (0.6, 0.7, 0.8)), Point(10, (0.7, 0.8, 0.9)), Point(556, (0.8, 0.8, 0.8)))
    style = MetricStyle("Accuracy", "in %", 100, True)
    columns = {"metrics": {"accuracy": style}, "columns": (), "generated": {}, "prompts": ()}
    found = dataclasses.replace(sampled, efficiency={AVERAGE: {"adversarial": curve}}, **columns)
    axis = figures.efficiency(found, AVERAGE).axes[0]
    assert axis.get_ylabel() == "Average accuracy in %"
    control, drawn = axis.lines[-1], axis.containers[0].lines[0]
    np.testing.assert_allclose(np.asarray(control.get_ydata(), float), [70, 70])
    np.testing.assert_allclose(np.asarray(drawn.get_ydata(), float), [70, 80, 80])


def test_equal_results_get_one_tick_and_no_scale_below_0(sampled):
    level = {"foggy": {"adversarial": (Point(0, (0.0,) * 3), Point(10, (0.0,) * 3))}}
    axis = figures.efficiency(dataclasses.replace(sampled, efficiency=level), "foggy").axes[0]
    assert list(axis.get_yticks()) == [0]


def test_a_prompt_that_was_not_optimised_has_no_losses_to_show(sampled):
    fixed = next(prompt for prompt in sampled.prompts if not prompt.losses)
    with pytest.raises(ValueError, match="has no losses: it was not optimised"):
        figures.losses(fixed, arm_styles(sampled)[fixed.arm])


def test_losses_of_a_single_step_are_drawn_as_points(sampled):
    prompt = optimised(sampled)
    first = {term: values[:1] for term, values in prompt.losses.items()}
    short = dataclasses.replace(prompt, losses=first, examples=(), stopped=1)
    figure = figures.losses(short, arm_styles(sampled)[prompt.arm])
    assert {axis.lines[0].get_marker() for axis in figure.axes} == {"o"}
