"""Animals drawn from polygons: landbirds, waterbirds and six mammals of the savanna.

An animal is a list of polygons in its own coordinates: it stands on y = 0, is about 100 high with y up, and
faces right. The polygons are painted one over the other at four times the image's resolution and averaged,
which gives smooth edges and an exact mask.
"""

from collections.abc import Sequence
from typing import Any, NamedTuple

import cv2
import numpy as np

FINE = 4  # samples across a pixel
FEET = (0.78, 0.885)  # least and greatest height of the feet, from the image's top, as a share of its height
MARGIN = 0.03  # distance to the image's edges, as a share of its width
_FRACTION_BITS = 3  # cv2's coordinates are fixed-point numbers, here in eighths of a sample

Colour = tuple[float, float, float]  # RGB; of animals in hundredths, of backgrounds in [0,1]
_BLACK, _WHITE = (8, 8, 9), (93, 92, 88)
_HORN, _TUSK = (20, 17, 15), (95, 92, 80)
_ORANGE, _YELLOW = (90, 48, 12), (93, 76, 20)


class Polygon(NamedTuple):
    """A polygon `[n,2]` and its colour; a `mark` is painted only where the animal already is."""

    outline: np.ndarray
    colour: Colour
    mark: bool = False


class DrawnAnimal(NamedTuple):
    """A drawn animal.

    - `colour`: float32 `[S,S,3]` in [0,1], multiplied by `cover`.
    - `cover`: float32 `[S,S,1]`, the share of a pixel that the animal covers.
    """

    colour: np.ndarray
    cover: np.ndarray


def draw(animal: str, random: np.random.Generator, size: int) -> DrawnAnimal:
    """Draw an animal of `ANIMALS`; `random` decides its size, place, facing, kind, stride and tone."""
    shape, smallest, largest = ANIMALS[animal]
    length, down, across = random.uniform(smallest, largest), *random.random(2)
    tone = random.uniform(0.92, 1.08) * random.uniform(0.96, 1.04, 3)
    mirror = random.choice((-1, 1))
    parts = shape(random)
    corners = np.concatenate([part.outline for part in parts if not part.mark]) * (mirror, -1)
    scale = length / np.ptp(corners, axis=0).max()
    (left, top), right = corners.min(0) * scale, corners[:, 0].max() * scale
    highest = max(FEET[0], MARGIN - top)
    feet = highest + down * (FEET[1] - highest)
    start = MARGIN - left + across * (1 - 2 * MARGIN - (right - left))
    stretch = np.array((mirror, -1)) * scale
    return _paint(
        [part._replace(outline=part.outline * stretch + (start, feet)) for part in parts], tone, size
    )


def _paint(parts: Sequence[Polygon], tone: np.ndarray, size: int) -> DrawnAnimal:
    """Paint polygons, in coordinates in [0,1] with y down, in their order, and light them from above."""
    fine = FINE * size
    colour = np.zeros((fine, fine, 3), np.float32)
    cover = np.zeros((fine, fine), np.float32)
    for part in parts:
        corners = np.round((part.outline * fine - 0.5) * 2**_FRACTION_BITS).astype(np.int32)
        paint = (np.array(part.colour) / 100 * tone).tolist()
        if part.mark:
            mark = cv2.fillPoly(np.zeros((fine, fine), np.uint8), [corners], 1, shift=_FRACTION_BITS)
            colour[(mark > 0) & (cover > 0)] = paint
        else:
            cv2.fillPoly(colour, [corners], paint, shift=_FRACTION_BITS)
            cv2.fillPoly(cover, [corners], 1, shift=_FRACTION_BITS)
    mean_colour, share = (
        cv2.resize(samples, (size, size), interpolation=cv2.INTER_AREA) for samples in (colour, cover)
    )
    rows = np.flatnonzero(share.any(1))
    light = np.interp(np.arange(size), (rows[0], rows[-1]), (1.06, 0.84)).astype(np.float32)
    return DrawnAnimal(np.clip(light[:, None, None] * mean_colour, 0, 1), share[..., None])


def _curve(*points: tuple[float, float]) -> np.ndarray:
    """Return a smooth closed curve through the points (a Catmull–Rom spline), `[8·points,2]`."""
    p1 = np.array(points)[:, None]
    p0, p2, p3 = (np.roll(p1, shift, 0) for shift in (1, -1, -2))
    t = np.linspace(0, 1, 8, endpoint=False)[:, None]
    bend = (p2 - p0) * t + (2 * p0 - 5 * p1 + 4 * p2 - p3) * t**2 + (3 * p1 - p0 - 3 * p2 + p3) * t**3
    return (p1 + bend / 2).reshape(-1, 2)


def _limb(points: Sequence[tuple[float, float]], widths: Sequence[float]) -> np.ndarray:
    """Return a bent strip along the points, with a width for each point, `[2·points,2]`."""
    line = np.array(points, float)
    along = np.gradient(line, axis=0)
    across = np.stack([-along[:, 1], along[:, 0]], 1) / np.linalg.norm(along, axis=1, keepdims=True)
    half = across * np.array(widths)[:, None] / 2
    return np.concatenate([line + half, (line - half)[::-1]])


def _oval(x: float, y: float, wide: float, high: float, tilt: float = 0.0) -> np.ndarray:
    """Return an ellipse with half axes `wide` and `high`, turned by `tilt` degrees, `[24,2]`."""
    angles = np.linspace(0, 2 * np.pi, 24, endpoint=False)
    u, v = wide * np.cos(angles), high * np.sin(angles)
    c, s = np.cos(np.radians(tilt)), np.sin(np.radians(tilt))
    return np.stack([x + c * u - s * v, y + s * u + c * v], 1)


def _darker(colour: Colour, by: float = 0.72) -> Colour:
    red, green, blue = colour
    return by * red, by * green, by * blue


def _pick(random: np.random.Generator, choices: Sequence[Any]) -> Any:
    return choices[int(random.integers(len(choices)))]


def _landbird(random: np.random.Generator) -> list[Polygon]:
    """Draw a songbird, round, with a short beak, thin legs and a long tail: a sparrow, a robin or a jay."""
    kinds = (
        ((50, 36, 24), (80, 72, 58), (36, 24, 16), (45, 28, 18)),
        ((45, 38, 30), (82, 36, 14), (38, 31, 25), (45, 38, 30)),
        ((42, 52, 66), (86, 86, 86), (28, 38, 58), (30, 40, 62)),
    )
    kind = random.integers(len(kinds))
    (back, breast, wing, cap), jay = kinds[kind], kind == 2
    step, horn = random.uniform(2, 8), (36, 26, 20)
    body = _curve((-42, 42), (-20, 26), (12, 22), (38, 42), (36, 66), (10, 72), (-20, 60))
    return [
        *(Polygon(_limb(((x, 30), (x + 3, 14), (x - 1, 2)), (7, 5, 5)), horn) for x in (-step, 10 + step)),
        *(Polygon(_limb(((x - 6, 2), (x + 10, 2)), (5, 5)), horn) for x in (-step, 10 + step)),
        Polygon(_limb(((-25, 48), (-60, 26), (-86, 10)), (20, 16, 17)), _darker(wing)),
        Polygon(body, back),
        Polygon(_oval(28, 80, 22, 20), back),
        Polygon(_oval(26, 45, 26, 24, 30), breast, mark=True),
        *([Polygon(_curve((16, 90), (2, 110), (34, 98)), cap)] if jay else []),
        Polygon(_oval(26, 93, 18, 8), cap, mark=True),
        Polygon(np.array(((46, 86), (68, 76), (45, 70))), horn),
        Polygon(_curve((14, 58), (-10, 62), (-50, 36), (-15, 36), (8, 42)), wing),
        Polygon(_limb(((2, 50), (-36, 38)), (5, 3)), _WHITE if jay else breast),
        Polygon(_oval(36, 83, 4.5, 4.5), _BLACK),
    ]


def _waterbird(random: np.random.Generator) -> list[Polygon]:
    """Draw a gull, a duck or a heron."""
    return _pick(random, (_gull, _duck, _heron))(random)


def _webbed(xs: Sequence[float], hip: float, colour: Colour) -> list[Polygon]:
    """Draw short legs with flat feet, at the places `xs`."""
    legs = [Polygon(_limb(((x, hip), (x, 2)), (7, 6)), colour) for x in xs]
    return legs + [Polygon(np.array(((x - 5, 0), (x + 18, 0), (x, 12))), colour) for x in xs]


def _gull(random: np.random.Generator) -> list[Polygon]:
    """Draw a gull: white, long and level, with black wing tips beyond the tail and a strong yellow beak."""
    step, grey = random.uniform(0, 6), (56, 60, 66)
    body = _curve((-75, 58), (-30, 34), (20, 30), (50, 50), (48, 72), (10, 72))
    return [
        *_webbed((-5 - step, 15 + step), 34, (86, 56, 50)),
        Polygon(body, _WHITE),
        Polygon(_curve((30, 60), (34, 90), (52, 102), (70, 90), (58, 60)), _WHITE),
        Polygon(_curve((66, 92), (86, 88), (94, 78), (80, 80), (66, 80)), _YELLOW),
        Polygon(_curve((30, 66), (-10, 74), (-80, 56), (-30, 46), (16, 46)), grey),
        Polygon(np.array(((-58, 64), (-110, 56), (-55, 49))), _BLACK),
        Polygon(_oval(59, 90, 4, 4), _BLACK),
    ]


def _duck(random: np.random.Generator) -> list[Polygon]:
    """Draw a drake or a brown duck: a low body, a curled tail, an upright head with a flat bill."""
    drake = random.random() < 0.5
    head, body, breast = (
        ((10, 36, 22), (66, 64, 60), (38, 22, 16)) if drake else ((50, 38, 26), (56, 43, 30), (50, 36, 24))
    )
    step = random.uniform(0, 6)
    hull = _curve((-95, 68), (-70, 30), (0, 16), (50, 26), (62, 50), (30, 62), (-40, 60))
    return [
        *_webbed((-15 - step, 10 + step), 24, _ORANGE),
        Polygon(hull, body),
        Polygon(_oval(46, 40, 24, 20), breast, mark=True),
        Polygon(_curve((34, 50), (40, 80), (46, 98), (66, 100), (76, 84), (62, 50)), head),
        Polygon(_curve((72, 90), (90, 82), (110, 82), (110, 74), (72, 74)), _YELLOW),
        *([Polygon(_limb(((34, 60), (68, 60)), (8, 8)), _WHITE)] if drake else []),
        Polygon(_curve((25, 50), (-30, 58), (-80, 52), (-40, 32), (10, 32)), _darker(body, 0.78)),
        Polygon(_limb(((-42, 38), (-16, 34)), (8, 8)), (20, 30, 66)),
        Polygon(_oval(62, 88, 4, 4), _BLACK),
    ]


def _heron(random: np.random.Generator) -> list[Polygon]:
    """Draw a heron: tall and grey, on stilts, with an S-shaped neck and a dagger-like beak."""
    step, grey, legs = random.uniform(2, 9), (58, 62, 68), (62, 54, 32)
    neck = ((12, 50), (30, 60), (18, 76), (26, 92), (36, 95))
    return [
        *(Polygon(_limb(((x, 42), (x + 3, 20), (x, 0)), (5, 4.5, 4.5)), legs) for x in (-2 - step, 4 + step)),
        Polygon(_curve((-52, 32), (-16, 34), (16, 42), (24, 56), (4, 64), (-20, 50)), grey),
        Polygon(_limb(neck, (16, 11, 8, 8, 10)), (86, 86, 84)),
        Polygon(_oval(34, 95, 10, 5.5), (90, 90, 88)),
        Polygon(np.array(((40, 99), (74, 92), (40, 91))), _YELLOW),
        Polygon(_limb(((36, 98), (20, 98), (4, 92)), (5, 5, 2)), _BLACK),
        Polygon(_curve((10, 58), (-16, 52), (-60, 28), (-20, 38), (6, 46)), _darker(grey, 0.7)),
        Polygon(_oval(38, 95.5, 2, 2), _BLACK),
    ]


def _legs(
    random: np.random.Generator,
    hips: tuple[float, float],
    hip: float,
    widths: Sequence[float],
    colour: Colour,
) -> tuple[list[Polygon], list[Polygon]]:
    """Draw the hind and the fore leg of the far side, darker, and those of the near side, in a stride."""
    stride = random.uniform(-6, 6)
    sides = []
    for shift, tone in ((0.10 * (hips[1] - hips[0]), 0.72), (0, 1)):
        stride = -stride
        pair = []
        for x, bend in zip(hips, (-3, 2), strict=True):
            line = ((x + shift / 2, hip), (x + shift + bend + stride / 2, hip / 2), (x + shift + stride, 0))
            pair.append(Polygon(_limb(line, widths), _darker(colour, tone)))
        sides.append(pair)
    return sides[0], sides[1]


def _cattle(random: np.random.Generator) -> list[Polygon]:
    """Draw cattle, pied or brown: a heavy level body on short legs, a low head with horns."""
    kinds = ((_WHITE, (10, 9, 9)), ((50, 26, 14), _WHITE), (_WHITE, (46, 24, 14)))
    coat, patch = _pick(random, kinds)
    far, near = _legs(random, (-60, 38), 46, (22, 13, 12), coat)
    patches = [
        Polygon(_oval(x + random.uniform(-8, 8), random.uniform(55, 85), 17, 15), patch, mark=True)
        for x in (-55, -12, 32)
    ]
    trunk = _curve((-76, 86), (-78, 46), (-40, 34), (25, 32), (56, 48), (60, 82), (0, 88))
    return [
        *far,
        Polygon(_limb(((-74, 84), (-86, 60), (-84, 28)), (7, 5, 9)), patch),
        Polygon(trunk, coat),
        Polygon(_oval(-28, 33, 13, 7), (88, 66, 60)),
        *near,
        Polygon(_curve((40, 86), (60, 98), (80, 92), (72, 66), (50, 46)), coat),
        *patches,
        Polygon(_curve((62, 98), (82, 98), (106, 68), (98, 56), (84, 60), (66, 76)), coat),
        Polygon(_oval(100, 63, 8, 7), (82, 62, 56)),
        Polygon(_limb(((66, 90), (50, 88)), (10, 4)), patch),
        Polygon(_limb(((76, 96), (84, 108), (98, 112)), (9, 7, 3)), _HORN),
        Polygon(_limb(((66, 97), (62, 108), (70, 116)), (9, 7, 3)), _HORN),
        Polygon(_oval(84, 82, 3.5, 3.5), _BLACK),
    ]


def _elephant(random: np.random.Generator) -> list[Polygon]:
    """Draw an elephant: huge and grey, with legs like pillars, a great ear, a tusk and a long trunk."""
    grey = _pick(random, ((47, 47, 49), (52, 48, 45)))
    swing = random.uniform(-8, 10)
    far, near = _legs(random, (-46, 26), 50, (30, 22, 24), grey)
    trunk = _curve((-70, 62), (-64, 40), (-20, 30), (30, 32), (52, 60), (34, 94), (-20, 97), (-58, 86))
    return [
        *far,
        Polygon(_limb(((-66, 76), (-77, 55), (-75, 36)), (6, 4, 6)), _darker(grey)),
        Polygon(trunk, grey),
        *near,
        Polygon(
            _limb(((74, 72), (86, 50), (86 + swing / 2, 26), (90 + swing, 4)), (24, 17, 13, 9)),
            _darker(grey, 0.92),
        ),
        Polygon(_curve((30, 86), (52, 102), (78, 98), (90, 76), (80, 56), (44, 50)), grey),
        Polygon(_limb(((72, 58), (90, 46), (106, 48)), (9, 8, 3)), _TUSK),
        Polygon(_curve((50, 92), (28, 96), (14, 76), (24, 46), (40, 42), (54, 64)), _darker(grey, 0.74)),
        Polygon(_oval(70, 80, 3.5, 3.5), _BLACK),
    ]


def _impala(random: np.random.Generator) -> list[Polygon]:
    """Draw an impala: slender and red-brown, with a white belly, long legs and tall lyre-shaped horns."""
    coat, raised = (72, 42, 20), random.uniform(-3, 3)
    far, near = _legs(random, (-34, 24), 44, (14, 7, 6), coat)
    trunk = _curve((-45, 66), (-44, 46), (-10, 38), (24, 38), (38, 54), (34, 68), (-10, 68))
    horn = ((50, 92), (36, 104), (44, 118), (36, 132))
    return [
        *far,
        Polygon(trunk, coat),
        Polygon(_limb(((-43, 66), (-50, 50)), (6, 5)), _WHITE),
        *near,
        Polygon(_limb(((24, 58), (40, 74 + raised), (50, 88 + raised)), (24, 14, 12)), coat),
        Polygon(_limb(((-34, 40), (0, 38), (28, 42)), (9, 11, 9)), _WHITE, mark=True),
        Polygon(_limb(((-40, 64), (-43, 44)), (5, 5)), _BLACK, mark=True),
        Polygon(_curve((42, 90), (54, 96), (70, 86), (76, 78), (66, 76), (50, 80)), coat),
        Polygon(_limb(((46, 92), (32, 96)), (9, 3)), _darker(coat)),
        Polygon(_limb(horn, (7, 6, 5, 3)), _HORN),
        Polygon(_limb([(x + 13, y) for x, y in horn], (7, 6, 5, 3)), _HORN),
        Polygon(_oval(57, 88, 3, 3), _BLACK),
    ]


def _zebra(random: np.random.Generator) -> list[Polygon]:
    """Draw a zebra: a horse in black and white stripes, with a brush-like mane."""
    far, near = _legs(random, (-52, 30), 46, (20, 11, 10), _WHITE)
    trunk = _curve((-68, 78), (-62, 50), (-20, 38), (25, 40), (46, 56), (42, 80), (-10, 78))
    start = random.uniform(0, 16)
    bars = [
        Polygon(_limb(((x + 5, 88), (x, 60), (x + 4, 34)), (8, 7.5, 3)), _BLACK, mark=True)
        for x in np.arange(-70 + start, 48, 16)
    ]
    rings = [
        Polygon(_limb(((x - 20, y), (x + 26, y)), (5, 5)), _BLACK, mark=True)
        for x in (-52, 30)
        for y in (10, 21, 32)
    ]
    collars = [
        Polygon(_limb(((x - 16, y + 16), (x + 20, y - 8)), (6, 6)), _BLACK, mark=True)
        for x, y in ((44, 78), (53, 90), (62, 101))
    ]
    return [
        *far,
        Polygon(_limb(((-66, 76), (-78, 56), (-78, 34)), (5, 5, 10)), _BLACK),
        Polygon(trunk, _WHITE),
        *near,
        Polygon(_limb(((20, 86), (40, 104), (60, 116)), (13, 13, 8)), _BLACK),
        Polygon(_limb(((28, 66), (46, 86), (62, 102)), (36, 24, 18)), _WHITE),
        *bars,
        *rings,
        *collars,
        Polygon(_curve((52, 108), (66, 112), (86, 92), (92, 80), (80, 76), (62, 88)), _WHITE),
        Polygon(_limb(((66, 108), (74, 88)), (5, 5)), _BLACK, mark=True),
        Polygon(_oval(87, 80, 7, 6), (16, 14, 14)),
        Polygon(_limb(((58, 108), (56, 122)), (8, 5)), _WHITE),
        Polygon(_oval(70, 100, 3, 3), _BLACK),
    ]


def _giraffe(random: np.random.Generator) -> list[Polygon]:
    """Draw a giraffe: long legs, a sloping back, a very long neck, brown patches on yellow."""
    coat, patch = (90, 74, 44), (52, 28, 12)
    far, near = _legs(random, (-24, 10), 38, (11, 6, 5.5), coat)
    neck = ((8, 50), (22, 72), (32, 94))
    centres = [(x, y) for y in (37, 45, 52) for x in np.arange(-28, 24, 10.5)]
    centres += [(x + side, y) for x, y in ((13, 60), (18, 68), (22, 76), (27, 83)) for side in (-3.5, 4)]
    centres += [(x, y) for x in (-24, 11) for y in (30, 22)]
    spots = np.array(centres) + random.uniform(-1.2, 1.2, (len(centres), 2))
    return [
        *far,
        Polygon(_limb(((-30, 48), (-37, 36), (-36, 24)), (3, 2.5, 5)), patch),
        Polygon(_curve((-33, 46), (-28, 34), (5, 32), (20, 42), (14, 60), (-12, 54)), coat),
        *near,
        Polygon(_limb([(x - 5.5, y + 3) for x, y in neck], (10, 5, 4)), _darker(patch)),
        Polygon(_limb(neck, (22, 11, 8.5)), coat),
        *(Polygon(_oval(x, y, 3.6, 3.1), patch, mark=True) for x, y in spots),
        Polygon(_limb(((31, 96), (29, 104)), (3, 3.5)), _darker(patch)),
        Polygon(_limb(((36, 96), (35, 104)), (3, 3.5)), _darker(patch)),
        Polygon(_curve((26, 97), (35, 100), (48, 92), (51, 86), (44, 86), (29, 90)), coat),
        Polygon(_limb(((28, 96), (18, 98)), (5, 2)), coat),
        Polygon(_oval(49, 87.5, 3, 2.5), _darker(patch)),
        Polygon(_oval(37, 95.5, 1.8, 1.8), _BLACK),
    ]


def _dikdik(random: np.random.Generator) -> list[Polygon]:
    """Draw a dik-dik: a round grey-brown back, thin legs, large ears and eyes, a long nose, short horns."""
    coat, flank = (52, 45, 38), (70, 54, 38)
    far, near = _legs(random, (-34, 20), 40, (15, 6.5, 6), flank)
    trunk = _curve((-50, 52), (-40, 34), (0, 30), (30, 36), (36, 58), (0, 70), (-34, 70))
    return [
        *far,
        Polygon(trunk, coat),
        *near,
        Polygon(_limb(((-30, 36), (0, 32), (28, 38)), (9, 10, 9)), (88, 82, 72), mark=True),
        Polygon(_limb(((16, 54), (34, 70), (40, 82)), (30, 20, 17)), coat),
        Polygon(_oval(27, 99, 6, 14, 30), _darker(flank, 0.85)),
        Polygon(_limb(((46, 90), (46, 112)), (6, 2.5)), _HORN),
        Polygon(_curve((30, 86), (42, 95), (60, 85), (82, 70), (78, 61), (54, 66)), flank),
        Polygon(_oval(80, 66, 4.5, 4.5), _BLACK),
        Polygon(_oval(38, 101, 6, 14, 8), flank),
        Polygon(_oval(53, 81, 7, 7), (86, 78, 66)),
        Polygon(_oval(54, 81, 4.5, 5), _BLACK),
    ]


ANIMALS = {  # function that draws it, least and greatest length of its longer side as a share of the image's
    "landbird": (_landbird, 0.46, 0.66),
    "waterbird": (_waterbird, 0.48, 0.68),
    "cattle": (_cattle, 0.64, 0.84),
    "elephant": (_elephant, 0.76, 0.92),
    "impala": (_impala, 0.46, 0.62),
    "zebra": (_zebra, 0.58, 0.78),
    "giraffe": (_giraffe, 0.68, 0.82),
    "dik-dik": (_dikdik, 0.34, 0.44),
}
