"""The small world of rooms: procedural rooms with exact depth, in styles that words name."""

from gap_jax.small_worlds.rooms.renderer import (
    AXES,
    EVERY,
    NARROW,
    SPLITS,
    RenderedRooms,
    Style,
    caption,
    draw_style,
    parse,
    render,
)

__all__ = [
    "AXES",
    "EVERY",
    "NARROW",
    "SPLITS",
    "RenderedRooms",
    "Style",
    "caption",
    "draw_style",
    "parse",
    "render",
]
