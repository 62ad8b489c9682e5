"""Runs side by side: the numbers, the settings that differ, the pictures, and what cannot be compared."""

import dataclasses
import math
import re
import shutil

import numpy as np
import pytest

from gap_jax.report import results
from gap_jax.report.__main__ import main
from gap_jax.report.arms import arm_styles
from gap_jax.report.compare import comparisons, write_comparison


def changed(run, arm, differences, **fields):
    """The results with `differences`, one for each seed, added to an arm's L1 on all test sets."""

    def scores(column):
        values = column.scores[arm]["l1"]
        added = tuple(value + more for value, more in zip(values, differences, strict=True))
        return {**column.scores, arm: {**column.scores[arm], "l1": added}}

    columns = tuple(dataclasses.replace(column, scores=scores(column)) for column in run.columns)
    return dataclasses.replace(run, columns=columns, **fields)


def cells(before, after, arm):
    """The cells of an arm on the set “Foggy”."""
    (_, found), *_ = comparisons({"a": before, "b": after}, arm_styles(before))
    table = next(table for table in found if table.title == "Foggy")
    assert table.columns == ("a", "b", "Difference")
    return next(row for row in table.rows if row.key == arm).cells


def test_runs_with_the_same_seeds_are_compared_seed_by_seed(sampled):
    differences = (0.01, 0.011, 0.012)
    first, second, difference = cells(sampled, changed(sampled, "guided", differences), "guided")
    column = next(column for column in sampled.columns if column.name == "foggy")
    mean = 100 * np.mean(column.scores["guided"]["l1"])
    assert float(first.mean) == pytest.approx(mean, abs=0.005)
    assert float(second.mean) == pytest.approx(mean + 1.1, abs=0.005)
    # the standard deviation of 1.0, 1.1, 1.2 is 0.1
    assert difference.mean == "+1.10" and difference.error == f"{0.1 / math.sqrt(3):.2f}" and difference.best
    unchanged = cells(sampled, changed(sampled, "guided", differences), "adversarial")[2]
    assert unchanged.mean == "+0.00" and not unchanged.best


def test_runs_with_other_seeds_are_compared_by_their_means(sampled):
    other = changed(sampled, "guided", (-0.01, -0.011, -0.012), seeds=(7, 8, 9), prompts=())
    first, second, difference = cells(sampled, other, "guided")
    assert difference.mean == "−1.10"
    assert float(difference.error) == pytest.approx(
        math.hypot(float(first.error), float(second.error)), abs=0.01
    )


def test_the_page_shows_what_differs_and_an_image_of_each_arm(sampled, results_path, tmp_path, capsys):
    folder = results_path.parent
    other = tmp_path / "other"
    shutil.copytree(folder, other)
    config = {**sampled.config, "preset": "<large>"}
    results.save(other / "results.json", changed(sampled, "guided", (0.01,) * 3, config=config))
    main(["compare", str(folder), str(other / "results.json"), "--output", str(tmp_path / "page.html")])
    assert str(tmp_path / "page.html") in capsys.readouterr().out
    html = (tmp_path / "page.html").read_text()
    assert "&#34;&lt;large&gt;&#34;" in html and "optimize.steps" not in html
    pairs = {(prompt.arm, prompt.target) for prompt in sampled.prompts}
    assert len(re.findall(r'<img src="data:image/webp', html)) == 2 * len(pairs)
    assert not re.search(r"https?:|<script|<link", html) and "default-src 'none'" in html
    assert "taken seed by seed" in html


@pytest.mark.parametrize(
    ("names", "message"),
    [
        (["a"], "give two or more work folders to compare, found 1"),
        (["a", "a"], "a run is given twice: .*a, .*a"),
        (["a", "none"], "there is no .*none: give work folders of experiments that have ended"),
        (["a", "metrics"], "share no metric on any test set: a has l1.*; metrics has other"),
    ],
)
def test_what_cannot_be_compared_is_an_error(sampled, tmp_path, names, message):
    column = results.Column("clean", "rooms", None, {"control": {"other": (0.1,) * 3}})
    style = next(iter(sampled.metrics.values()))
    results.save(tmp_path / "a" / "results.json", dataclasses.replace(sampled, prompts=()))
    other = dataclasses.replace(
        sampled, metrics={"other": style}, columns=(column,), efficiency={}, prompts=(), generated={}
    )
    results.save(tmp_path / "metrics" / "results.json", other)
    with pytest.raises((ValueError, FileNotFoundError), match=message):
        write_comparison([tmp_path / name for name in names], tmp_path / "page.html")
    assert not (tmp_path / "page.html").exists()
