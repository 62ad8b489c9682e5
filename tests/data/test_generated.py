"""Labels that formats would change if nobody looked: kept in both formats, or refused."""

import json

import jax.numpy as jnp
import numpy as np
import pytest

from gap_jax.data import generated
from gap_jax.data.prepared import Prepared
from gap_jax.stages.generate import generate, plan

COUNT, SIDE = 2, 4
DRAW = np.random.default_rng(0)
IMAGES = DRAW.integers(0, 256, (COUNT, SIDE, SIDE, 3)).astype(np.uint8)
FIELDS = {
    "taken_at": np.array([20261126180000, -(2**50)]),
    "uid": np.array([2**64 - 1, 1], np.uint64),
    "weight": np.array([1 / 3, 1e300]),
    "score": np.array([np.nan, np.inf], np.float32),
    "is_indoor": np.array([True, False]),
    "two_bands": DRAW.integers(0, 256, (COUNT, SIDE, SIDE, 2)).astype(np.uint8),
    "four_bands": DRAW.integers(0, 256, (COUNT, SIDE, SIDE, 4)).astype(np.uint8),
    "parts": DRAW.random((COUNT, SIDE, SIDE, 3)) > 0.5,
    "instances": DRAW.integers(-(2**40), 2**40, (COUNT, SIDE, SIDE, 1)),
    "metres": np.full((COUNT, SIDE, SIDE, 1), [np.nan]) * 1.0,
    "of_another_machine": DRAW.normal(0, 1, (COUNT, SIDE, SIDE, 1)).astype(">f4"),
    "precise": DRAW.normal(0, 1, (COUNT, 3)),
    "no_boxes": np.zeros((COUNT, 0, 4), np.float32),
    "flat_boxes": np.array([[[1, 2, 0, 0], [0, 0, 3, 0]]] * COUNT, np.float32),
}
DEPTH = DRAW.random((COUNT, SIDE, SIDE, 1)).astype(np.float16)
DEPTH[:, 0, 0] = 1


def test_extreme_labels_are_the_same_in_both_formats(tmp_path):
    fields = {"image": IMAGES, "depth": DEPTH, **FIELDS}
    generated.check_fields(fields)
    unused = {"dropped": np.array([""] * COUNT)}
    generated.write_chunk(tmp_path / "chunks", "00000000-0000-0002", fields | unused)
    generated.write_images(tmp_path / "chunks", tmp_path / "images")
    generated.write_tfds(tmp_path / "chunks", tmp_path / "tfds")
    assert [path.name for path in (tmp_path / "tfds").iterdir()] == ["generated"]
    source = Prepared(tmp_path / "tfds", "train", fields=tuple(fields))
    folder = tmp_path / "images" / "train"
    lines = [json.loads(line) for line in (folder / "metadata.jsonl").read_text().splitlines()]
    for i, line in enumerate(lines):
        read = source[i]
        np.testing.assert_allclose(read["depth"], DEPTH[i], atol=0.51 / 65535)
        for name, values in FIELDS.items():
            np.testing.assert_array_equal(read[name], values[i], err_msg=name, strict=False)
            assert np.shape(read[name]) == values[i].shape, name
            file = line.get(f"{name}_npy")
            found = np.load(folder / file) if file else np.array(line[name], values.dtype)
            np.testing.assert_array_equal(found.reshape(values[i].shape), values[i], err_msg=name)


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"label": np.array([0, 3])}, r"label must be an integer from 0 to 1, .* classes, found \[0 3\]"),
        ({"label": np.array([0, -1])}, r"label must be .* found \[-1  0\]"),
        ({"label": np.array([0.0, 1.0])}, r"label must be an integer from 0 to 1"),
        ({}, r"label must be an integer from 0 to 1, .* found \[nan nan\]"),
        ({"a": np.ones(2, bool), "a_npy": np.array(["x", "y"])}, "no field of the data may be named a_npy"),
        ({"a": np.ones(2, np.longdouble)}, "the field a must have numbers"),
    ],
)
def test_labels_that_would_be_lost_are_refused(fields, message):
    with pytest.raises(ValueError, match=message) as error:
        generated.check_fields(fields, ("cat", "dog"))
    assert len(str(error.value)) < 500


def test_a_field_named_like_a_measured_value_is_refused_before_the_first_image(tmp_path):
    def step(weights, batch, keys):
        return jnp.ones((COUNT, SIDE, SIDE, 3)), {"model_loss": jnp.zeros(COUNT)}

    with pytest.raises(ValueError, match=r"no field of the data may be named model_loss: .* rename yours"):
        generate(
            step,
            (),
            lambda sources: {"model_loss": np.zeros(len(sources), np.float32)},
            plan(COUNT, [np.arange(COUNT)], 0),
            images_per_step=COUNT,
            seed=0,
            folder=tmp_path,
            config={},
            prompt_names=("a room",),
        )
    assert not (tmp_path / "chunks").exists()
