"""Images of one's own, with captions and depth: what `datasets.load_dataset("imagefolder")` reads too."""

import json
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from PIL import Image

from gap_jax.data.depth.read import DepthPaths, decode_distance, read_label
from gap_jax.data.encoding import DEPTH_SCALE
from gap_jax.data.files import open_image, square_image

FILE = "metadata.jsonl"
_FILES = ("file_name", "depth_file_name", "mask_file_name")


class ImageFolder:
    """A folder with `metadata.jsonl`, each line an image: `file_name`, `text`, perhaps `depth_file_name`.

    Examples are `image` uint8 `[size,size,3]` and `text`; with depth, which all images have or none, also
    `depth` uint16 `[size,size,1]`, depth in [0,1] times 65535, and `mask` uint8 `[size,size,1]`, 255 = valid.
    Depth files are 16-bit PNGs, 0 = no depth, or NPY files as `rgbd.decode_distance` takes them, of their
    image's size, as are masks, `mask_file_name`, 0 where depth is not valid. Images are cropped to their
    central square, then resized (Lanczos; depth by nearest neighbour).

    Raises FileNotFoundError for a folder or file that is missing, ValueError naming the line or file for
    what cannot be read.
    """

    def __init__(self, folder: str | Path, size: int):
        self.folder, self.size = Path(folder), size
        path = self.folder / FILE
        if not path.is_file():
            raise FileNotFoundError(
                f"{path} is missing: a line for each image, such as "
                '{"file_name": "a.png", "text": "a caption"}, with "depth_file_name" for a ControlNet'
            )
        self.lines = read_lines(path, ("file_name", "text"))
        with_depth = ["depth_file_name" in line for line in self.lines]
        if any(with_depth) != all(with_depth):
            raise ValueError(
                f"{path}: image {with_depth.index(not with_depth[0]) + 1} differs in having depth"
            )
        self.has_depth = with_depth[0]
        for line in self.lines:
            for name in _FILES:
                if name in line and not (self.folder / line[name]).is_file():
                    raise FileNotFoundError(f"{self.folder / line[name]}, named by {path}, is missing")

    def __len__(self) -> int:
        return len(self.lines)

    def __getitem__(self, index: int) -> dict:
        line = self.lines[index]
        image = open_image(self.folder / line["file_name"]).convert("RGB")
        pixels = square_image(image, self.size, kernel=Image.Resampling.LANCZOS)
        example = {"image": pixels, "text": line["text"]}
        if not self.has_depth:
            return example
        files = DepthPaths(
            line["file_name"], *(str(self.folder / line[n]) if n in line else None for n in _FILES)
        )
        depth, mask = read_label(files, decode_distance, self.size, image.size)
        depth = np.round(depth * DEPTH_SCALE).astype(np.uint16)
        return example | {"depth": depth, "mask": np.where(mask, 255, 0).astype(np.uint8)}


def read_lines(path: Path, required: Sequence[str]) -> list[dict]:
    """The lines of a `metadata.jsonl`; raises ValueError for one without `required`, and for no lines."""
    texts = enumerate(path.read_text(encoding="utf-8").splitlines(), 1)
    lines = [_line(path, number, text, required) for number, text in texts if text.strip()]
    if not lines:
        raise ValueError(f"{path} names no images")
    return lines


def _line(path: Path, number: int, text: str, required: Sequence[str]) -> dict:
    try:
        line = json.loads(text)
    except ValueError as error:
        raise ValueError(f"{path}:{number} is not JSON: {error}") from error
    for name in required:
        if not isinstance(line, dict) or not isinstance(line.get(name), str):
            raise ValueError(f"{path}:{number} lacks {name!r}")
    return line
