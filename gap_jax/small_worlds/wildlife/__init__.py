"""The small world of animals: procedural animals with exact masks, on backgrounds that words name."""

from gap_jax.small_worlds.seeds import SPLITS
from gap_jax.small_worlds.wildlife.cameras import CAMERAS, IWILDCAM, WATERBIRDS, Camera, Kind
from gap_jax.small_worlds.wildlife.renderer import RenderedAnimals, render, render_kinds
from gap_jax.small_worlds.wildlife.words import (
    AXES,
    BIRDS,
    EVERY,
    LABELS,
    LAND,
    MAMMALS,
    WATER,
    Words,
    caption,
    draw_words,
    group,
    hour,
    parse,
)

__all__ = [
    "AXES",
    "BIRDS",
    "CAMERAS",
    "EVERY",
    "IWILDCAM",
    "LABELS",
    "LAND",
    "MAMMALS",
    "SPLITS",
    "WATER",
    "WATERBIRDS",
    "Camera",
    "Kind",
    "RenderedAnimals",
    "Words",
    "caption",
    "draw_words",
    "group",
    "hour",
    "parse",
    "render",
    "render_kinds",
]
