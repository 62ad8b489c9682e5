"""Fixtures of several experiments."""

from types import SimpleNamespace

import pytest


@pytest.fixture
def no_weights(monkeypatch):
    """Fails a test that loads weights of Stable Diffusion or CLIP; their configurations fit everything."""

    def refuse():
        raise AssertionError("weights of the generator were loaded")

    for name in ("open_pipeline", "open_clip"):
        opened = SimpleNamespace(controlnet=None), refuse
        monkeypatch.setattr(f"gap_jax.closed_loop.world.{name}", lambda *given, opened=opened, **kept: opened)
