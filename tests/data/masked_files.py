"""Small random images with classes and masks, and the files of data sets made of them."""

from pathlib import Path
from typing import NamedTuple

import numpy as np

from tests.data.depth_files import save

WIDTH, HEIGHT = 36, 24


class Drawn(NamedTuple):
    """An image, uint8 `[24,36,3]`, and a mask, bool `[24,36]`."""

    image: np.ndarray
    mask: np.ndarray


class Bird(NamedTuple):
    """A row of Waterbirds' table."""

    species: str
    y: int
    place: int
    split: int = 0


class Shot(NamedTuple):
    """A row of iWildCam's tables."""

    y: int
    location: int
    hour: int = 12


def draw(seed: int) -> Drawn:
    """Return noise and a mask that keeps a box, a fifth of the image."""
    random = np.random.default_rng(seed)
    mask = np.zeros((HEIGHT, WIDTH), bool)
    top, left = random.integers(0, HEIGHT // 2), random.integers(0, WIDTH // 2)
    mask[top : top + 10, left : left + 17] = True
    return Drawn(random.integers(0, 256, (HEIGHT, WIDTH, 3), np.uint8), mask)


def waterbirds(root: Path, species: str, number: int) -> tuple[Path, Path]:
    """Return the paths of image and mask in Waterbirds' layout."""
    stem = root / species / f"{species[4:]}_{number:04d}_{100 + number}"
    return stem.with_suffix(".jpg"), stem.with_name(f"{stem.name}_mask.png")


def write_waterbirds(root: Path, birds: list[Bird]) -> None:
    """Write Waterbirds in WILDS' layout with masks; row i is image `draw(i)` with the number i."""
    lines = ["img_id,img_filename,y,split,place,place_filename"]
    for i, bird in enumerate(birds):
        paths = waterbirds(root, bird.species, i)
        for path, pixels in zip(paths, draw(i), strict=True):
            save(path, pixels)
        name = paths[0].relative_to(root).as_posix()
        lines.append(f"{i},{name},{bird.y},{bird.split},{bird.place},/b/bamboo_forest/{i:08d}.jpg")
    (root / "metadata.csv").write_text("\n".join(lines) + "\n")


def iwildcam(root: Path, number: str) -> tuple[Path, Path]:
    """Return the paths of image and mask in iWildCam's layout."""
    return root / f"train/{number}.jpg", root / f"instance_masks/{number}.png"


def write_iwildcam(root: Path, tables: dict[str, list[Shot]]) -> None:
    """Write iWildCam in WILDS' layout with ALIA's tables.

    Row i of a table is image `draw(i)` with the id `{table}-{i}`, but for a patch that tells the table.
    Images with animals have masks that are twice as large and hold the instance numbers 1 and 2.
    """
    for table, shots in tables.items():
        columns = "split,location_remapped,location,sequence_remapped,seq_id,y,category_id,datetime,filename"
        lines = [f",Unnamed: 0,{columns},image_id"]
        for i, (y, location, hour) in enumerate(shots):
            number, drawn = f"{table}-{i}", draw(i)
            time = f"2013-02-04 {hour:02d}:59:49.000"
            lines.append(f"{i},{i},train,{location},9,1,2ff,{y},7,{time},{number}.jpg,{number}")
            image, mask = iwildcam(root, number)
            drawn.image[:8, :8] = 20 * len(table)
            save(image, drawn.image)
            mask.parent.mkdir(exist_ok=True)
            if y:
                instances = drawn.mask.repeat(2, 0).repeat(2, 1).astype(np.uint8)
                instances[:, WIDTH:] *= 2
                save(mask, instances)
        (root / f"{table}_subset.csv").write_text("\n".join(lines) + "\n")


def squeezed(mask: np.ndarray, size: int) -> np.ndarray:
    """Resize a mask to `[size,size]` by nearest neighbour, pixel by pixel."""
    height, width = mask.shape
    return np.array(
        [
            [mask[int((i + 0.5) * height / size), int((j + 0.5) * width / size)] for j in range(size)]
            for i in range(size)
        ]
    )
