"""The camera traps of the small world, and the kinds of pictures that its two experiments consist of."""

from collections.abc import Mapping, Sequence
from typing import NamedTuple

from gap_jax.small_worlds.seeds import SPLITS
from gap_jax.small_worlds.wildlife.words import BIRDS, LAND, MAMMALS, WATER


class Camera(NamedTuple):
    """A camera trap: its split, its place, and the lights of its pictures, repeated if frequent."""

    split: str
    place: str
    lights: tuple[str, ...]


_SUNNY = ("day", "day", "day", "dusk", "night")
_GLOOMY = ("day", "dusk", "night", "night")
CAMERAS = {  # by number
    **{11 + i: Camera("train", place, _SUNNY) for i, place in enumerate(("savanna", "dirt", "grass") * 3)},
    **{31 + i: Camera("validation", place, _SUNNY) for i, place in enumerate(("savanna", "dirt", "grass"))},
    34: Camera("validation", "forest", _GLOOMY),
    35: Camera("validation", "lake", _GLOOMY),
    287: Camera("test", "forest", _GLOOMY),
    288: Camera("test", "lake", _GLOOMY),
}


class Kind(NamedTuple):
    """A kind of pictures: the words allowed on each axis, and the number of the camera, if one takes them."""

    allowed: Mapping[str, Sequence[str]]
    camera: int | None = None


def check_camera(camera: int, place: str) -> None:
    """Raise ValueError unless `camera` is a number of `CAMERAS` and stands in the place."""
    if camera not in CAMERAS:
        raise ValueError(f"camera must be one of {', '.join(map(str, CAMERAS))}, found {camera}")
    if CAMERAS[camera].place != place:
        raise ValueError(f"camera {camera} stands in the place {CAMERAS[camera].place!r}, found {place!r}")


def _bird_kind(group: int) -> Kind:
    place, label = divmod(group, 2)
    return Kind({"animal": (BIRDS[label],), "place": (LAND, WATER)[place], "light": ("day",)})


WATERBIRDS = {  # each split's kinds, all equally frequent: the groups of WILDS, only biased ones in training
    "train": tuple(map(_bird_kind, (0, 3))),
    "validation": tuple(map(_bird_kind, range(4))),
    "test": tuple(map(_bird_kind, range(4))),
}
IWILDCAM = {  # each split's kinds, all equally frequent: one for each camera
    split: tuple(
        Kind({"animal": MAMMALS, "place": (camera.place,), "light": camera.lights}, number)
        for number, camera in CAMERAS.items()
        if camera.split == split
    )
    for split in SPLITS
}
