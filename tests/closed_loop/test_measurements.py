"""The file of measurements: keys and numbers come back, a damaged file says what to do."""

import math

import numpy as np
import pytest

from gap_jax.closed_loop.measurements import (
    Measuring,
    ModelKey,
    add_summaries,
    read_measurements,
    write_measurements,
)
from gap_jax.stages.evaluate import CLEAN, SetKey
from gap_jax.tasks.metric import Metric, MetricStyle

SCORES = {
    ModelKey("control"): {CLEAN: {"l1": 0.1}, SetKey("cc", "fog", 3): {"l1": 1 / 3}},
    ModelKey("guided", iteration=1, images=10): {SetKey("domain", "a/b"): {"l1": 0.2}},
}


def test_what_is_written_is_read(tmp_path):
    path = tmp_path / "evaluate.json"
    write_measurements(path, SCORES)
    assert read_measurements(path) == SCORES


def test_scores_of_a_stopped_evaluation_are_kept_until_all_are_there(tmp_path):
    path, (first, *_) = tmp_path / "evaluate.json", SCORES
    Measuring(path).save({first: {CLEAN: SCORES[first][CLEAN]}})
    assert not path.exists()
    measuring = Measuring(path)
    assert measuring.scores == {first: {CLEAN: {"l1": 0.1}}} and measuring.sets([first]) == {CLEAN}
    assert measuring.sets(SCORES) == set()
    measuring.save(SCORES)
    measuring.finish()
    assert read_measurements(path) == SCORES and list(tmp_path.iterdir()) == [path]


@pytest.mark.parametrize("text", ["{", "[1]", '[{"model": {}, "set": {}, "metrics": {}}]', '[{"set": {}}]'])
def test_a_damaged_file_is_named_with_what_to_do(tmp_path, text):
    path = tmp_path / "evaluate.json"
    path.write_text(text)
    with pytest.raises(ValueError, match=r"evaluate\.json is damaged .*: delete it and run"):
        read_measurements(path)


def test_the_worst_is_the_least_of_what_should_be_high_and_the_most_of_what_should_be_low():
    metrics = {
        "accuracy": Metric(MetricStyle("Accuracy", "", 1, True), None, np.mean),
        "error": Metric(MetricStyle("Error", "", 1), None, np.mean),
    }
    one, two = SetKey("domain", "one"), SetKey("domain", "two")
    by_set = {one: {"accuracy": 0.5, "error": 3.0}, two: {"accuracy": 0.9, "error": 4.0}}
    add_summaries(by_set, ("one", "two"), metrics)
    assert by_set[SetKey("domain", "worst group")] == {"accuracy": 0.5, "error": 4.0}
    assert by_set[SetKey("domain", "average")] == {"accuracy": pytest.approx(0.7), "error": 3.5}
    for names in ((), ("one", "three")):
        before = dict(by_set)
        add_summaries(by_set, names, metrics)
        assert by_set == before and not any(map(math.isnan, by_set[one].values()))
