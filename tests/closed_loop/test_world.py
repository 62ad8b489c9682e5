"""The generator of a world is loaded as its settings say."""

from types import SimpleNamespace

import pytest

from gap_jax.closed_loop import world
from gap_jax.closed_loop.settings import GeneratorFiles
from gap_jax.experiments.classification import worlds
from gap_jax.experiments.waterbirds.settings import WaterbirdsFiles


def test_a_generator_is_loaded_as_its_files_say(monkeypatch):
    monkeypatch.setattr(world, "open_pipeline", lambda *given, **options: ("pipe", lambda: (given, options)))
    monkeypatch.setattr(world, "open_clip", lambda *given: ("clip", lambda: given))
    files = GeneratorFiles(
        pipeline="sd", clip="vit", dtype="bfloat16", attention="blocks", recompute="nothing"
    )
    generator = world.load_generator(files, ["depth", "canny"])
    options = {"attention": "blocks", "recompute": "nothing"}
    assert generator.params == (("sd", ["depth", "canny"], "bfloat16"), options)
    assert generator.clip_params == ("vit", "bfloat16")
    assert world.load_generator(files).params[0] == ("sd", None, "bfloat16")


def refuse():
    raise AssertionError("weights were loaded")


def test_a_controlnet_has_no_condition_in_images_with_classes(monkeypatch):
    pipe = SimpleNamespace(controlnet=object())
    opened = world.Generator(lambda: (pipe, refuse), lambda: ("clip", refuse))
    monkeypatch.setattr(worlds, "load_generator", lambda config: opened)
    generator = worlds.generator_from(WaterbirdsFiles(pipeline="sd"))
    with pytest.raises(ValueError, match="sd has a ControlNet, which images with classes have no condition"):
        generator.pipe  # noqa: B018 (it is opened by that)
    pipe.controlnet = None
    assert generator.pipe is pipe and generator.clip == "clip"
