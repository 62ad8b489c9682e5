"""The error messages for shipped models that are missing."""

import pytest

import gap_jax
from gap_jax.weights.classifier import load_classifier

LOADERS = {
    ("small", ""): gap_jax.load_pipeline,
    ("small", "clip"): gap_jax.load_clip,
    ("small", "depth"): gap_jax.load_depth,
    ("small", "critic"): lambda name: gap_jax.load_depth(name, "critic"),
    ("small", "dpt"): lambda name: gap_jax.load_depth(name, "dpt"),
    ("small", "segmentation"): gap_jax.load_segmentation,
    ("wildlife", ""): gap_jax.load_pipeline,
    ("wildlife", "clip"): gap_jax.load_clip,
    ("wildlife", "waterbirds"): load_classifier,
    ("wildlife", "iwildcam_critic"): lambda name: load_classifier(name, part="iwildcam_critic"),
}


@pytest.mark.parametrize(("name", "part"), LOADERS)
def test_an_installation_without_weights_says_so(name, part, monkeypatch, tmp_path):
    monkeypatch.setattr("gap_jax.weights.repo.ASSETS", tmp_path)
    with pytest.raises(FileNotFoundError, match=f"this installation of gap_jax lacks .*{name}.*{part}"):
        LOADERS[name, part](name)


def test_a_part_that_a_world_does_not_have_is_told_from_one_that_is_missing():
    with pytest.raises(FileNotFoundError, match="'wildlife' has no depth: it has clip, waterbirds, "):
        gap_jax.load_depth("wildlife")
    with pytest.raises(FileNotFoundError, match="'small' has no waterbirds: it has clip, depth, critic"):
        load_classifier("small")
