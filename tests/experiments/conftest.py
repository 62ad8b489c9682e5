"""Fixtures of several experiments."""

import pytest


@pytest.fixture
def no_generator(monkeypatch):
    """Fails a test that opens Stable Diffusion or CLIP."""

    def refuse(*args, **options):
        raise AssertionError("the generator was opened")

    for name in ("open_pipeline", "open_clip"):
        monkeypatch.setattr(f"gap_jax.closed_loop.world.{name}", refuse)
