import math
import re

import pytest

from gap_jax.closed_loop.arms import ARMS
from gap_jax.experiments.depth.task import STYLES
from gap_jax.report import tables
from gap_jax.report.results import CONSTANT, Column, Generated, Point, Results
from gap_jax.report.tables import Cell, Estimate, Row, Table


def results(columns=(), seeds=(0, 1), generated=None, efficiency=None, critic=((0.02, 0.02), (0.1, 0.1))):
    real, constant = critic
    return Results(
        title="",
        summary="",
        label="depth map",
        legends={},
        note="",
        config={},
        seeds=seeds,
        arms={name: arm.style for name, arm in ARMS.items()},
        metrics=STYLES,
        columns=tuple(columns),
        generated=generated or {},
        critic_real=real,
        critic_constant=constant,
        efficiency=efficiency or {},
        prompts=(),
    )


def column(kind, name, severity=None, metric="l1", **scores):
    scores = {arm.replace("_", "-"): {metric: values} for arm, values in scores.items()}
    if "constant" in scores:
        scores[CONSTANT] = scores.pop("constant")
    return Column(kind, name, severity, scores)


def shown(table):
    return {row.key: [cell.mean for cell in row.cells] for row in table.rows}


def best(table):
    return {row.key: [cell.best for cell in row.cells] for row in table.rows}


def test_standard_error_is_the_samples_deviation_over_the_root_of_n():
    mean, error = tables.estimate((1.0, 2.0, 6.0))  # deviations -2, -1, 3: variance 14 / 2
    assert mean == 3 and error == pytest.approx(math.sqrt(7 / 3), rel=1e-15)


def test_one_seed_has_no_standard_error():
    assert tables.estimate((0.25,)) == Estimate(0.25, None)


def test_a_mean_with_a_missing_seed_is_missing():
    for values in ((0.1, math.nan), ()):
        mean, error = tables.estimate(values)
        assert math.isnan(mean) and error is None


def test_corruptions_are_averaged_for_each_seed_before_the_standard_error_is_taken():
    measured = results(
        [
            column("cc", "fog", 1, control=(0.10, 0.20)),
            column("cc", "fog", 2, control=(0.30, 0.20)),
            column("cc", "snow", 1, control=(0.20, 0.50)),
        ]
    )
    cell = tables.main(measured).rows[0].cells[0]  # 0.2 and 0.3
    assert cell == Cell("25.00", "5.00")
    fog, snow = tables.corruptions(measured, "cc").rows
    assert fog.cells == (Cell("20.00", "0.00"),) and snow.cells == (Cell("35.00", "15.00"),)


def test_an_arm_not_measured_on_every_corruption_has_no_mean_over_them():
    measured = results(
        [
            column("cc", "fog", 1, control=(0.1, 0.1), adversarial=(0.1, 0.1)),
            column("cc", "fog", 2, control=(0.1, 0.1)),
        ]
    )
    assert shown(tables.main(measured)) == {"control": ["10.00"], "adversarial": ["–"]}


def test_the_papers_columns_and_rows_in_order():
    arms = dict(constant=(0.3, 0.3), ours=(0.2, 0.2), guided_adversarial=(0.2, 0.2), control=(0.2, 0.2))
    measured = results(
        [
            column("domain", "foggy", **arms),
            column("3dcc", "flash", 5, **arms),
            column("cc", "fog", 5, **arms),
            column("clean", "rooms", **arms),
        ],
        generated={"guided-adversarial": Generated(9, {}, (0.05, 0.05))},
    )
    table = tables.main(measured)
    assert table.columns == (
        "Clean",
        "Common Corruptions",
        "3D Common Corruptions",
        "Foggy",
        "Label fidelity",
    )
    assert [row.label for row in table.rows] == ["Control", "Guided adversarial", "ours", "Constant"]
    assert [cells[-1] for cells in shown(table).values()] == ["–", "5.00", "–", "10.00"]
    assert "(on real images: 2.00 ± 0.00)" in table.caption


def test_the_best_trained_arm_is_bold_and_the_constant_never():
    table = tables.main(
        results(
            [
                column("clean", "rooms", control=(0.2, 0.2), adversarial=(0.3, 0.3), constant=(0.1, 0.1)),
                column("domain", "dark", control=(0.2, 0.2), adversarial=(0.1, 0.1), constant=(0.1, 0.1)),
            ]
        )
    )
    assert best(table) == {"control": [True, False], "adversarial": [False, True], CONSTANT: [False, False]}


def test_arms_equal_at_the_digits_shown_are_bold_together_unless_all_are():
    columns = [
        column("clean", "rooms", control=(0.20001,) * 2, guided=(0.20002,) * 2, adversarial=(0.3,) * 2),
        column("domain", "dark", control=(0.20001,) * 2, guided=(0.20002,) * 2, adversarial=(0.2,) * 2),
    ]
    assert best(tables.main(results(columns))) == {
        "control": [True, False],
        "guided": [True, False],
        "adversarial": [False, False],
    }


def test_higher_is_better_for_delta_1():
    table = tables.main(
        results([column("clean", "rooms", metric="delta1", control=(0.8, 0.8), guided=(0.9, 0.9))]), "delta1"
    )
    assert best(table) == {"control": [False], "guided": [True]} and shown(table)["guided"] == ["90.00"]


def test_data_efficiency_has_a_column_for_each_number_of_images():
    curves = {
        "control": (Point(0, (0.2, 0.2)),),
        "adversarial": (Point(0, (0.2, 0.2)), Point(10, (0.1, 0.1))),
        "guided": (Point(30, (0.15, 0.15)),),
    }
    table = tables.efficiency(results(efficiency={"foggy": curves}), "foggy")
    assert table.columns == ("0", "10", "30")
    assert shown(table) == {
        "control": ["20.00", "–", "–"],
        "guided": ["–", "–", "15.00"],
        "adversarial": ["20.00", "10.00", "–"],
    }


def test_label_fidelity_stands_between_real_images_and_the_constant():
    generated = {"adversarial": Generated(90, {"degenerate": 2, "critic": 0, "CLIP": 1}, (0.05, 0.06))}
    table = tables.fidelity(results(generated=generated))
    assert [[cell.mean for cell in row.cells] for row in table.rows] == [
        ["5.50", "90", "2 degenerate, 1 CLIP"],
        ["2.00", "–", "–"],
        ["10.00", "–", "–"],
    ]


TABLE = Table(
    "50 % & more_or_less",
    "L1 ×100",
    "Arm",
    ("δ < 1.25 #1",),
    (
        Row("a", "a|b", (Cell("1.00", "0.10", True),)),
        Row("b", r"x_1^2~{y}\z$", (Cell("–", ""),)),
        Row(CONSTANT, "Constant", (Cell("2.00", ""),)),
    ),
)


def test_markdown():
    assert tables.markdown(TABLE).splitlines()[4:] == [
        "| Arm | δ < 1.25 #1 |",
        "| :-- | --: |",
        "| a\\|b | **1.00** ± 0.10 |",
        "| x_1^2~{y}\\z$ | – |",
        "| Constant | 2.00 |",
    ]


def test_markdown_shows_html_and_does_not_obey_it():
    hostile = "<img src=x onerror=alert(1)>\n</table><!-- &lt;"
    row = Row("a", hostile, (Cell("1.00", ""),))
    text = tables.markdown(Table(hostile, hostile, hostile, ("δ < 1 & 2",), (row,)))
    assert not re.search(r"<[a-z/!]", text) and text.count("&lt;img src=x onerror=alert(1)>") == 4
    assert text.count("&amp;lt;") == 4 and "δ < 1 & 2" in text


def test_latex_escapes_what_is_special_there_and_sets_the_constant_apart():
    assert tables.latex(TABLE) == "\n".join(
        [
            r"\begin{table}",
            r"  \centering",
            r"  \caption{50 \% \& more\_or\_less: L1 $\times$100.}",
            r"  \begin{tabular}{lr}",
            r"    \toprule",
            r"    Arm & $\delta$ $<$ 1.25 \#1 \\",
            r"    \midrule",
            r"    a|b & \textbf{1.00} $\pm$ 0.10 \\",
            r"    x\_1\textasciicircum{}2\textasciitilde{}\{y\}\textbackslash{}z\$ & -- \\",
            r"    \midrule",
            r"    Constant & 2.00 \\",
            r"    \bottomrule",
            r"  \end{tabular}",
            r"\end{table}",
            "",
        ]
    )


@pytest.mark.parametrize(
    ("name", "plain"),
    [("gaussian_noise", "Gaussian noise"), ("fog_3d", "Fog 3D"), ("jpeg_compression", "JPEG compression")],
)
def test_names_are_written_as_words(name, plain):
    assert tables.plain_name(name) == plain
