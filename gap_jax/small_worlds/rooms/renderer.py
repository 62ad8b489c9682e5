"""A renderer of procedural rooms with depth: spheres and boxes, seen by a wide-angle camera.

A room's geometry comes from (seed, index) alone, and its appearance from the geometry and four words, so that
a depth map and a caption determine the image, up to the grain of a grainy one. Camera space: x right, y down,
z forward, in metres. The camera stands behind a low sill 0.4 m away, and every scene is scaled so that its
farthest point is 7.6 m away: depth maps normalised per image, as ControlNet sees them, therefore keep their
scale.

Everything carries the same fine pattern, carved from space. Depth can be read from its scale in the image, as
from texture in photographs, and whatever hides fine detail makes that harder.
"""

from collections.abc import Sequence
from typing import Any, Literal, NamedTuple, get_args

import numpy as np

from gap_jax.small_worlds.rooms.camera import photograph
from gap_jax.small_worlds.rooms.styles import COLOURS, EXTINCTION, LIGHT, Style, parse
from gap_jax.small_worlds.seeds import Purpose, generator

FOCAL = 0.9  # focal length, in half image widths
RANGE = 8.0  # metres at depth 1
NEAREST, FARTHEST = 0.4, 7.6  # distances of the sill and of the farthest point, in metres
SILL = 1 / 32  # height of the sill at the lower edge, as a share of the image's height
MAX_OBJECTS = 4
Plan = Literal["room", "corridor", "attic"]  # the shape of the walls; models are trained in rooms alone
PLANS: tuple[Plan, ...] = get_args(Plan)

_WAVE = np.float32(2 * np.pi / 0.8)  # wave number of the pattern, in radians per metre
_FOG = np.array((0.86, 0.88, 0.90), np.float32)
_SKY = np.array((0.80, 0.90, 1.00), np.float32)
_LAMP = np.array((0.50, -0.50, -0.70), np.float32) / np.float32(np.linalg.norm((0.50, -0.50, -0.70)))


class RenderedRooms(NamedTuple):
    """A batch of rendered rooms.

    - `image`: uint8 `[B,S,S,3]`.
    - `depth`: float32 `[B,S,S,1]`, z / 8 m.
    - `mask`: bool `[B,S,S,1]`, False where a window has no depth.
    - `normals`: float32 `[B,S,S,3]`, unit length, towards the camera.
    - `styles`: one for each room.
    """

    image: np.ndarray
    depth: np.ndarray
    mask: np.ndarray
    normals: np.ndarray
    styles: tuple[Style, ...]

    def as_batch(self) -> dict[str, np.ndarray]:
        """Return `image` as float32 in [0,1], `depth` and `mask`."""
        return {"image": self.image.astype(np.float32) / 255, "depth": self.depth, "mask": self.mask}


def render(
    seed: int, indices: Sequence[int], styles: Sequence[Style], size: int = 64, plan: Plan = "room"
) -> RenderedRooms:
    """Render the rooms number `indices` of the world `seed`, each in its style, all with the same `plan`.

    Equal arguments give equal bits. A pixel of an image averages four rays; depth, mask and normals are those
    of the pixel's centre. Raises ValueError for a size below 64 pixels, for an unknown word or plan, and
    unless there are as many styles as indices.
    """
    if plan not in PLANS:
        raise ValueError(f"plan must be one of {', '.join(PLANS)}, found {plan!r}")
    if size < 64:
        raise ValueError(f"size must be at least 64 pixels, found {size}")
    if len(styles) != len(indices):
        raise ValueError(f"every room needs a style, found {len(indices)} rooms and {len(styles)} styles")
    for style in styles:
        parse(" ".join(style))
    scenes = _stack([_scene(generator(seed, int(index), Purpose.SHAPE), plan) for index in indices])
    fine = _cast(scenes, 2 * size)
    scale = FARTHEST / fine.z.max((1, 2), keepdims=True)
    colours = _shade(_behind_sill(fine, scale), styles)
    image = colours.reshape(len(colours), size, 2, size, 2, 3).mean((2, 4))
    for i, (style, index) in enumerate(zip(styles, indices, strict=True)):
        image[i] = photograph(image[i], style.camera, generator(seed, int(index), Purpose.LIGHT))
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
    """A room centred at 0, in metres before scaling; a stack of B rooms has shapes `[B,…]`."""

    half_extent: np.ndarray  # [3] of the room
    slope: np.ndarray  # [] of an attic's two roofs, which meet in the middle of the ceiling; 0: no roofs
    camera: np.ndarray  # [3] position of the camera
    rotation: np.ndarray  # [3,3] from camera to room
    kind: np.ndarray  # [objects] 0 none, 1 sphere, 2 box
    centre: np.ndarray  # [objects,3]
    extent: np.ndarray  # [objects,3] half extents; for a sphere, its radius on each axis
    yaw: np.ndarray  # [objects]
    window: np.ndarray  # [5] wall (0 left, 1 back, 2 right, -1 none), start and end along it, top and bottom


class _Hits(NamedTuple):
    """The surface that each pixel sees."""

    z: np.ndarray  # [B,S,S]
    rays: np.ndarray  # [S,S,3] with z = 1
    normals: np.ndarray  # [B,S,S,3] in camera space
    window: np.ndarray  # [B,S,S] True in a window


def _scene(random: np.random.Generator, plan: Plan) -> _Scene:
    """Draw the geometry of a room, a narrow and long corridor, or an attic."""
    floor, ceiling = random.uniform(1.0, 1.7, 2)
    width, back, behind = random.uniform(1.4, 3.6), random.uniform(3.0, 7.5), 1.0
    if plan == "corridor":
        width, back = width / 2.5, 2 * back
    across, slope = random.uniform(-0.45, 0.45) * width, 0.0
    if plan == "attic":
        slope, ceiling = random.uniform(0.7, 1.2), ceiling + 0.8
        across = np.clip(across, *np.array((-1, 1)) * (ceiling - 0.8) / slope)  # 0.8 m above the camera
    half_extent = np.array((width, (floor + ceiling) / 2, (back + behind) / 2))
    camera = np.array((across, half_extent[1] - floor, behind - half_extent[2]))
    rotation = _rotate_y(random.uniform(-0.7, 0.7)) @ _rotate_x(random.uniform(-0.3, 0.15))
    count = random.integers(2, MAX_OBJECTS + 1)
    kind = np.where(np.arange(MAX_OBJECTS) < count, random.integers(1, 3, MAX_OBJECTS), 0)
    radius = random.uniform(0.3, 0.8, MAX_OBJECTS)
    extent = radius[:, None] * np.where(kind == 2, random.uniform(0.7, 1.3, (3, MAX_OBJECTS)), 1).T
    depth = random.uniform(1.6, back - 0.4, MAX_OBJECTS)
    reach = np.minimum(width - 0.3, 1.2 * depth)
    aside = np.clip(random.uniform(-1, 1, MAX_OBJECTS) * reach, 0.2 - width, width - 0.2)
    standing = half_extent[1] - extent[:, 1]
    height = np.where(random.random(MAX_OBJECTS) < 0.75, standing, random.uniform(-0.5, 0.3, MAX_OBJECTS))
    centre = np.stack([aside, height, camera[2] + depth], 1)
    yaw = random.uniform(0, np.pi / 2, MAX_OBJECTS)
    wall = random.integers(0, 3) if random.random() < 0.4 else -1
    length = half_extent[0] if wall == 1 else half_extent[2]
    start = random.uniform(-0.7, 0.3) * length if wall == 1 else random.uniform(0, 0.4) * length
    low, high = random.uniform(-0.85, -0.6) * half_extent[1], random.uniform(0.0, 0.3) * half_extent[1]
    window = np.array((wall, start, start + random.uniform(0.5, 0.8) * length, low, high))
    return _Scene(half_extent, np.array(slope), camera, rotation, kind, centre, extent, yaw, window)


def _stack(scenes: Sequence[_Scene]) -> _Scene:
    return _Scene(*(np.stack(parts).astype(np.float32) for parts in zip(*scenes, strict=True)))


def _cast(scenes: _Scene, size: int) -> _Hits:
    """Return the nearest surface along the ray of every pixel."""
    seen = rays(size)
    directions = np.einsum("bij,hwj->bhwi", scenes.rotation, seen)
    directions = np.where(np.abs(directions) < 1e-6, np.float32(1e-6), directions)
    expand = (slice(None), None, None)
    exits = (np.sign(directions) * scenes.half_extent[expand] - scenes.camera[expand]) / directions
    side = exits.argmin(-1)[..., None]
    z = np.take_along_axis(exits, side, -1)[..., 0]
    normals = np.where(np.arange(3) == side, -np.sign(directions), 0).astype(np.float32)
    for to_the_right in (-1, 1) if scenes.slope.any() else ():
        _add_roof(scenes, to_the_right, directions, z, side, normals)
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
    return _Hits(z, seen, normals, window)


def _add_roof(
    scenes: _Scene,
    to_the_right: int,
    directions: np.ndarray,
    z: np.ndarray,
    side: np.ndarray,
    normals: np.ndarray,
) -> None:
    """Replace `z`, `side` and `normals` in place where a ray meets the roof that falls to one side first.

    The roof is the plane y = slope · (± x) − (half the room's height); the side of its hits is 1, the
    ceiling's.
    """
    slope = scenes.slope[:, None, None]
    falling = slope * np.float32(to_the_right)
    x, y = (scenes.camera[:, None, None, axis] for axis in (0, 1))
    leaving = directions[..., 1] - falling * directions[..., 0]
    height = y + scenes.half_extent[:, None, None, 1] - falling * x
    with np.errstate(divide="ignore"):
        roof = np.where((leaving < 0) & (slope > 0), -height / leaving, np.inf)
    first = roof < z
    z[first] = roof[first]
    side[first] = 1
    normal = np.stack(np.broadcast_arrays(-falling, 1, 0), -1) / np.sqrt(1 + slope**2)[..., None]
    normals[first] = np.broadcast_to(normal, normals.shape)[first]


def _behind_sill(hits: _Hits, scale: np.ndarray) -> _Hits:
    """Return the hits of the scaled scene, with the sill in the lowest rows."""
    sill = hits.rays[..., 1] * FOCAL > 1 - 2 * SILL
    front = np.array((0, 0, -1), np.float32)
    return _Hits(
        np.where(sill, np.float32(NEAREST), hits.z * scale),
        hits.rays,
        np.where(sill[..., None], front, hits.normals),
        hits.window & ~sill,
    )


def _in_window(scenes: _Scene, hits: np.ndarray, side: np.ndarray) -> np.ndarray:
    """Return True where a hit on the room's side, axis 0 to 2, lies in the window; bool `[B,S,S]`."""
    wall, start, stop, low, high = (column[:, None, None] for column in scenes.window.T)
    x, y, depth = np.moveaxis(hits, -1, 0)
    on_wall = np.where(wall == 1, (side == 2) & (depth > 0), (side == 0) & (np.sign(x) == wall - 1))
    along = np.where(wall == 1, x, depth)
    return (wall >= 0) & on_wall & (along > start) & (along < stop) & (y > low) & (y < high)


def _sphere(scenes: _Scene, i: int, directions: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Return where rays meet object i, a sphere: z, infinite for a miss, and normals in the room's space."""
    offset = (scenes.camera - scenes.centre[:, i])[:, None, None]
    radius = scenes.extent[:, i, :1, None]
    a = np.square(directions).sum(-1)
    b = (directions * offset).sum(-1)
    discriminant = b * b - a * (np.square(offset).sum(-1) - radius * radius)
    z = np.where(discriminant > 0, (-b - np.sqrt(np.maximum(discriminant, 0))) / a, np.inf)
    at = np.where(np.isfinite(z), z, 0)[..., None]
    return z, (offset + at * directions) / radius[..., None]


def _box(scenes: _Scene, i: int, directions: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Return where rays meet object i, a box: z, infinite for a miss, and normals in the room's space."""
    turn = np.stack([_rotate_y(angle) for angle in scenes.yaw[:, i]]).astype(np.float32)  # from box to room
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


def pattern(points: Any, numpy: Any = np) -> Any:
    """Return the pattern at points `[…,3]` of camera space in metres: soft-edged cubes of -1 and 1, `[…,1]`.

    `numpy` is the module that computes it, `numpy` or `jax.numpy`.
    """
    return numpy.tanh(3 * numpy.sin(_WAVE * points).prod(-1, keepdims=True))


def rays(size: int) -> np.ndarray:
    """Return the ray of each pixel of an image with `size` pixels a side, float32 `[S,S,3]` with z = 1."""
    centres = ((np.arange(size) + 0.5) / size * 2 - 1).astype(np.float32) / np.float32(FOCAL)
    return np.stack([*np.meshgrid(centres, centres), np.ones((size, size), np.float32)], -1)


def _shade(hits: _Hits, styles: Sequence[Style]) -> np.ndarray:
    """Return colours in [0,1], `[B,S,S,3]`, from positions, normals and words alone."""

    def per_room(values):
        return np.asarray(values, np.float32).reshape(len(styles), 1, 1, -1)

    z = hits.z[..., None]
    points = z * hits.rays
    normals = hits.normals
    base = per_room([COLOURS[style.colour] for style in styles])
    floor = np.clip(-1.4 * normals[..., 1:2] - 0.4, 0, 1)
    ceiling = np.clip(1.4 * normals[..., 1:2] - 0.4, 0, 1)
    albedo = base * (1 - 0.35 * floor) * (1 - 0.5 * ceiling) + 0.45 * ceiling
    albedo = albedo * (0.80 + 0.28 * pattern(points))
    facing = 0.5 + 0.5 * (normals @ _LAMP)[..., None]
    colour = np.where(hits.window[..., None], _SKY, albedo * (0.30 + 0.80 * facing))
    clear = np.exp(-per_room([EXTINCTION[style.air] for style in styles]) * z)
    factor, added = np.moveaxis(per_room([LIGHT[style.light] for style in styles]), -1, 0)[..., None]
    return np.clip(factor * (clear * colour + (1 - clear) * _FOG) + added, 0, 1)


def _rotate_x(angle: float) -> np.ndarray:
    c, s = np.cos(angle), np.sin(angle)
    return np.array(((1, 0, 0), (0, c, -s), (0, s, c)))


def _rotate_y(angle: float) -> np.ndarray:
    c, s = np.cos(angle), np.sin(angle)
    return np.array(((c, 0, s), (0, 1, 0), (-s, 0, c)))
