"""One's own model is compared with the best prediction that ignores the image before an experiment begins."""

import warnings
from types import SimpleNamespace

import numpy as np
import pytest

from gap_jax.experiments.depth.task import depth_task
from gap_jax.experiments.own import comparison, worlds
from gap_jax.experiments.own.__main__ import experiment
from gap_jax.experiments.own.comparison import compare_with_constant
from gap_jax.experiments.own.settings import OwnDepth
from gap_jax.models.network import Network
from gap_jax.tasks.metric import Metric, MetricStyle


def world(predict, metrics=None):
    """Two training and three validation images, 4x4, whose red channel is their depth."""
    images = np.random.default_rng(0).random((5, 4, 4, 3), np.float32)
    labels = {"image": images, "depth": images[..., :1], "mask": np.ones((5, 4, 4, 1), bool)}
    rows = [{name: values[i] for name, values in labels.items()} for i in range(2)]
    task = depth_task()
    return SimpleNamespace(
        models=SimpleNamespace(model=Network(predict, np.float32(1))),
        task=SimpleNamespace(metrics=metrics or {"l1": task.metrics["l1"]}, constant=task.constant),
        data=SimpleNamespace(
            original=rows, validation={"clean": {name: values[2:] for name, values in labels.items()}}
        ),
    ), images


def test_a_model_that_is_better_is_printed_beside_the_constant(capsys):
    made, images = world(lambda scale, images: scale * images[..., :1])
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        compare_with_constant(made)
    constant = 100 * np.abs(images[:2, ..., 0].mean(0) - images[2:, ..., 0]).mean()
    assert capsys.readouterr().out == (
        "L1 ×100 on 3 clean validation images: the model has 0.00, the best prediction that ignores the "
        f"image {constant:.2f}\n"
    )


def test_a_model_that_predicts_metres_is_warned_about():
    made, images = world(lambda scale, images: 10 * scale * images[..., :1])
    error = f"{900 * images[2:, ..., 0].mean():.2f}"
    with pytest.warns(UserWarning, match=f"the model has {error}.*depth from 0 to 1, at the value far"):
        compare_with_constant(made)


def test_a_model_that_predicts_nan_is_refused():
    made, _ = world(lambda scale, images: np.nan * scale * images[..., :1])
    with pytest.raises(ValueError, match="L1 nan on clean validation images, which must be a finite number"):
        compare_with_constant(made)


def test_where_higher_is_better_the_model_must_be_above():
    def closeness(prediction, batch):
        return 1 - abs(prediction - batch["depth"]).mean((1, 2, 3))

    metrics = {"closeness": Metric(MetricStyle("Closeness", "", 1, higher_is_better=True), closeness)}
    made, _ = world(lambda scale, images: scale * images[..., :1], metrics)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        compare_with_constant(made)
    made, _ = world(lambda scale, images: -scale * images[..., :1], metrics)
    with pytest.warns(UserWarning, match="Closeness"):
        compare_with_constant(made)


def test_the_model_is_compared_when_a_run_begins_and_not_when_it_continues(tmp_path, monkeypatch):
    compared = []
    monkeypatch.setattr(worlds, "build_depth", lambda *given: "world")
    monkeypatch.setattr(comparison, "compare_with_constant", compared.append)
    own = experiment(["--preset", "depth", "--work", str(tmp_path)])
    config = OwnDepth(data=tmp_path, model="hub/model")
    for _ in range(2):  # until a run has begun, a later command may have another model
        assert own.build_world(config, 4) == "world"
    (tmp_path / "config.json").write_text("{}")
    assert own.build_world(config, 4) == "world"
    assert compared == ["world", "world"]
