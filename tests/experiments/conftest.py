"""Fixtures of several experiments."""

import pytest


@pytest.fixture
def no_generator(monkeypatch):
    """Fails a test that loads Stable Diffusion or CLIP."""

    def load(*args, **options):
        raise AssertionError("the generator was loaded")

    for name in ("load_pipeline", "load_clip"):
        monkeypatch.setattr(f"gap_jax.closed_loop.world.{name}", load)
