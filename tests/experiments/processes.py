"""Experiments as processes of their own: on so many devices, stopped on the way, their tables compared."""

import os
import re
import signal
import subprocess
import threading
import time

import numpy as np
from PIL import Image

from gap_jax.report.results import load


def environment(devices=1, optimization=1):
    """Return the variables of a process with this many CPU devices, in which XLA optimises little.

    XLA then compiles fast. At level 0, a step of the small world's prompts would take twice as long.
    """
    flags = f"--xla_backend_optimization_level={optimization} --xla_cpu_use_fusion_emitters=false"
    flags += f" --xla_force_host_platform_device_count={devices}"
    return os.environ | {"XLA_FLAGS": flags, "JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS": "0"}


def stopped(command, sign, how=signal.SIGKILL):
    """Run a command until the file or folder `sign` exists; return its exit status and its stderr."""
    signal.signal(signal.SIGINT, signal.default_int_handler)  # which a background job inherits ignored
    process = subprocess.Popen(command, env=environment(), stderr=subprocess.PIPE, text=True)
    printed = []
    reader = threading.Thread(target=lambda: printed.append(process.stderr.read()))
    reader.start()
    while not sign.exists():
        assert process.poll() is None, sign
        time.sleep(0.02)
    process.send_signal(how)
    process.wait(), reader.join()
    return process.returncode, printed[0]


def stopped_in(command, stage, delay, how):
    """Send a signal `delay` seconds after a stage has shown its progress, unless the command ends before.

    `report` follows the last drawing. Return the exit status, the seconds from the signal to the exit, the
    stage that the signal met, and what was printed to stderr.
    """
    signal.signal(signal.SIGINT, signal.default_int_handler)
    process = subprocess.Popen(command, env=environment(), stdout=subprocess.DEVNULL, stderr=subprocess.PIPE)
    printed = bytearray()
    reader = threading.Thread(target=lambda: [*map(printed.extend, iter(process.stderr.read1, b""))])
    reader.start()
    while process.poll() is None and stage not in _progress(printed):
        time.sleep(0.02)
    time.sleep(delay)
    met = [None, *_progress(printed)][-1]
    began = time.monotonic()
    process.send_signal(how)
    status = process.wait()
    seconds = time.monotonic() - began
    reader.join()
    return status, seconds, met, printed.decode()


def _progress(printed):
    """Return the stages whose unfinished progress was printed, in order, with `report` after all drawings."""
    bars = re.findall(r"(\w+)(?:-\d+)?: +(\d+)%", printed.decode(errors="replace"))
    shown = [(name, percent) for name, percent in bars if percent != "100" or name == "draw"]
    return ["report" if bar == ("draw", "100") else bar[0] for bar in shown]


def assert_same_end(work, other):
    """Assert that the tables, the results and all metrics are the same to the last digit."""
    for pattern in ("report/table.md", "**/metrics.jsonl", "**/learned_embeds.safetensors"):
        files = [
            {path.relative_to(folder): path.read_bytes() for path in folder.glob(pattern)}
            for folder in (work, other)
        ]
        assert files[0] and files[0] == files[1]
    ours, theirs = (load(folder / "results.json") for folder in (work, other))
    assert ours == theirs


def assert_tables_agree(work, other, metric, **tolerance):
    """Assert that columns and arms are the same, and one metric's scores within a tolerance."""
    ours, theirs = (load(folder / "results.json") for folder in (work, other))
    for mine, yours in zip(ours.columns, theirs.columns, strict=True):
        assert mine.scores.keys() == yours.scores.keys()
        for arm, scores in mine.scores.items():
            np.testing.assert_allclose(scores[metric], yours.scores[arm][metric], **tolerance)


def assert_images_agree(work, other, arm):
    """Assert that an arm generated the same images to 1e-3, which rounding to 8 bits may turn into 1."""
    folders = [folder / "seed-0" / arm / "generate" / "images" for folder in (work, other)]
    paths = [sorted(folder.rglob("*.png")) for folder in folders]
    assert paths[0] and len(paths[0]) == len(paths[1])
    for one, another in zip(*paths, strict=True):
        difference = np.asarray(Image.open(one), int) - np.asarray(Image.open(another), int)
        assert np.abs(difference).max() <= 1, one
