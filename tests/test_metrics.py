"""Metrics on disk: the JSON lines, also of a resumed run, and TensorBoard's events."""

import errno
import json
import resource
import struct

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from tensorboardX.proto.event_pb2 import Event

from gap_jax.metrics import MetricsWriter
from tests.metric_lines import read_metrics


def events(folder):
    """Return the events of each file, oldest first; TFRecords are length, checksum, content, checksum."""
    files = sorted(folder.glob("events.out.tfevents*"), key=lambda path: path.stat().st_ctime_ns)
    files_events = []
    for data in (path.read_bytes() for path in files):
        files_events.append([])
        while data:
            (length,) = struct.unpack("<Q", data[:8])
            files_events[-1].append(Event.FromString(data[12 : 12 + length]))
            data = data[16 + length :]
    return files_events


def scalars(folder):
    (run_events,) = events(folder)
    return [
        (event.step, value.tag, value.simple_value) for event in run_events for value in event.summary.value
    ]


def run(folder, first, last, resume_step=None):
    with MetricsWriter(folder, resume_step) as writer:
        for step in range(first, last + 1):
            writer.write(step, {"loss": 1 / step, "population": np.array([step, 0.1], np.float32)})


def lines(folder):
    return (folder / "metrics.jsonl").read_bytes()


def test_each_write_is_a_line_at_once_and_exact(tmp_path):
    with MetricsWriter(tmp_path / "new" / "folder") as writer:
        folder = tmp_path / "new" / "folder"
        writer.write(3, {"loss": 0.1, "n": 2, "each": jnp.array([0.1, 2]), "half": jnp.bfloat16(0.5)})
        expected = {"step": 3, "loss": 0.1, "n": 2, "each": [float(np.float32(0.1)), 2.0], "half": 0.5}
        assert lines(folder) == json.dumps(expected).encode() + b"\n"
        writer.write(jnp.int32(4), {"loss": jnp.float32(1.5), "grid": np.ones((2, 2), int), "stop": np.True_})
        assert read_metrics(folder) == [
            expected,
            {"step": 4, "loss": 1.5, "grid": [[1, 1], [1, 1]], "stop": True},
        ]


def test_nan_and_infinity_become_null(tmp_path):
    with MetricsWriter(tmp_path) as writer:
        writer.write(0, {"loss": float("nan"), "each": np.array([np.inf, 1, -np.inf])})
    assert lines(tmp_path) == b'{"step": 0, "loss": null, "each": [null, 1.0, null]}\n'


def test_a_resumed_run_leaves_the_file_of_an_uninterrupted_run(tmp_path):
    run(tmp_path / "once", 1, 9)
    run(tmp_path / "twice", 1, 7)
    with (tmp_path / "twice" / "metrics.jsonl").open("ab") as file:
        file.write(b'{"step": 8, "lo')
    assert [line["step"] for line in read_metrics(tmp_path / "twice")] == list(range(1, 8))
    run(tmp_path / "twice", 6, 9, resume_step=5)
    assert lines(tmp_path / "twice") == lines(tmp_path / "once")
    _, second = events(tmp_path / "twice")
    assert [event.step for event in second if event.session_log.status] == [6]  # hides 6 and 7 of the first


def test_a_new_run_drops_all_lines(tmp_path):
    run(tmp_path, 1, 3)
    run(tmp_path, 1, 2)
    assert [line["step"] for line in read_metrics(tmp_path)] == [1, 2]
    assert sorted(path.name for path in tmp_path.glob("*metrics*")) == ["metrics.jsonl"]


def test_tensorboard_has_each_entry_of_an_array(tmp_path):
    with MetricsWriter(tmp_path) as writer:
        writer.write(2, {"loss": 0.5, "population": jnp.array([1.0, 2.0]), "stop": np.True_})
    assert scalars(tmp_path) == [
        (2, "loss", 0.5),
        (2, "population/0", 1),
        (2, "population/1", 2),
        (2, "stop", 1),
    ]


def test_tensorboard_has_the_images(tmp_path):
    import io

    from PIL import Image

    image = np.random.default_rng(0).random((4, 6, 3), np.float32)
    image[0, 0] = (-1, 2, np.nan)
    with MetricsWriter(tmp_path) as writer:
        writer.image(7, "fixed", jnp.asarray(image))
        with pytest.raises(ValueError, match=r"image 'fixed' must have shape \[\*, \*, 3\], found \[4, 6\]"):
            writer.image(7, "fixed", image[..., 0])
    (run_events,) = events(tmp_path)
    (event,) = [event for event in run_events if event.summary.value]
    shown = np.asarray(Image.open(io.BytesIO(event.summary.value[0].image.encoded_image_string)))
    assert event.step == 7 and event.summary.value[0].tag == "fixed"
    assert shown[0, 0].tolist() == [0, 255, 0]
    np.testing.assert_allclose(shown[1:] / 255, image[1:], atol=0.5 / 255 + 1e-6)


def test_only_the_first_process_writes(tmp_path, monkeypatch):
    monkeypatch.setattr(jax, "process_index", lambda: 1)
    with MetricsWriter(tmp_path / "run") as writer:
        writer.write(1, {"loss": 1.0})
        writer.image(1, "fixed", np.zeros((2, 2, 3)))
    assert not (tmp_path / "run").exists()


def test_invalid_arguments_and_files_are_refused(tmp_path):
    with MetricsWriter(tmp_path) as writer, pytest.raises(ValueError, match="cannot be named 'step'"):
        writer.write(1, {"step": 1})
    for line in ("nonsense", "[]", '{"loss": 1}'):
        (tmp_path / "metrics.jsonl").write_text(f'{{"step": 1}}\n{line}\n{{"step": 2}}\n')
        with pytest.raises(ValueError, match=r"metrics\.jsonl:2 must be a JSON object with 'step', found b"):
            MetricsWriter(tmp_path, resume_step=1)


def test_a_full_disk_is_an_error_at_once_and_earlier_lines_stay(tmp_path, monkeypatch):
    """A limit on the size of files stands for the disk: the event file meets it first."""
    writer = MetricsWriter(tmp_path)
    writer.write(1, {"loss": 0.5})
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (4000, limits[1]))
    try:
        with pytest.raises(OSError, match=r"could not be written: File too large"), writer:
            for step in range(2, 1000):
                writer.write(step, {"loss": 0.5})
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
    steps = [line["step"] for line in read_metrics(tmp_path)]
    assert len(steps) > 10 and steps == list(range(1, len(steps) + 1))

    def full(*_):
        raise OSError(errno.ENOSPC, "No space left on device")

    with MetricsWriter(tmp_path, 5) as writer:
        monkeypatch.setattr(writer._events, "flush", full)
        with pytest.raises(OSError, match=r"No space left on device; [\d,]+ MB are free .* Make space"):
            writer.image(6, "picture", np.zeros((2, 2, 3)))
        monkeypatch.undo()
