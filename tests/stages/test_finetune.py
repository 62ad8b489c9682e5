import chex
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from gap_jax.stages.finetune import Mixture, finetune
from tests.metric_lines import read_metrics

ORIGINAL = [{"x": float(i), "from": "original"} for i in range(8)]
GENERATED = [{"x": 100.0 + i, "from": "generated"} for i in range(3)]
ADAM = optax.adam(0.05)


def predict(params, images):
    return params["value"] + images.sum((1, 2, 3))


def squared_error(prediction, batch):
    return jnp.square(prediction - batch["target"])


def test_a_mixture_has_the_share_asked_for():
    for share, originals, generated in ((0.5, 8, 8), (0.2, 12, 3), (0.75, 8, 24)):
        mixture = Mixture(ORIGINAL, GENERATED, share)
        kinds = [mixture[i]["from"] for i in range(len(mixture))]
        assert (kinds.count("original"), kinds.count("generated")) == (originals, generated)
        assert {mixture[i]["x"] for i in range(len(mixture))} == {*map(float, range(8)), 100.0, 101.0, 102.0}


def test_without_a_share_a_mixture_is_the_concatenation():
    mixture = Mixture(ORIGINAL, GENERATED, None)
    assert [mixture[i] for i in range(len(mixture))] == [*ORIGINAL, *GENERATED]
    assert [Mixture(ORIGINAL, None, None)[i] for i in range(8)] == ORIGINAL


def test_without_generated_data_a_mixture_is_the_original():
    for mixture in (Mixture(ORIGINAL, None, 0.5), Mixture(ORIGINAL, GENERATED, 0.0)):
        assert [mixture[i] for i in range(len(mixture))] == ORIGINAL


def test_a_share_of_one_is_refused():
    with pytest.raises(ValueError, match=r"share must be in \[0, 1\), found 1"):
        Mixture(ORIGINAL, GENERATED, 1)


def run(folder, steps=200, predict=predict, **options):
    """Fit a constant; the targets are 1 in original data and 3 in generated data."""

    def transform(example, random):
        value = 1.0 if example["from"] == "original" else 3.0
        return {"image": np.zeros((2, 2, 3), np.float32), "target": np.float32(value)}

    def validation_set(target):
        return {"image": np.zeros((5, 2, 2, 3), np.float32), "target": np.full(5, target, np.float32)}

    return finetune(
        predict,
        {"value": jnp.float32(0)},
        squared_error,
        Mixture(ORIGINAL, GENERATED, 0.5),
        transform,
        ADAM,
        {"clean": validation_set(1.0), "shifted": validation_set(3.0)},
        steps=steps,
        images_per_step=8,
        seed=0,
        folder=folder,
        config={"a": 1},
        probe_every=20,
        **options,
    )


def test_it_fits_the_mixture_and_reports_every_set(tmp_path):
    params = run(tmp_path)
    assert float(params["value"]) == pytest.approx(2.0, abs=0.3)
    lines = [line for line in read_metrics(tmp_path) if "clean" in line]
    assert len(lines) == 10
    value = float(params["value"])
    assert lines[-1]["shifted"] == pytest.approx((value - 3) ** 2, rel=1e-4)


def test_it_returns_the_best_on_the_set_selected(tmp_path):
    params = run(tmp_path, select="clean")
    lines = [line for line in read_metrics(tmp_path) if "clean" in line]
    assert (float(params["value"]) - 1) ** 2 == pytest.approx(min(line["clean"] for line in lines), rel=1e-4)


def test_the_model_is_compiled_once_for_training_and_once_for_validation(tmp_path):
    chex.clear_trace_counter()
    traced = chex.assert_max_traces(predict, n=2)
    whole = run(tmp_path / "whole", steps=20, predict=traced)
    run(tmp_path / "parts", steps=10, predict=traced)
    chex.assert_trees_all_equal(jax.device_get(run(tmp_path / "parts", steps=20, predict=traced)), whole)
