"""The findings are those that the numbers allow."""

import dataclasses

import pytest

from gap_jax.report import tables
from gap_jax.report.findings import findings, headline
from gap_jax.report.results import Column, Results
from gap_jax.tasks.metric import MetricStyle

SEEDS = (0, 1, 2)


def results(higher=False, **shifts: dict[str, tuple[float, ...]]) -> Results:
    """Results of one metric; each shift is a domain with the scores of its arms."""
    return Results(
        title="",
        summary="",
        label="",
        legends={},
        note="",
        config={},
        seeds=SEEDS[: len(next(iter(next(iter(shifts.values())).values())))],
        arms={},
        metrics={"m": MetricStyle("M", "×100", 100, higher_is_better=higher)},
        columns=tuple(
            Column("domain", name, None, {arm: {"m": values} for arm, values in scores.items()})
            for name, scores in shifts.items()
        ),
        generated={},
        critic_real=(),
        critic_constant=(),
        efficiency={},
        prompts=(),
    )


def found(made):
    return findings(made, tables.main(made))


FOG = {"control": (0.2, 0.21, 0.19), "a": (0.1, 0.11, 0.09), "b": (0.15, 0.15, 0.15), "constant": (0.0,) * 3}
RAIN = {"control": (0.1, 0.12, 0.08), "a": (0.099, 0.119, 0.079), "b": (0.2,) * 3}


def test_each_shift_has_its_best_trained_arm_beside_the_control():
    fog, rain = found(results(fog=FOG, rain=RAIN))
    assert (fog.arm, fog.gain) == ("a", pytest.approx(2))
    sentence = fog.sentence.replace("\u00a0", " ")
    assert sentence == "Fog: “a” is the best (10.00 ± 0.58, against 20.00 ± 0.58 of the control)."
    assert rain.gain == 1
    assert rain.sentence.startswith("Rain: no arm is clearly better than the control; the best is “a” (9.90")


def test_the_headline_is_the_largest_gain():
    made = results(fog=FOG, rain=RAIN)
    assert headline(made, found(made)) == (
        "Training on images of the arm “a” cuts M (×100) on “Fog” from 20.00 to 10.00"
    )
    made = results(rain=RAIN)
    assert headline(made, found(made)) == "No arm is better than the control on any test set"


def test_where_higher_is_better_the_gain_is_a_rise():
    fog = {"control": (0.5,), "a": (0.75,), "b": (0.25,)}
    made = results(True, fog=fog, rain={"control": (0.5,), "a": (0.6,)})
    assert [finding.gain for finding in found(made)] == pytest.approx([1.5, 1.2])
    assert "raises M (×100) on “Fog” from 50.00 to 75.00" in headline(made, found(made))


def test_without_a_control_or_another_arm_nothing_is_found():
    for scores in ({"a": (0.1,)}, {"control": (0.1,)}, {"control": (0.1,), "constant": (0.2,)}):
        made = results(fog=scores)
        assert found(made) == [] and headline(made, []) == ""


def test_arms_without_numbers_are_left_out():
    made = results(fog={"control": (0.2,), "a": (float("nan"),), "b": (0.1,)})
    assert [finding.arm for finding in found(made)] == ["b"]


def test_label_fidelity_is_no_finding(sampled):
    made = dataclasses.replace(sampled, prompts=())
    assert [finding.shift for finding in found(made)] == [
        "Clean",
        "Common Corruptions",
        "3D Common Corruptions",
        "Foggy",
        "Dark",
    ]
