"""A procedural RGB-D world: rooms with spheres and boxes, seen by a wide-angle camera, in a style of words.

Geometry comes from (seed, index) alone, appearance from geometry and four words, so that a depth map and a
caption determine the image. Camera space: x right, y down, z forward, metres. The camera stands behind a low
sill 0.4 m away, and every scene is scaled so that its farthest point is 7.6 m away: depth maps normalised per
image, as ControlNet sees them, keep their scale.
"""

from collections.abc import Mapping, Sequence
from typing import NamedTuple

import numpy as np

from gap_jax.small_worlds.words import one_of_each, words_in

FOCAL = 0.9  # half the image's width is 1
RANGE = 8.0  # metres at depth 1
NEAREST, FARTHEST = 0.4, 7.6  # metres
SILL = 1 / 32  # of the image's height, at its lower edge
MAX_OBJECTS = 4
SPLITS = {"train": 0, "validation": 1, "test": 2}

_COLOURS = {
    "grey": (0.66, 0.66, 0.66),
    "beige": (0.86, 0.74, 0.54),
    "red": (0.86, 0.25, 0.20),
    "green": (0.28, 0.68, 0.30),
    "blue": (0.24, 0.42, 0.88),
}
_TEXTURES = ("plain", "striped", "checkered")
_LIGHT = {"bright": 1.0, "dark": 0.4}
_EXTINCTION = {"clear": 0.0, "foggy": 0.35}  # per metre
_WAVE = np.float32(2 * np.pi / 3.0)  # radians per metre, of stripes and checks
_FOG = np.array((0.86, 0.88, 0.90), np.float32)
_SKY = np.array((0.80, 0.90, 1.00), np.float32)
_LAMP = np.array((0.50, -0.50, -0.70), np.float32) / np.float32(np.linalg.norm((0.50, -0.50, -0.70)))

AXES: dict[str, tuple[str, ...]] = {
    "colour": tuple(_COLOURS),
    "texture": _TEXTURES,
    "light": tuple(_LIGHT),
    "air": tuple(_EXTINCTION),
}
EVERY = AXES
NARROW = {"colour": ("grey", "beige"), "texture": ("plain",), "light": ("bright",), "air": ("clear",)}


class Style(NamedTuple):
    """One word for each of `AXES`."""

    colour: str = "grey"
    texture: str = "plain"
    light: str = "bright"
    air: str = "clear"


class RenderedRooms(NamedTuple):
    """Rendered rooms.

    `image` uint8 `[B,S,S,3]`; `depth` float32 `[B,S,S,1]`, z / 8 m; `mask` bool `[B,S,S,1]`, False where a
    window has no depth; `normals` float32 `[B,S,S,3]`, unit, towards the camera; `styles`, one for each.
    """

    image: np.ndarray
    depth: np.ndarray
    mask: np.ndarray
    normals: np.ndarray
    styles: tuple[Style, ...]

    def as_batch(self) -> dict[str, np.ndarray]:
        """`image` as float32 in [0,1], `depth` and `mask`."""
        return {"image": self.image.astype(np.float32) / 255, "depth": self.depth, "mask": self.mask}


def caption(style: Style, known: Sequence[bool] = (True,) * 4) -> str:
    """`a red striped room, dark, foggy`; words whose `known` is False are left unsaid."""
    colour, texture, light, air = (word if said else "" for word, said in zip(style, known, strict=True))
    return ", ".join(filter(None, (" ".join(filter(None, ("a", colour, texture, "room"))), light, air)))


def parse(text: str) -> dict[str, str]:
    """The words of a text such as `red foggy` by their axes; raises ValueError for one that is no style's."""
    return words_in(text, AXES, ("a", "room"), "rooms")


def draw_style(seed: int, index: int, allowed: Mapping[str, Sequence[str]] = EVERY) -> Style:
    """The style of a room, each word drawn from those `allowed` on its axis (all, for an axis not given)."""
    return Style(*one_of_each(_random(seed, index, 1), AXES, allowed, "rooms"))


def render(seed: int, indices: Sequence[int], styles: Sequence[Style], size: int = 64) -> RenderedRooms:
    """RenderedRooms number `indices` of the world `seed`, in `styles`; equal arguments give equal bits.

    Images are averages of four rays a pixel, depth, mask and normals are those of its centre.
    Raises ValueError for a size below 64, or as many styles as there are not indices.
    """
    if size < 64:
        raise ValueError(f"size must be 64 pixels or more, found {size}")
    if len(styles) != len(indices):
        raise ValueError(f"{len(indices)} rooms need as many styles, found {len(styles)}")
    for style in styles:
        parse(" ".join(style))
    scenes = _stack([_scene(_random(seed, int(index), 0)) for index in indices])
    fine = _cast(scenes, 2 * size)
    scale = FARTHEST / fine.z.max((1, 2), keepdims=True)
    colours = _shade(_behind_sill(fine, scale), styles)
    image = colours.reshape(len(colours), size, 2, size, 2, 3).mean((2, 4))
    centre = _behind_sill(_cast(scenes, size), scale)
    depth = np.clip(centre.z, NEAREST, RANGE) / RANGE
    return RenderedRooms(
        np.round(image * 255).astype(np.uint8),
        depth[..., None],
        ~centre.window[..., None],
        centre.normals,
        tuple(styles),
    )


class _Scene(NamedTuple):
    """A room, centred at 0 with the camera in it: lengths in metres before scaling, `[B,…]` when stacked."""

    half: np.ndarray  # [3] half extent of the room
    camera: np.ndarray  # [3]
    rotation: np.ndarray  # [3,3] from camera to room
    kind: np.ndarray  # [objects] 0 none, 1 sphere, 2 box
    centre: np.ndarray  # [objects,3]
    extent: np.ndarray  # [objects,3]; a sphere's radius in each
    yaw: np.ndarray  # [objects]
    window: np.ndarray  # [5] wall (0 left, 1 back, 2 right, -1 none), from, to along it, from, to in height


class _Hits(NamedTuple):
    z: np.ndarray  # [B,S,S]
    rays: np.ndarray  # [S,S,3] with z = 1
    normals: np.ndarray  # [B,S,S,3] in camera space
    window: np.ndarray  # [B,S,S]


def _random(seed: int, index: int, purpose: int) -> np.random.Generator:
    return np.random.Generator(np.random.Philox(key=[seed, 4 * index + purpose]))


def _scene(random: np.random.Generator) -> _Scene:
    floor, ceiling = random.uniform(1.0, 1.7, 2)
    width, back, behind = random.uniform(1.4, 3.6), random.uniform(3.0, 7.5), 1.0
    half = np.array((width, (floor + ceiling) / 2, (back + behind) / 2))
    camera = np.array((random.uniform(-0.45, 0.45) * width, half[1] - floor, behind - half[2]))
    rotation = _rotate_y(random.uniform(-0.7, 0.7)) @ _rotate_x(random.uniform(-0.3, 0.15))
    count = random.integers(2, MAX_OBJECTS + 1)
    kind = np.where(np.arange(MAX_OBJECTS) < count, random.integers(1, 3, MAX_OBJECTS), 0)
    radius = random.uniform(0.3, 0.8, MAX_OBJECTS)
    extent = radius[:, None] * np.where(kind == 2, random.uniform(0.7, 1.3, (3, MAX_OBJECTS)), 1).T
    depth = random.uniform(1.6, back - 0.4, MAX_OBJECTS)
    reach = np.minimum(width - 0.3, 1.2 * depth)
    across = np.clip(random.uniform(-1, 1, MAX_OBJECTS) * reach, 0.2 - width, width - 0.2)
    standing = half[1] - extent[:, 1]
    height = np.where(random.random(MAX_OBJECTS) < 0.75, standing, random.uniform(-0.5, 0.3, MAX_OBJECTS))
    centre = np.stack([across, height, camera[2] + depth], 1)
    yaw = random.uniform(0, np.pi / 2, MAX_OBJECTS)
    wall = random.integers(0, 3) if random.random() < 0.4 else -1
    length = half[0] if wall == 1 else half[2]
    start = random.uniform(-0.7, 0.3) * length if wall == 1 else random.uniform(0, 0.4) * length
    low, high = random.uniform(-0.85, -0.6) * half[1], random.uniform(0.0, 0.3) * half[1]
    window = np.array((wall, start, start + random.uniform(0.5, 0.8) * length, low, high))
    return _Scene(half, camera, rotation, kind, centre, extent, yaw, window)


def _stack(scenes: Sequence[_Scene]) -> _Scene:
    return _Scene(*(np.stack(parts).astype(np.float32) for parts in zip(*scenes, strict=True)))


def _cast(scenes: _Scene, size: int) -> _Hits:
    """The nearest surface along the ray of every pixel."""
    centres = ((np.arange(size) + 0.5) / size * 2 - 1).astype(np.float32) / np.float32(FOCAL)
    rays = np.stack([*np.meshgrid(centres, centres), np.ones((size, size), np.float32)], -1)
    directions = np.einsum("bij,hwj->bhwi", scenes.rotation, rays)
    directions = np.where(np.abs(directions) < 1e-6, np.float32(1e-6), directions)
    expand = (slice(None), None, None)
    exits = (np.sign(directions) * scenes.half[expand] - scenes.camera[expand]) / directions
    side = exits.argmin(-1)[..., None]
    z = np.take_along_axis(exits, side, -1)[..., 0]
    normals = np.where(np.arange(3) == side, -np.sign(directions), 0).astype(np.float32)
    hits = scenes.camera[expand] + z[..., None] * directions
    window = _in_window(scenes, hits, side[..., 0])
    for i in range(MAX_OBJECTS):
        for kind, intersect in ((1, _sphere), (2, _box)):
            rows = np.flatnonzero(scenes.kind[:, i] == kind)
            if not len(rows):
                continue
            part = _Scene(*(field[rows] for field in scenes))
            near, normal = intersect(part, i, directions[rows])
            closer = (near > 0.2) & (near < z[rows])
            z[rows] = np.where(closer, near, z[rows])
            normals[rows] = np.where(closer[..., None], normal, normals[rows])
            window[rows] &= ~closer
    normals = np.einsum("bij,bhwi->bhwj", scenes.rotation, normals)
    return _Hits(z, rays, normals, window)


def _behind_sill(hits: _Hits, scale: np.ndarray) -> _Hits:
    """The hits of the scaled scene, those in the lowest rows on the sill."""
    sill = hits.rays[..., 1] * FOCAL > 1 - 2 * SILL
    front = np.array((0, 0, -1), np.float32)
    return _Hits(
        np.where(sill, np.float32(NEAREST), hits.z * scale),
        hits.rays,
        np.where(sill[..., None], front, hits.normals),
        hits.window & ~sill,
    )


def _in_window(scenes: _Scene, hits: np.ndarray, side: np.ndarray) -> np.ndarray:
    wall, start, stop, low, high = (column[:, None, None] for column in scenes.window.T)
    x, y, depth = np.moveaxis(hits, -1, 0)
    on_wall = np.where(wall == 1, (side == 2) & (depth > 0), (side == 0) & (np.sign(x) == wall - 1))
    along = np.where(wall == 1, x, depth)
    return (wall >= 0) & on_wall & (along > start) & (along < stop) & (y > low) & (y < high)


def _sphere(scenes: _Scene, i: int, directions: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    offset = (scenes.camera - scenes.centre[:, i])[:, None, None]
    radius = scenes.extent[:, i, :1, None]
    a = np.square(directions).sum(-1)
    b = (directions * offset).sum(-1)
    discriminant = b * b - a * (np.square(offset).sum(-1) - radius * radius)
    z = np.where(discriminant > 0, (-b - np.sqrt(np.maximum(discriminant, 0))) / a, np.inf)
    at = np.where(np.isfinite(z), z, 0)[..., None]
    return z, (offset + at * directions) / radius[..., None]


def _box(scenes: _Scene, i: int, directions: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    turn = np.stack([_rotate_y(angle) for angle in scenes.yaw[:, i]]).astype(np.float32)  # to the room
    origin = np.einsum("bij,bi->bj", turn, scenes.camera - scenes.centre[:, i])[:, None, None]
    local = np.einsum("bij,bhwi->bhwj", turn, directions)
    local = np.where(np.abs(local) < 1e-6, np.float32(1e-6), local)
    entries = (-np.sign(local) * scenes.extent[:, None, None, i] - origin) / local
    exits = (np.sign(local) * scenes.extent[:, None, None, i] - origin) / local
    side = entries.argmax(-1)[..., None]
    near = np.take_along_axis(entries, side, -1)[..., 0]
    normal = np.where(np.arange(3) == side, -np.sign(local), 0).astype(np.float32)
    z = np.where(near < exits.min(-1), near, np.inf)
    return z, np.einsum("bij,bhwj->bhwi", turn, normal)


def _shade(hits: _Hits, styles: Sequence[Style]) -> np.ndarray:
    """Colours in [0,1], `[B,S,S,3]`: a function of position, normal and words."""

    def each(values):
        return np.asarray(values, np.float32).reshape(len(styles), 1, 1, -1)

    z = hits.z[..., None]
    points = z * hits.rays
    normals = hits.normals
    base = each([_COLOURS[style.colour] for style in styles])
    floor = np.clip(-1.4 * normals[..., 1:2] - 0.4, 0, 1)
    ceiling = np.clip(1.4 * normals[..., 1:2] - 0.4, 0, 1)
    albedo = base * (1 - 0.35 * floor) * (1 - 0.5 * ceiling) + 0.45 * ceiling
    albedo = albedo * _pattern(points, [style.texture for style in styles])
    facing = 0.5 + 0.5 * (normals @ _LAMP)[..., None]
    colour = np.where(hits.window[..., None], _SKY, albedo * (0.30 + 0.80 * facing))
    clear = np.exp(-each([_EXTINCTION[style.air] for style in styles]) * z)
    light = each([_LIGHT[style.light] for style in styles])
    return np.clip(light * (clear * colour + (1 - clear) * _FOG), 0, 1)


def _pattern(points: np.ndarray, textures: Sequence[str]) -> np.ndarray:
    """Factors on the albedo, `[B,S,S,1]`: stripes and checks carved from camera space, with soft edges."""
    upright = np.sin(points @ np.array((1, 0, 1), np.float32) * _WAVE)
    slanted = np.sin(points @ np.array((-0.5, 1, 0.5), np.float32) * _WAVE)
    waves = {"plain": np.ones_like(upright), "striped": upright, "checkered": 1.5 * upright * slanted}
    wave = np.stack([waves[texture][i] for i, texture in enumerate(textures)])
    return (0.65 + 0.35 * np.tanh(3 * wave))[..., None]


def _rotate_x(angle: float) -> np.ndarray:
    c, s = np.cos(angle), np.sin(angle)
    return np.array(((1, 0, 0), (0, c, -s), (0, s, c)))


def _rotate_y(angle: float) -> np.ndarray:
    c, s = np.cos(angle), np.sin(angle)
    return np.array(((c, 0, s), (0, 1, 0), (-s, 0, c)))
