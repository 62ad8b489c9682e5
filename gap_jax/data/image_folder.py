"""Images of one's own, with captions and depth: what `datasets.load_dataset("imagefolder")` reads too."""

import json
from pathlib import Path

import numpy as np
from PIL import Image, UnidentifiedImageError

FILE = "metadata.jsonl"


class ImageFolder:
    """A folder with `metadata.jsonl`, each line an image: `file_name`, `text`, perhaps `depth_file_name`.

    Examples are `image` uint8 `[size,size,3]` and `text`; with depth, which all images have or none, also
    `depth` uint16 `[size,size,1]`, depth in [0,1] times 65535, and `mask` uint8 `[size,size,1]`, 255 = valid.
    Depth files are 16-bit PNGs, 0 = no depth, of their image's size. Images are cropped to their central
    square, then resized (Lanczos; depth by nearest neighbour).

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
        lines = path.read_text(encoding="utf-8").splitlines()
        self.lines = [_line(path, number, line) for number, line in enumerate(lines, 1) if line.strip()]
        if not self.lines:
            raise ValueError(f"{path} names no images")
        with_depth = ["depth_file_name" in line for line in self.lines]
        if any(with_depth) != all(with_depth):
            raise ValueError(
                f"{path}: image {with_depth.index(not with_depth[0]) + 1} differs in having depth"
            )
        self.has_depth = with_depth[0]
        for line in self.lines:
            for name in ("file_name", "depth_file_name"):
                if name in line and not (self.folder / line[name]).is_file():
                    raise FileNotFoundError(f"{self.folder / line[name]}, named by {path}, is missing")

    def __len__(self) -> int:
        return len(self.lines)

    def __getitem__(self, index: int) -> dict:
        line = self.lines[index]
        image = self._open(line["file_name"]).convert("RGB")
        example = {"image": np.asarray(self._square(image, Image.Resampling.LANCZOS)), "text": line["text"]}
        if not self.has_depth:
            return example
        depth = self._open(line["depth_file_name"])
        if depth.size != image.size or not depth.mode.startswith("I"):
            raise ValueError(
                f"{self.folder / line['depth_file_name']} must be a 16-bit PNG of {image.size[0]}x"
                f"{image.size[1]} pixels, found {depth.size[0]}x{depth.size[1]}, mode {depth.mode}"
            )
        pixels = np.asarray(self._square(depth, Image.Resampling.NEAREST), np.uint16)[..., None]
        return example | {"depth": pixels, "mask": np.where(pixels > 0, 255, 0).astype(np.uint8)}

    def _open(self, name: str) -> Image.Image:
        try:
            image = Image.open(self.folder / name)
            image.load()
            return image
        except (OSError, UnidentifiedImageError) as error:
            raise ValueError(f"{self.folder / name} cannot be read as an image: {error}") from error

    def _square(self, image: Image.Image, resampling: Image.Resampling) -> Image.Image:
        side = min(image.size)
        left, top = ((length - side) // 2 for length in image.size)
        return image.resize((self.size, self.size), resampling, (left, top, left + side, top + side))


def _line(path: Path, number: int, text: str) -> dict:
    try:
        line = json.loads(text)
    except ValueError as error:
        raise ValueError(f"{path}:{number} is not JSON: {error}") from error
    for name in ("file_name", "text"):
        if not isinstance(line, dict) or not isinstance(line.get(name), str):
            raise ValueError(f"{path}:{number} lacks {name!r}")
    return line
