"""Tests that traces have the steps that were asked for, and that bars say how many images a second."""

from types import SimpleNamespace

import jax
import jax.numpy as jnp
from tqdm import tqdm

from gap_jax.progress import compiling, speed, traced_steps, tracing


def test_each_stage_is_traced_once_without_its_first_step(tmp_path, monkeypatch):
    events = []
    monkeypatch.setattr(
        jax.profiler, "start_trace", lambda folder: (events.append(folder.name), folder.mkdir())
    )
    monkeypatch.setattr(jax.profiler, "stop_trace", lambda: events.append("stop"))
    with tracing(2, tmp_path):
        for stage in ("optimize", "optimize", "generate"):
            with traced_steps(stage) as begin_step:
                for number in range(5 if stage == "optimize" else 3):
                    begin_step()
                    events.append(number)
    first = [0, "optimize", 1, 2, "stop", 3, 4]
    assert events == [*first, *range(5), 0, "generate", 1, 2, "stop"]


def test_nothing_is_traced_unless_asked_for(tmp_path):
    with tracing(0, tmp_path), traced_steps("optimize") as begin_step:
        for _ in range(3):
            begin_step()
    assert list(tmp_path.iterdir()) == []


def test_a_trace_is_a_file_that_profilers_read(tmp_path):
    with tracing(1, tmp_path), traced_steps("evaluate") as begin_step:
        for _ in range(2):
            begin_step()
            jnp.ones(3).block_until_ready()
    assert list((tmp_path / "evaluate").rglob("*.xplane.pb"))


def test_images_a_second_are_steps_a_second_times_images(monkeypatch):
    bar = SimpleNamespace(format_dict={"rate": None, "elapsed": 2.0}, n=7, initial=3, disable=False)
    assert speed(bar, 8, None) == speed(bar, 8, 1e12) == {"images/s": "16"}  # nobody published a CPU's peak
    bar.format_dict["rate"] = 5.0
    monkeypatch.setattr(jax, "devices", lambda: [SimpleNamespace(device_kind="NVIDIA H100 80GB HBM3")])
    assert speed(bar, 8, 989e11) == {"images/s": "40", "peak FLOP/s": "50.0%"}


def test_a_bar_of_another_process_is_not_shown_and_has_no_rate():
    with tqdm(total=10, disable=True) as bar:
        bar.update(4)
        assert speed(bar, 8, None) == {}


def test_bars_of_other_processes_are_silent_and_no_error():
    with tqdm(total=10, disable=True) as bar, compiling(bar, first=True):
        bar.update(4)
