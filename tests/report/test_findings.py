"""The findings are those that the numbers allow."""

import dataclasses

import pytest

from gap_jax.report import tables
from gap_jax.report.findings import findings, headline
from gap_jax.report.results import AVERAGE, WORST, ArmStyle, Column, Results
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


def head(made):
    return headline(made, tables.main(made), found(made))


FOG = {"control": (0.2, 0.21, 0.19), "a": (0.1, 0.11, 0.09), "b": (0.15, 0.15, 0.15), "constant": (0.0,) * 3}
RAIN = {"control": (0.1, 0.12, 0.08), "a": (0.099, 0.119, 0.079), "b": (0.2,) * 3}


def test_each_shift_has_its_best_trained_arm_beside_the_control():
    fog, rain = found(results(fog=FOG, rain=RAIN))
    assert (fog.arm, fog.gain) == ("a", pytest.approx(2))
    sentence = fog.sentence.replace("\u00a0", " ")
    assert sentence == "Fog: “a” is the best (10.00 ± 0.58, against 20.00 ± 0.58 of the control)."
    assert rain.gain == 1
    assert rain.sentence.startswith("Rain: no arm is clearly better than the control (10.00")
    assert "; the best other one is “a” (9.90" in rain.sentence


def test_references_are_never_the_best_but_beside_the_arms():
    made = results(fog=FOG | {"bound": (0.0, 0.0, 0.0)}, rain=RAIN)
    assert found(made)[0].arm == "bound"
    described = {"bound": ArmStyle("Bound", "", "#000000", "o", reference=True)}
    made = dataclasses.replace(made, arms=described)
    assert found(made)[0].arm == "a" and "from 20.00 to 10.00" in head(made)
    best = {row.key: row.cells[0].best for row in tables.main(made).rows}
    assert best == {"bound": False, "control": False, "a": True, "b": False, "constant": False}


def test_the_headline_is_the_largest_gain():
    made = results(fog=FOG, rain=RAIN)
    assert head(made) == ("Training on images of the arm “a” cuts M (×100) on “Fog” from 20.00 to 10.00")
    made = results(rain=RAIN)
    assert head(made) == "No arm is better than the control on any test set"


def test_the_headline_says_where_the_papers_arms_beat_the_baselines():
    """Means and their standard errors: the difference of 0.010 in rain is less than both errors together."""
    fog = {"control": (0.2, 0.21, 0.19), "agnostic": (0.1, 0.1, 0.1), "adversarial": (0.15, 0.15, 0.15)}
    fog |= {"guided-adversarial": (0.05, 0.05, 0.05), "other": (0.01, 0.01, 0.01)}
    rain = {"control": (0.1, 0.12, 0.08), "agnostic": (0.2, 0.2, 0.2), "adversarial": (0.09, 0.11, 0.07)}
    rain |= {"guided-adversarial": (0.01, 0.01, 0.01), "other": (0.01, 0.01, 0.01)}
    assert head(results(fog=fog, rain=rain)) == (
        "Training on images of the arm “guided-adversarial” cuts M (×100) on “Rain” from 10.00 to 1.00. "
        "“adversarial” beats “control” on “Fog”, and “agnostic” on “Rain”; “guided-adversarial” beats "
        "“control” and “agnostic” on “Fog” and “Rain”, each time by more than both standard errors over "
        "3 seeds"
    )
    once = {arm: values[:1] for arm, values in rain.items() if arm not in ("agnostic", "guided-adversarial")}
    assert head(results(rain=once)) == (
        "Training on images of the arm “adversarial” cuts M (×100) on “Rain” from 10.00 to 9.00; "
        "the best arm there is “other” with 1.00. “adversarial” beats “control” on “Rain”, as in the "
        "paper; one seed does not say how sure this is"
    )
    assert head(results(True, rain=once)).startswith("“adversarial” does not beat “control”;")
    many = dict.fromkeys(("fog", "rain", "snow", "night"), once)
    assert "“adversarial” beats “control” on 4 of 4 shifts, as in the paper" in head(results(**many))


def test_the_headline_is_about_corruptions_if_there_are_any():
    fog = {"control": (0.2,), "agnostic": (0.1,), "adversarial": (0.3,), "guided-adversarial": (0.3,)}
    made = results(fog=fog)
    scores = {"control": 0.2, "agnostic": 0.19, "adversarial": 0.1, "guided-adversarial": 0.15}
    corrupted = [
        Column(kind, name, severity, {arm: {"m": (value,)} for arm, value in scores.items()})
        for kind, name in (("cc", "frost"), ("3dcc", "flash"))
        for severity in (2, 4)
    ]
    made = dataclasses.replace(made, columns=(*made.columns, *corrupted))
    assert head(made) == (
        "Training on images of the arm “adversarial” cuts M (×100) on “Common Corruptions” from 20.00 to "
        "10.00. “adversarial” and “guided-adversarial” beat “control” and “agnostic” on “Common Corruptions” "
        "and “3D Common Corruptions”, as in the paper; one seed does not say how sure this is"
    )


def test_the_headline_is_about_the_average_and_the_worst_of_several_domains_if_there_are_these():
    group = {"control": (0.2,), "adversarial": (0.6,)}
    made = results(True, **{"land": group, AVERAGE: group, WORST: {"control": (0.0,), "adversarial": (0.0,)}})
    assert "“adversarial” beats “control” on “Average”; one seed" in head(made)


def test_the_headline_names_a_better_arm_than_the_papers_and_baselines_that_these_do_not_beat():
    """As in iWildCam of the small world: prompts that a person wrote are better than adversarial ones."""
    arms = {"control": (46.0, 47.0, 48.0), "agnostic": (69.0,) * 3, "written": (75.0,) * 3}
    arms |= {"adversarial": (57.0,) * 3, "guided-adversarial": (64.0,) * 3}
    made = results(True, fog={arm: tuple(value / 100 for value in values) for arm, values in arms.items()})
    assert head(made) == (
        "Training on images of the arm “guided-adversarial” raises M (×100) on “Fog” from 47.00 to 64.00; "
        "the best arm there is “written” with 75.00. “adversarial” and “guided-adversarial” beat “control” "
        "on “Fog”, but not “agnostic”, each time by more than both standard errors over 3 seeds"
    )
    worse = dataclasses.replace(made, metrics={"m": MetricStyle("M", "×100", 100, higher_is_better=False)})
    assert head(worse) == (
        "“adversarial” and “guided-adversarial” beat “agnostic” on “Fog”, but not “control”, each time "
        "by more than both standard errors over 3 seeds"
    )
    neither = results(fog={name: (0.1,) * 3 for name in ("control", "agnostic", "adversarial")})
    assert head(neither) == (
        "“adversarial” beats neither “control” nor “agnostic” by more than both standard errors over 3 seeds"
    )


def test_equal_arms_are_named_together():
    (fog,) = found(results(fog={"control": (0.3,), "a": (0.1,), "b": (0.2,), "c": (0.1,)}))
    assert (fog.arm, fog.sentence) == (
        "a",
        "Fog: “a” and “c” are the best (10.00, against 30.00 of the control).",
    )
    (fog,) = found(results(fog={"control": (0.05,), "a": (0.1,), "b": (0.1,)}))
    assert fog.sentence.endswith("than the control (5.00); the best other ones are “a” and “b” (10.00).")
    (fog,) = found(results(fog={"control": (0.05,)} | {arm: (0.1,) for arm in ("a", "b", "c", "d")}))
    assert fog.sentence.endswith("; the 4 best others have 10.00.")
    (fog,) = found(results(fog={arm: (0.1,) for arm in ("control", "a", "b")}))
    assert fog.sentence == "Fog: all arms equal the control (10.00)."


def test_an_arm_with_a_large_error_does_not_hide_one_that_is_clearly_better():
    """The best mean, 4.00 ± 3.00, is not clearly better than 7.00 ± 1.00; 5.00 ± 0.00 is."""
    fog = {"control": (0.06, 0.08), "a": (0.01, 0.07), "b": (0.05, 0.05)}
    (fog,) = found(results(fog=fog))
    assert (fog.arm, fog.gain) == ("b", pytest.approx(1.4))
    assert fog.sentence.replace("\u00a0", " ") == (
        "Fog: “b” is the best of those clearly better than the control (5.00 ± 0.00, against 7.00 ± 1.00 of "
        "the control)."
    )


def test_where_higher_is_better_the_gain_is_a_rise():
    fog = {"control": (0.5,), "a": (0.75,), "b": (0.25,)}
    made = results(True, fog=fog, rain={"control": (0.5,), "a": (0.6,)})
    assert [finding.gain for finding in found(made)] == pytest.approx([1.5, 1.2])
    assert "raises M (×100) on “Fog” from 50.00 to 75.00" in head(made)


def test_without_a_control_or_another_arm_nothing_is_found():
    for scores in ({"a": (0.1,)}, {"control": (0.1,)}, {"control": (0.1,), "constant": (0.2,)}):
        made = results(fog=scores)
        assert found(made) == [] and head(made) == ""


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
