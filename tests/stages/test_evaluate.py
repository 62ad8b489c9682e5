"""Test sets and their metrics: which sets there are, and that means are over images."""

import chex
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from gap_jax.data.corruptions.common import CORRUPTIONS, corrupt
from gap_jax.data.corruptions.three_d import CORRUPTIONS_3D
from gap_jax.stages.evaluate import (
    CLEAN,
    SetKey,
    corrupted_sets,
    domain_sets,
    evaluate,
    num_corrupted_sets,
)
from gap_jax.tasks.metric import Metric, MetricStyle

IMAGES = np.random.default_rng(0).random((5, 16, 16, 3), np.float32)
DEPTH = np.random.default_rng(1).random((5, 16, 16, 1), np.float32)
STYLE = MetricStyle("M", "", 1)
BATCH = {"image": IMAGES, "depth": DEPTH, "mask": np.ones_like(DEPTH, bool)}


def test_sets_are_domains_and_every_corruption_at_every_severity():
    assert domain_sets({"other": BATCH}) == {SetKey("domain", "other"): BATCH}
    batches = dict(corrupted_sets(BATCH, severities=(1, 3)))
    expected = [SetKey("cc", name, severity) for name in CORRUPTIONS for severity in (1, 3)]
    expected += [SetKey("3dcc", name, severity) for name in CORRUPTIONS_3D for severity in (1, 3)]
    assert list(batches) == expected and len(expected) == num_corrupted_sets(BATCH, (1, 3))
    np.testing.assert_array_equal(
        batches[SetKey("cc", "contrast", 3)]["image"], corrupt(IMAGES, "contrast", 3, ids=np.arange(5))
    )
    for batch in batches.values():
        assert batch["image"].shape == IMAGES.shape
        np.testing.assert_array_equal(batch["depth"], DEPTH)


def test_without_depth_there_are_no_3d_corruptions():
    batch = {"image": IMAGES}
    sets = [test_set for test_set, _ in corrupted_sets(batch, severities=(1,))]
    assert sets == [SetKey("cc", name, 1) for name in CORRUPTIONS]
    assert num_corrupted_sets(batch, severities=(1,)) == len(CORRUPTIONS)


def test_a_stopped_evaluation_continues_after_the_sets_that_it_measured():
    def stop_after_two(results):
        saved.update({key: dict(by_set) for key, by_set in results.items()})
        if len(results["one"]) == 2:
            raise KeyboardInterrupt

    sets = {SetKey("domain", name): first_rows(count) for count, name in enumerate("abc", 1)}
    models, metrics, saved = (
        {"one": np.float32(1), "two": np.float32(2)},
        {"mean": Metric(STYLE, first_column)},
        {},
    )
    with pytest.raises(KeyboardInterrupt):
        evaluate(scaled_means, models, sets.items(), metrics, save=stop_after_two)
    unread = dict.fromkeys(list(sets)[:2]) | dict(list(sets.items())[2:])  # a batch that is used is an error
    resumed = evaluate(scaled_means, models, unread.items(), metrics, measured=saved)
    whole = evaluate(scaled_means, models, sets.items(), metrics)
    assert resumed == whole and [*map(list, resumed.values())] == [list(sets)] * 2
    known = {SetKey("cc", "fog", 1), SetKey("3dcc", "flash", 1)}
    others = {key for key, _ in corrupted_sets(BATCH, (1,), without=known)}
    assert len(others) == num_corrupted_sets(BATCH, (1,)) - 2 and not others & known


@pytest.mark.parametrize("images_per_step", [2, 5, 32])
def test_metrics_are_over_all_images_for_any_step_size_and_one_compilation(images_per_step):
    chex.clear_trace_counter()

    @chex.assert_max_traces(n=1)
    def predict(params, images):
        return params * images.mean((1, 2, 3))

    def error(prediction, batch):
        return jnp.abs(prediction - batch["depth"].mean((1, 2, 3)))

    metrics = {
        "error": Metric(STYLE, error),
        "near": Metric(STYLE, lambda prediction, batch: (batch["depth"] < 0.5).mean((1, 2, 3))),
        "largest": Metric(STYLE, lambda prediction, batch: prediction[:, None], np.max),
    }
    models = {"one": jnp.float32(1), "two": jnp.float32(2)}
    darker = BATCH | {"image": IMAGES / 2}
    sets = {CLEAN: BATCH, SetKey("domain", "dark"): darker, SetKey("domain", "three"): first_rows(3)}
    results = evaluate(predict, models, sets.items(), metrics, images_per_step=images_per_step)
    assert set(results) == {"one", "two"}
    for name, factor in (("one", 1), ("two", 2)):
        assert list(results[name]) == list(sets)
        for test_set, batch in sets.items():
            predictions = factor * batch["image"].mean((1, 2, 3))
            values = results[name][test_set]
            mean_error = np.abs(predictions - batch["depth"].mean((1, 2, 3))).mean()
            assert values["error"] == pytest.approx(float(mean_error), rel=1e-5)
            assert values["largest"] == pytest.approx(predictions.max())
            assert values["near"] == pytest.approx(float((batch["depth"] < 0.5).mean()), rel=1e-5)


def test_the_bar_says_that_it_compiles_during_the_first_set(capsys):
    sets = {SetKey("domain", name): BATCH for name in "ab"}
    evaluate(scaled_means, {"model": np.float32(2)}, sets.items(), {"mean": Metric(STYLE, first_column)})
    progress = capsys.readouterr().err
    first = progress.index("1/2")
    assert "compiling" in progress[:first] and "compiling" not in progress[progress.index("images/s") :]


def test_a_second_evaluation_compiles_nothing_and_parameters_move_once(monkeypatch):
    """As for several seeds, and for several test sets."""
    params, moved, durations = np.float32(2), [], []
    put = jax.device_put

    def counting_put(tree, *args):
        moved.append(tree is params)
        return put(tree, *args)

    def listen(event, duration, **_):
        if "backend_compile" in event:
            durations.append(duration)

    monkeypatch.setattr(jax, "device_put", counting_put)
    metrics = {"mean": Metric(STYLE, first_column)}
    sets = {SetKey("domain", name): BATCH for name in "abc"}
    evaluate(scaled_means, {"model": params}, sets.items(), metrics)
    assert sum(moved) == 1
    jax.monitoring.register_event_duration_secs_listener(listen)
    evaluate(scaled_means, {"model": params}, sets.items(), dict(metrics))
    jax.monitoring.unregister_event_duration_listener(listen)
    assert durations == []


def test_one_model_at_a_time_is_on_the_devices():
    shape, found = (5, 7), []

    def live(values):
        found.append(sum(array.shape == shape for array in jax.live_arrays()))
        return values.mean()

    models = {i: np.full(shape, i, np.float32) for i in range(3)}
    metrics = {"mean": Metric(STYLE, lambda prediction, batch: prediction, live)}
    sets = {SetKey("domain", name): BATCH for name in "ab"}
    results = evaluate(
        lambda params, images: images.mean((1, 2, 3)) * params.max(), models, sets.items(), metrics
    )
    assert found == [1] * 6
    for i, by_set in results.items():
        assert list(by_set) == list(sets)
        for values in by_set.values():
            assert values["mean"] == pytest.approx(i * IMAGES.mean(), rel=1e-5)


def scaled_means(params, images):
    return params * images.mean((1, 2))


def first_column(prediction, batch):
    return prediction[:, 0]


def first_rows(count):
    return {name: array[:count] for name, array in BATCH.items()}


def test_every_corruption_is_measured():
    metrics = {"mean": Metric(STYLE, lambda prediction, batch: prediction)}
    sets = corrupted_sets(BATCH, severities=(2,))
    results = evaluate(lambda params, images: images.mean((1, 2, 3)), {"model": ()}, sets, metrics)
    assert len(results["model"]) == len(CORRUPTIONS) + len(CORRUPTIONS_3D)
    image = corrupt(IMAGES, "fog", 2, ids=np.arange(5))
    assert results["model"][SetKey("cc", "fog", 2)]["mean"] == pytest.approx(float(image.mean()), rel=1e-5)
