"""Tests of the report of several iterations, in which each earlier one is an arm of its own."""

import dataclasses
import json
import re
from xml.etree import ElementTree

import numpy as np
import pytest

from gap_jax.closed_loop.collect import _style
from gap_jax.closed_loop.measurements import ModelKey, result_arm
from gap_jax.report import figures, page, tables
from gap_jax.report.results import CONSTANT, Column, Generated, Point, load, save
from tests.report import sample

EARLIER = "adversarial, iteration 1"
LABEL = "Adversarial, iteration 1"


def with_iteration(results):
    """Return results with one more arm, an earlier iteration of `adversarial`, with numbers of its own."""
    style = dataclasses.replace(
        results.arms["adversarial"], label=LABEL, description="Earlier.", marker="1", earlier_of="adversarial"
    )
    arms = {}
    for name, described in results.arms.items():
        arms |= {EARLIER: style} if name == "adversarial" else {}
        arms[name] = described
    columns = [
        dataclasses.replace(column, scores=column.scores | {EARLIER: {"l1": (0.0777,) * len(results.seeds)}})
        for column in results.columns
    ]
    curve = tuple(Point(count, (0.0333,) * len(results.seeds)) for count in (0, 10))
    other = next(prompt for prompt in results.prompts if prompt.arm == "guided")
    prompts = [
        dataclasses.replace(prompt, arm=EARLIER, name=f"earlier {i}", examples=other.examples)
        for i, prompt in enumerate(prompt for prompt in results.prompts if prompt.arm == "adversarial")
    ]
    return dataclasses.replace(
        results,
        arms=arms,
        columns=tuple(columns),
        generated=results.generated | {EARLIER: Generated(77, {}, (0.0222,) * len(results.seeds))},
        efficiency={target: {**curves, EARLIER: curve} for target, curves in results.efficiency.items()},
        prompts=(*prompts, *results.prompts),
    )


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """The folder of the results, with their report in `report`. Tests must not change it."""
    folder = tmp_path_factory.mktemp("iterations")
    path = sample.write(folder, examples=1, prompts=2, seeds=(0, 1))
    save(path, with_iteration(load(path)))
    page.write_page(path, folder / "report")
    return folder


@pytest.fixture(scope="module")
def results(folder):
    return load(folder / "results.json")


@pytest.fixture(scope="module")
def html(folder):
    return (folder / "report" / "index.html").read_text()


@pytest.fixture(scope="module")
def data(html):
    """The JSON that the page's script reads."""
    return json.loads(re.search(r'id="data"[^>]*>(.*?)</script>', html)[1])


def test_each_table_has_a_row_or_column_for_each_iteration(results):
    main = {row.label: row.cells for row in tables.main(results).rows}
    labels = list(main)
    assert labels.index(LABEL) + 1 == labels.index("Adversarial")
    assert [cell.mean for cell in main[LABEL]] == ["7.77"] * 5 + ["2.22"]
    assert main["Adversarial"] != main[LABEL]
    assert LABEL in tables.corruptions(results, "cc").columns
    fidelity = {row.label: row.cells for row in tables.fidelity(results).rows}
    assert [cell.mean for cell in fidelity[LABEL]] == ["2.22", "77", "0"]
    curves = {row.label: row.cells for row in tables.efficiency(results, "foggy").rows}
    assert [cell.mean for cell in curves[LABEL]] == ["3.33", "3.33", "–", "–", "–"]


def test_the_page_has_the_numbers_of_each_iteration(html, folder):
    rows = re.findall(r'<tr><th scope="row">.*?</th>.*?</tr>', html)
    row = next(row for row in rows if f"</span>{LABEL}</th>" in row)
    assert "7.77<small> ± 0.00</small>" in row
    assert any("</span>Adversarial</th>" in row and "7.77" not in row for row in rows)
    assert f"| {LABEL} | " in (folder / "report" / "table.md").read_text()
    assert re.search(r"each earlier iteration is an arm\s+of its own", html)


def test_the_gallery_and_the_explorer_have_the_prompts_of_each_iteration(html, data):
    arms = [[data["prompts"][i]["arm"] for i in group] for group in data["groups"]]
    assert [EARLIER] * 2 in arms and ["adversarial"] * 2 in arms
    assert arms.index([EARLIER] * 2) + 1 == arms.index(["adversarial"] * 2)
    earlier, last = (
        data["prompts"][data["groups"][arms.index([arm] * 2)][0]] for arm in (EARLIER, "adversarial")
    )
    assert (earlier["name"], last["name"]) == ("earlier 0", "adversarial 0")
    chosen = [prompt["examples"][0]["frames"][-1]["generated"] for prompt in (earlier, last)]
    assert chosen[0] != chosen[1]
    explored = [{data["prompts"][i]["arm"] for i in prompts} for prompts in data["explored"]]
    assert explored[:2] == [{"adversarial"}, {EARLIER}]
    captions = re.findall(r'<figcaption><b><span class="swatch"[^>]*></span>([^<]*)</b>', html)
    assert LABEL in captions and "Adversarial" in captions


def test_the_figures_of_each_iteration_are_drawn(results, folder):
    files = {path.name for path in (folder / "report" / "figures").iterdir()}
    assert {"losses-0-adversarial-iteration-1.svg", "filmstrip-0-adversarial-iteration-1.svg"} <= files
    assert {"losses-12-adversarial.svg", "filmstrip-12-adversarial.svg"} <= files
    for figure in (
        figures.corruptions(results, "cc"),
        figures.fidelity(results),
        figures.efficiency(results, "foggy"),
    ):
        assert ElementTree.fromstring(figures.to_svg(figure)).tag == "{http://www.w3.org/2000/svg}svg"
    legend = figures.corruptions(results, "cc").legends[0]
    assert LABEL in [text.get_text() for text in legend.get_texts()]
    markers = {line.get_label(): line.get_marker() for line in legend.get_lines()}
    assert markers[LABEL] == "1" and markers["Adversarial"] == "D"
    assert CONSTANT.capitalize() in markers


def test_long_labels_fit_into_the_figures(results):
    label = "Guided adversarial (text), iteration 1"
    arms = dict(results.arms)
    arms[EARLIER] = dataclasses.replace(arms[EARLIER], label=label)
    results = dataclasses.replace(results, arms=arms)
    for figure in (
        figures.corruptions(results, "cc"),
        figures.fidelity(results),
        figures.efficiency(results, "foggy"),
    ):
        figures.to_svg(figure)  # draws
        box = figure.bbox
        texts = [text for axis in figure.axes for text in axis.get_yticklabels()]
        texts += [text for legend in figure.legends for text in legend.get_texts()]
        for text in texts:
            extent = text.get_window_extent()
            assert extent.x0 >= box.x0 and extent.x1 <= box.x1, text.get_text()


def three_iterations(results):
    """Return results of two arms after three iterations, on clean images and under two corruptions."""
    scores = {"control": (0.05, 0.04, 0.03), "adversarial": (0.06, 0.02, 0.01)}
    arms, values = {}, {}
    for arm, by_iteration in scores.items():
        for i, value in enumerate(by_iteration):
            key = ModelKey(arm, i)
            arms[result_arm(key, 3)] = _style(key, 3)
            values[result_arm(key, 3)] = {"l1": (value, value + 0.02)}

    def scaled(factor):
        return {arm: {"l1": tuple(factor * x for x in of["l1"])} for arm, of in values.items()}

    columns = (
        Column("clean", "rooms", None, scaled(1)),
        Column("cc", "fog", 1, scaled(2)),
        Column("cc", "snow", 1, scaled(4)),
    )
    return dataclasses.replace(results, arms=arms, columns=columns, generated={}, efficiency={}, prompts=())


def test_a_table_and_a_curve_of_each_shift_have_every_arm_after_each_iteration(results):
    results = three_iterations(results)
    assert tables.iterated_shifts(results) == ["Clean", "Common Corruptions"]
    table = tables.iterations(results, "Common Corruptions")  # 3 times the clean error, plus 3
    assert table.columns == ("1", "2", "3")
    assert [row.label for row in table.rows] == ["Control", "Adversarial"]
    cells = {row.key: [(cell.mean, cell.error, cell.best) for cell in row.cells] for row in table.rows}
    assert cells == {
        "control": [("18.00", "3.00", True), ("15.00", "3.00", False), ("12.00", "3.00", False)],
        "adversarial": [("21.00", "3.00", False), ("9.00", "3.00", True), ("6.00", "3.00", True)],
    }
    lines = figures.iterations(results, "Common Corruptions").axes[0].get_lines()
    curves = {line.get_color(): line.get_xydata() for line in lines if len(line.get_xydata()) == 3}
    means = {"control": (18, 15, 12), "adversarial": (21, 9, 6)}
    for arm, expected in means.items():
        np.testing.assert_allclose(curves[results.arms[arm].colour], list(enumerate(expected, 1)))
    titles = [table.title for table in tables.all_tables(results)]
    assert titles[-2:] == ["Iterations: Clean", "Iterations: Common Corruptions"]


def test_the_page_compares_iterations(html, folder):
    section = html[html.index("What does each iteration add?") :]
    section = section[: section.index("</section>")]
    assert section.count("<svg") == 5  # clean images, two kinds of corruption, two domains
    rows = re.findall(r"</span>Adversarial</th><td>7.77<small> ± 0.00</small></td><td>", section)
    assert len(rows) == 5
    assert (folder / "report" / "figures" / "iterations-0-clean.svg").exists()
    assert "## Iterations: Clean" in (folder / "report" / "table.md").read_text()


def test_one_iteration_has_no_tables_of_iterations(sampled, report):
    assert tables.iterated_shifts(sampled) == []
    assert "each iteration" not in (report / "index.html").read_text()
