"""Folders of one's own images: with captions and depth (`ImageFolder`), or images alone (`read_images`).

`ImageFolder` reads the layout that `datasets.load_dataset("imagefolder")` reads.
"""

import json
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from PIL import Image

from gap_jax.data.depth.read import DepthPaths, decode_distance, read_label
from gap_jax.data.encoding import DEPTH_SCALE
from gap_jax.data.files import IMAGE_SUFFIXES, Fault, open_image, square_image
from gap_jax.data.inventory import check_fault_share, describe_faults

METADATA = "metadata.jsonl"
_FILE_KEYS = ("file_name", "depth_file_name", "mask_file_name")


class ImageFolder:
    """A folder with `metadata.jsonl`, in which each line describes an image; a `Source`.

    A line is a JSON object with `file_name`, `text` (the caption) and, for all images or none,
    `depth_file_name`; also `mask_file_name` if some depth is not valid.

    An example has `image` uint8 `[size,size,3]` and `text`. With depth it also has `depth` uint16
    `[size,size,1]`, depth in [0,1] times 65535, and `mask` uint8 `[size,size,1]`, 255 where depth is valid.
    Depth files are 16-bit PNG files in which 0 means no depth, or NPY files for `depth.read.decode_distance`;
    masks are 0 where depth is not valid; both have the size of their image. All are cropped to the central
    square and resized, images by Lanczos, depth and masks by nearest neighbour.

    Raises FileNotFoundError for a missing folder or file, ValueError naming the line or file that cannot be
    read.
    """

    def __init__(self, folder: str | Path, size: int):
        self.folder, self.size = Path(folder), size
        path = self.folder / METADATA
        if not path.is_file():
            raise FileNotFoundError(
                f'{path} is missing: it must have a line for each image, such as {{"file_name": "a.png", '
                '"text": "a caption"}, and a "depth_file_name" in each line to train a ControlNet'
            )
        self.lines = read_metadata(path, ("file_name", "text"))
        with_depth = ["depth_file_name" in line for line in self.lines]
        if any(with_depth) != all(with_depth):
            raise ValueError(
                f"{path}: all lines or none must have a depth_file_name, but image "
                f"{with_depth.index(not with_depth[0]) + 1} differs from those before it"
            )
        self.has_depth = with_depth[0]
        for line in self.lines:
            for key in _FILE_KEYS:
                if key in line and not (self.folder / line[key]).is_file():
                    raise FileNotFoundError(f"{self.folder / line[key]}, named in {path}, is missing")

    def __len__(self) -> int:
        return len(self.lines)

    def __getitem__(self, index: int) -> dict:
        line = self.lines[index]
        image = open_image(self.folder / line["file_name"]).convert("RGB")
        pixels = square_image(image, self.size, kernel=Image.Resampling.LANCZOS)
        example = {"image": pixels, "text": line["text"]}
        if not self.has_depth:
            return example
        image_path, depth_path, mask_path = (str(self.folder / line.get(key, "")) for key in _FILE_KEYS)
        paths = DepthPaths(
            line["file_name"], image_path, depth_path, mask_path if "mask_file_name" in line else None
        )
        depth, mask = read_label(paths, decode_distance, self.size, image.size)
        depth = np.round(depth * DEPTH_SCALE).astype(np.uint16)
        return example | {"depth": depth, "mask": np.where(mask, 255, 0).astype(np.uint8)}


def read_metadata(path: Path, required: Sequence[str]) -> list[dict]:
    """Read the lines of a `metadata.jsonl`, each a JSON object with the `required` strings.

    Raises ValueError naming the line that is not, or if there are no lines.
    """
    texts = enumerate(path.read_text(encoding="utf-8").splitlines(), 1)
    lines = [_parse_line(path, number, text, required) for number, text in texts if text.strip()]
    if not lines:
        raise ValueError(f"{path} has no lines: write one JSON line per image")
    return lines


def _parse_line(path: Path, number: int, text: str, required: Sequence[str]) -> dict:
    try:
        line = json.loads(text)
    except ValueError as error:
        raise ValueError(f"{path}:{number} is not JSON: {error}") from error
    for key in required:
        if not isinstance(line, dict) or not isinstance(line.get(key), str):
            raise ValueError(
                f"{path}:{number} must be a JSON object with a string {key!r}; found {text[:80]!r}"
            )
    return line


def read_images(folder: Path, size: int) -> np.ndarray:
    """Read all images of a folder, cropped and resized, as float32 `[n,size,size,3]` in [0,1].

    Images that cannot be read are left out, and the reasons are printed. Raises FileNotFoundError for a
    folder without images, ValueError if more than half of them cannot be read.
    """
    paths = sorted(path for path in folder.glob("*") if path.suffix.lower() in IMAGE_SUFFIXES)
    if not paths:
        raise FileNotFoundError(f"{folder} has no images ({', '.join(IMAGE_SUFFIXES)})")
    images, faults = [], []
    for path in paths:
        try:
            images.append(square_image(open_image(path).convert("RGB"), size))
        except Fault as fault:
            faults.append(fault)
    check_fault_share(faults, len(paths), 0.5)
    for line in describe_faults(faults):
        print(line)
    return np.stack(images).astype(np.float32) / 255
