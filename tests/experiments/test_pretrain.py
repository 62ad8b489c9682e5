"""The recipe of the small world, shortened: trained, killed and gone on with, exported, probed."""

import json
import os
import signal
import subprocess
import sys
import time

import jax
import numpy as np
import pytest

import gap_jax
from gap_jax.data import rooms
from gap_jax.experiments import pretrain, probe

PARTS = ("vae", "clip", "diffusion", "refine", "depth", "critic")
STEPS = [argument for part in PARTS for argument in (f"--{part}.steps", "4", f"--{part}.batch", "4")]


def start(work, cache):
    environment = os.environ | {
        "JAX_COMPILATION_CACHE_DIR": str(cache),
        "JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS": "0",
        "XLA_FLAGS": "--xla_backend_optimization_level=0",
    }
    command = [sys.executable, "-m", "gap_jax.experiments.pretrain", "--work", str(work), "--few", *STEPS]
    return subprocess.Popen(command, env=environment, stdout=subprocess.PIPE, stderr=subprocess.STDOUT)


def finish(process):
    output, _ = process.communicate(timeout=1200)
    assert process.returncode == 0, output.decode()


def weights(folder):
    return {path.relative_to(folder): path.read_bytes() for path in sorted(folder.rglob("*.safetensors"))}


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
    """A finished recipe's folder, and the cache of what was compiled for it."""
    folder = tmp_path_factory.mktemp("recipe")
    finish(start(folder / "whole", folder / "cache"))
    return folder


@pytest.mark.slow
def test_killed_in_every_part_it_ends_with_the_same_weights(trained):
    work = trained / "killed"
    for part in PARTS:
        process = start(work, trained / "cache")
        while not (work / part / "checkpoints" / "2").exists():
            assert process.poll() is None, process.communicate()[0].decode()
            time.sleep(0.05)
        process.send_signal(signal.SIGKILL)
        process.wait()
    assert not (work / "small" / "critic").exists()
    finish(start(work, trained / "cache"))
    expected = weights(trained / "whole" / "small")
    assert len(expected) == 7 and weights(work / "small") == expected


@pytest.mark.slow
def test_what_it_writes_is_probed(trained, tmp_path):
    small = trained / "whole" / "small"
    config = probe.Probe(
        model=str(small),
        clip=str(small / "clip"),
        depth=str(small),
        rooms_per_style=1,
        output=tmp_path / "probe.json",
    )
    found = probe.main(config)
    assert json.loads((tmp_path / "probe.json").read_text()) == found
    assert set(found["clip_zero_shot"]) == set(rooms.AXES)
    assert found["vae_psnr"]["mean"] > 15
    assert found["label_fidelity"]["5_steps_over_real"]["worst_style"].startswith("a ")


def test_accuracy_counts_the_words_found():
    styles = [rooms.Style("red"), rooms.Style("blue"), rooms.Style("grey")]
    values = probe.by_word(np.array([1.0, 2.0, 6.0]), styles)
    assert values["mean"] == 3 and values["red"] == 1 and values["plain"] == 3
    assert "foggy" not in values


def test_the_mean_map_predicts_better_than_any_one_room():
    mean = probe.mean_map(64)
    truth = rooms.render(rooms.SPLITS["validation"], range(32), [rooms.Style()] * 32)
    own = probe.l1(np.broadcast_to(mean, truth.depth.shape), truth).mean()
    others = [probe.l1(np.broadcast_to(depth, truth.depth.shape), truth).mean() for depth in truth.depth[:8]]
    assert own < min(others)


def test_chunks_are_as_the_whole_would_be():
    images = np.random.default_rng(0).random((probe.CHUNK + 5, 2, 2, 3), np.float32)
    found = probe.in_chunks(lambda x: jax.numpy.asarray(x) * 2, images)
    np.testing.assert_allclose(found, images * 2)


def test_psnr_by_hand():
    images = np.zeros((1, 4, 4, 3), np.float32)
    assert probe.psnr(images, images + 0.1)[0] == pytest.approx(20, abs=1e-4)


def test_the_vocabulary_holds_every_style_word_whole():
    tokenizer, size = pretrain.train_tokenizer(pretrain.VOCABULARY.split(), pretrain.TOKENS)
    for words in rooms.AXES.values():
        for word in words:
            ids = tokenizer.encode([word], length=pretrain.TOKENS, vocab_size=size)[0]
            assert (ids == ids[-1]).sum() == pretrain.TOKENS - 2


@pytest.mark.parametrize("part", ["clip", "depth", "critic", ""])
def test_an_installation_without_weights_says_so(part, monkeypatch, tmp_path):
    monkeypatch.setattr("gap_jax.weights.repo.ASSETS", tmp_path)
    load = {
        "": lambda: gap_jax.load_pipeline("small"),
        "clip": lambda: gap_jax.load_clip("small"),
        "depth": lambda: gap_jax.load_depth("small"),
        "critic": lambda: gap_jax.load_depth("small", "critic"),
    }[part]
    with pytest.raises(FileNotFoundError, match=f"this installation of gap_jax lacks .*small.*{part}"):
        load()
