"""The small world of rooms: procedural rooms with exact depth, in styles that words name."""

from gap_jax.small_worlds.rooms.condition import condition
from gap_jax.small_worlds.rooms.renderer import PLANS, Plan, RenderedRooms, render
from gap_jax.small_worlds.rooms.styles import AXES, EVERY, NARROW, Style, caption, draw_style, parse
from gap_jax.small_worlds.seeds import SPLITS

__all__ = [
    "AXES",
    "EVERY",
    "NARROW",
    "PLANS",
    "SPLITS",
    "Plan",
    "RenderedRooms",
    "Style",
    "caption",
    "condition",
    "draw_style",
    "parse",
    "render",
]
