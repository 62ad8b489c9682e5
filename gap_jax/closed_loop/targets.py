"""Target domains that a command line names, each by a folder of images, a file of features, or a text."""

import dataclasses
import os
from collections.abc import Mapping
from pathlib import Path

from gap_jax.closed_loop.world import TargetDomain, World
from gap_jax.data.image_folder import read_images
from gap_jax.stages.target_features import load_target_features


def with_targets(world: World, given: Mapping[str, str]) -> World:
    """Return the world with these target domains in place of its own; without any, the world itself.

    `given` is what `read_target` takes, by the targets' names. Images are read at the size of the original
    ones. Raises the errors of `read_target`.
    """
    if not given:
        return world
    size = len(world.data.original[0]["image"])
    targets = {name: read_target(value, size) for name, value in given.items()}
    return dataclasses.replace(world, targets=targets)


def check_targets(given: Mapping[str, str]) -> None:
    """Raise FileNotFoundError for a target that looks like a path where nothing is; read no file."""
    for value in given.values():
        target_path(value)


def target_path(value: str) -> Path | None:
    """Return the folder or the file of a target that a command line gives; None for a text.

    Raises FileNotFoundError for a path that does not exist.
    """
    path = Path(value).expanduser()
    if path.exists():
        return path
    if " " not in value.strip() and (os.sep in value or path.suffix):
        raise FileNotFoundError(
            f"the target {value} looks like a path, but there is no such file or folder: check it; a text of "
            "one word has neither a slash nor a dot"
        )
    return None


def read_target(value: str, size: int) -> TargetDomain:
    """Return the target domain that a command line gives as one value.

    - A folder: its images, cropped to squares and resized to `size` pixels.
    - A file of `load_target_features`: features of images in CLIP, or text states.
    - Anything else: a text.

    Raises FileNotFoundError for a path that does not exist and for a folder without images, and the errors of
    `load_target_features`.
    """
    path = target_path(value)
    if path is None:
        return TargetDomain(text=value)
    if path.is_dir():
        return TargetDomain(images=read_images(path, size))
    features = load_target_features(path)
    return TargetDomain(images=features) if features.mean.ndim == 1 else TargetDomain(text=features)
