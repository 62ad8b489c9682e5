import jax.numpy as jnp
import numpy as np
import pytest

from gap_jax.data.corruptions.common import CORRUPTIONS, corrupt
from gap_jax.data.corruptions.three_d import CORRUPTIONS_3D
from gap_jax.report.results import Metric
from gap_jax.stages.evaluate import Measure, evaluate, shifts

IMAGES = np.random.default_rng(0).random((5, 16, 16, 3), np.float32)
DEPTH = np.random.default_rng(1).random((5, 16, 16, 1), np.float32)
SHOWN = Metric("M", "", 1)
BATCH = {"image": IMAGES, "depth": DEPTH, "mask": np.ones_like(DEPTH, bool)}


def test_shifts_are_clean_domains_and_every_corruption():
    found = {shift.name: shift.batch for shift in shifts(BATCH, {"other": BATCH}, severities=(1, 3))}
    expected = ["clean", "other"]
    expected += [f"cc/{name}/{severity}" for name in CORRUPTIONS for severity in (1, 3)]
    expected += [f"3dcc/{name}/{severity}" for name in CORRUPTIONS_3D for severity in (1, 3)]
    assert list(found) == expected
    np.testing.assert_array_equal(
        found["cc/contrast/3"]["image"], corrupt(IMAGES, "contrast", 3, ids=np.arange(5))
    )
    for batch in found.values():
        assert batch["image"].shape == IMAGES.shape
        np.testing.assert_array_equal(batch["depth"], DEPTH)


def test_without_depth_there_are_no_3d_corruptions():
    names = [shift.name for shift in shifts({"image": IMAGES}, {}, severities=(1,))]
    assert names == ["clean", *(f"cc/{name}/1" for name in CORRUPTIONS)]


def test_means_are_over_images_however_they_are_cut():
    def predict(params, images):
        return params * images.mean((1, 2, 3))

    metrics = {
        "off": Measure(SHOWN, lambda prediction, batch: jnp.abs(prediction - batch["depth"].mean((1, 2, 3)))),
        "near": Measure(SHOWN, lambda prediction, batch: (batch["depth"] < 0.5).mean((1, 2, 3))),
        "most": Measure(SHOWN, lambda prediction, batch: prediction[:, None], np.max),
    }
    models = {"one": jnp.float32(1), "two": jnp.float32(2)}
    for size in (2, 5, 32):
        sets = shifts(BATCH, {}, severities=(2,))
        found = evaluate(predict, models, sets, metrics, images_per_step=size)
        assert set(found) == {"one", "two"} and len(found["one"]) == 1 + len(CORRUPTIONS) + len(
            CORRUPTIONS_3D
        )
        for name, factor in (("one", 1), ("two", 2)):
            off = np.abs(factor * IMAGES.mean((1, 2, 3)) - DEPTH.mean((1, 2, 3))).mean()
            assert found[name]["clean"]["off"] == pytest.approx(float(off), rel=1e-5)
            assert found[name]["clean"]["most"] == pytest.approx(factor * IMAGES.mean((1, 2, 3)).max())
            assert found[name]["clean"]["near"] == pytest.approx(float((DEPTH < 0.5).mean()), rel=1e-5)
