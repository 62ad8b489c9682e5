import jax.numpy as jnp
import numpy as np
import optax
import pytest

from gap_jax import metrics
from gap_jax.stages.finetune import Mixture, finetune

ORIGINAL = [{"x": float(i), "from": "original"} for i in range(8)]
GENERATED = [{"x": 100.0 + i, "from": "generated"} for i in range(3)]


def test_a_mixture_has_the_share_asked_for():
    for share, originals, generated in ((0.5, 8, 8), (0.2, 12, 3), (0.75, 8, 24)):
        mixture = Mixture(ORIGINAL, GENERATED, share)
        kinds = [mixture[i]["from"] for i in range(len(mixture))]
        assert (kinds.count("original"), kinds.count("generated")) == (originals, generated)
        assert {mixture[i]["x"] for i in range(len(mixture))} == {*map(float, range(8)), 100.0, 101.0, 102.0}


def test_without_generated_data_it_is_the_original():
    for mixture in (Mixture(ORIGINAL, None, 0.5), Mixture(ORIGINAL, GENERATED, 0.0)):
        assert [mixture[i] for i in range(len(mixture))] == ORIGINAL


def test_a_share_of_everything_is_refused():
    with pytest.raises(ValueError, match=r"share must be in \[0, 1\), found 1"):
        Mixture(ORIGINAL, GENERATED, 1)


def run(folder, **more):
    """Fits a constant: original data say 1, generated ones 3."""

    def transform(example, random):
        value = 1.0 if example["from"] == "original" else 3.0
        return {"image": np.zeros((2, 2, 3), np.float32), "target": np.float32(value)}

    def sets(target):
        return {"image": np.zeros((5, 2, 2, 3), np.float32), "target": np.full(5, target, np.float32)}

    return finetune(
        lambda params, images: params["value"] + images.sum((1, 2, 3)),
        {"value": jnp.float32(0)},
        lambda prediction, batch: jnp.square(prediction - batch["target"]),
        Mixture(ORIGINAL, GENERATED, 0.5),
        transform,
        optax.adam(0.05),
        {"clean": sets(1.0), "shifted": sets(3.0)},
        steps=200,
        images_per_step=8,
        seed=0,
        folder=folder,
        config={"a": 1},
        probe_every=20,
        **more,
    )


def test_it_fits_the_mixture_and_reports_every_set(tmp_path):
    params = run(tmp_path)
    assert float(params["value"]) == pytest.approx(2.0, abs=0.3)
    lines = [line for line in metrics.read(tmp_path) if "clean" in line]
    assert len(lines) == 10
    value = float(params["value"])
    assert lines[-1]["shifted"] == pytest.approx((value - 3) ** 2, rel=1e-4)


def test_it_returns_the_best_on_the_set_selected(tmp_path):
    params = run(tmp_path, select="clean")
    lines = [line for line in metrics.read(tmp_path) if "clean" in line]
    assert (float(params["value"]) - 1) ** 2 == pytest.approx(min(line["clean"] for line in lines), rel=1e-4)
