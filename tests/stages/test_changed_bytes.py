"""Files that a run reads back, with bytes that changed on the disk: noticed by name, never read as others."""

import json

import numpy as np
import pytest

from gap_jax.checkpoint import check_config
from gap_jax.closed_loop.measurements import ModelKey, read_measurements, write_measurements
from gap_jax.closed_loop.world import as_batch
from gap_jax.data import generated
from gap_jax.files import read_json, write_json
from gap_jax.report import results
from gap_jax.stages.evaluate import CLEAN
from gap_jax.stages.generate import generated_images
from gap_jax.stages.optimize import _TrajectoryWriter, load_trajectory
from gap_jax.weights import repo
from tests.stages.test_generate import run


def changed(path, count):
    """Flip a bit of the file, `count` times at other places, each time with all other bytes as they were."""
    whole, random = path.read_bytes(), np.random.default_rng(0)
    places = random.permutation(np.flatnonzero(np.frombuffer(whole, np.uint8)))[:count]  # not padding
    for place, bit in zip(places, random.integers(0, 8, len(places)), strict=True):
        content = bytearray(whole)
        content[place] ^= 1 << int(bit)
        path.write_bytes(content)
        yield
    path.write_bytes(whole)


def noticed(path, read, name, count=100):
    """Return how many changes `read` refuses with a message that names the file; others must be harmless."""
    expected, refused = read(), 0
    for _ in changed(path, count):
        try:
            found = read()
        except ValueError as error:
            assert name in str(error) and "elete" in str(error) and len(str(error)) < 600, error
            refused += 1
        else:
            np.testing.assert_equal(found, expected)
    np.testing.assert_equal(read(), expected)
    return refused


def test_measurements_and_other_json(tmp_path):
    path = tmp_path / "evaluate.json"
    write_measurements(path, {ModelKey("control"): {CLEAN: {"l1": 0.25, "l2": -1e-9}}})
    count = path.stat().st_size
    assert noticed(path, lambda: read_measurements(path), "evaluate.json", count) > 0.8 * count
    write_json(path, {"a": {"b": [1, 2.5, None, "ä"]}})
    assert read_json(path, "delete it") == {"a": {"b": [1, 2.5, None, "ä"]}}
    assert json.loads(path.read_text())["a"] == {"b": [1, 2.5, None, "ä"]}
    count = path.stat().st_size
    assert (
        noticed(path, lambda: read_json(path, "delete it"), "evaluate.json is damaged", count) > 0.5 * count
    )


def test_configurations(tmp_path):
    path, config = tmp_path / "config.json", {"steps": 5, "arms": ["a", "b"], "rate": 1e-3}
    check_config(path, config)
    count = path.stat().st_size
    assert noticed(path, lambda: check_config(path, config), str(tmp_path), count) > 0.5 * count


def test_chunks_of_generated_images(tmp_path):
    random = np.random.default_rng(0)
    images = random.integers(0, 256, (2, 8, 8, 3), np.uint8)
    arrays = {"image": images, "label": np.arange(2), "dropped": np.array(["", "x"])}
    generated.write_chunk(tmp_path, "a", arrays)
    assert noticed(tmp_path / "a.npz", lambda: list(generated.read_chunks(tmp_path)), "a.npz", 300) > 200


def test_trajectories(tmp_path):
    writer = _TrajectoryWriter(tmp_path / "trajectory", 0)
    random = np.random.default_rng(0)
    losses = random.random(1, np.float32)
    writer.records[0] = {"embeddings": random.random((1, 2, 3), np.float32), "loss": losses}
    writer.write(1)
    path = tmp_path / "trajectory" / "000001.safetensors"
    assert noticed(path, lambda: load_trajectory(tmp_path), path.name) > 90


def test_generated_data_sets(tmp_path):
    folder = tmp_path / "generate"
    run(folder, count=4)
    originals = [{"image": None, "depth": None, "mask": None}]
    kinds = sorted(path for path in folder.rglob("*") if path.is_file() and "images" not in path.parts)
    assert {path.name for path in kinds} >= {"summary.json", "dataset_info.json", "features.json"}
    for path in kinds:
        found = noticed(path, lambda: as_batch(generated_images(folder, originals)), str(folder), 12)
        assert found > 3 or path.name == "config.json", path


HOSTILE = '{"a":' * 100_000


def test_json_that_is_nested_without_end_is_an_error_by_name(tmp_path):
    path = tmp_path / "x.json"
    path.write_text(HOSTILE)
    for read in (
        lambda: read_json(path, "delete it"),
        lambda: repo.read_json(path),
        lambda: results.load(path),
        lambda: check_config(path, {}),
    ):
        with pytest.raises(ValueError, match=r"x\.json") as refused:
            read()
        assert len(str(refused.value)) < 500
