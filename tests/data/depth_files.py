"""Small random images with depth, and the files of depth data sets made of them."""

from pathlib import Path
from typing import NamedTuple

import numpy as np
from PIL import Image

SIDE = 24


class Drawn(NamedTuple):
    """An image uint8 `[S,S,3]`, depth uint16 `[S,S]` (65535 in its left columns), a mask bool `[S,S]`."""

    image: np.ndarray
    depth: np.ndarray
    mask: np.ndarray


def draw(seed: int, size: tuple[int, int] = (SIDE, SIDE)) -> Drawn:
    """Return noise; the mask is False in the lowest rows."""
    random, shape = np.random.default_rng(seed), size[::-1]
    depth = random.integers(1, 10_000, shape).astype(np.uint16)
    depth[:, :2] = 65535
    mask = np.arange(shape[0])[:, None] < shape[0] - 3
    return Drawn(random.integers(0, 256, (*shape, 3), np.uint8), depth, np.broadcast_to(mask, shape))


def save(path: Path, pixels: np.ndarray) -> None:
    """Write a PNG file and its folder; masks become 0 and 255."""
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(np.uint8(255) * pixels if pixels.dtype == bool else pixels).save(path)


def truncate(path: Path) -> None:
    """Cut off the last third of a file."""
    path.write_bytes(path.read_bytes()[: path.stat().st_size * 2 // 3])


def taskonomy(root: Path, building: str, point: int, view: int = 0) -> tuple[Path, Path, Path]:
    """Return the paths of image, depth and mask in Taskonomy's layout."""
    name = f"point_{point}_view_{view}_domain_"
    return (
        root / f"{building}_rgb/rgb/{name}rgb.png",
        root / f"{building}_depth_zbuffer/depth_zbuffer/{name}depth_zbuffer.png",
        root / f"masks/{building}_mask_valid/{name}depth_zbuffer.png",
    )


def omnidata(root: Path, component: str, building: str, point: int, view: int = 0) -> tuple[Path, Path, Path]:
    """Return the paths of image, depth and mask in the layout of Omnidata's starter set."""
    return tuple(
        root / name / component / building / f"point_{point}_view_{view}_domain_{name}.png"
        for name in ("rgb", "depth_zbuffer", "mask_valid")
    )


def write(paths: tuple[Path, Path, Path], drawn: Drawn) -> None:
    """Write the files of an example."""
    for path, pixels in zip(paths, drawn, strict=True):
        save(path, pixels)


def write_taskonomy(root: Path, splits: dict[str, str], points: int) -> None:
    """Write buildings of `points` images each; `splits` has their CSV columns; image i is `draw(i)`."""
    columns = ("train", "val", "test")
    rows = [",".join([b, *(str(int(column == split)) for column in columns)]) for b, split in splits.items()]
    root.mkdir(exist_ok=True)
    (root / "splits.csv").write_text("\r".join(["id,train,val,test", *rows]), newline="")
    for i in range(points * len(splits)):
        write(taskonomy(root, list(splits)[i // points], i % points), draw(i))
