"""Folders of one's own images: with captions and depth (`ImageFolder`), or images alone (`read_images`).

`ImageFolder` reads the layout that `datasets.load_dataset("imagefolder")` reads.
"""

import json
import os
from collections import Counter
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import NamedTuple

import numpy as np
from PIL import Image
from tqdm import tqdm

from gap_jax.data.depth.read import DepthPaths, decode_distance, read_label
from gap_jax.data.encoding import DEPTH_SCALE
from gap_jax.data.files import IMAGE_SUFFIXES, Fault, open_colour, square_image
from gap_jax.data.inventory import abbreviate, check_fault_share, describe_faults
from gap_jax.data.reading.listing import list_files
from gap_jax.data.reading.text import locate, read_lines

METADATA = "metadata.jsonl"
_FILE_KEYS = ("file_name", "depth_file_name", "mask_file_name")


class ImageFolder:
    """A folder with `metadata.jsonl`, in which each line describes an image; a `Source`.

    A line is a JSON object with `file_name`, `text` (the caption) and, for all images or none,
    `depth_file_name`; also `mask_file_name` if some depth is not valid. An image may have several lines, with
    a caption each.

    An example has `image` uint8 `[size,size,3]` and `text`. With depth it also has `depth` uint16
    `[size,size,1]`, depth in [0,1] times 65535, and `mask` uint8 `[size,size,1]`, 255 where depth is valid.
    Depth files are 16-bit PNG files in which 0 means no depth, or NPY files for `depth.read.decode_distance`;
    masks are 0 where depth is not valid; both have the size of their image. All are cropped to the central
    square and resized, images by Lanczos, depth and masks by nearest neighbour.

    All files are read once at the start: lines whose files cannot be used are left out and printed. Raises
    FileNotFoundError for a missing `metadata.jsonl`, ValueError if more than the share `tolerance` of the
    lines cannot be used.
    """

    def __init__(self, folder: str | Path, size: int, tolerance: float = 0.01):
        self.folder, self.size = Path(folder), size
        path = self.folder / METADATA
        if not path.is_file():
            raise FileNotFoundError(
                f'{path} is missing: it must have a line for each image, such as {{"file_name": "a.png", '
                '"text": "a caption"}, and a "depth_file_name" in each line to train a ControlNet'
            )
        metadata = read_metadata(path, ("file_name", "text"))
        with_depth = ["depth_file_name" in line for line in metadata.lines]
        if len(set(with_depth)) > 1:
            raise ValueError(
                f"{path}: all lines or none must have a depth_file_name, but image "
                f"{with_depth.index(not with_depth[0]) + 1} differs from those before it"
            )
        self.has_depth = any(with_depth)
        usable, faults = self._try(metadata.lines)
        self.lines, faults = usable, metadata.faults + faults
        print(
            "\n".join([f"found {len(usable)} images in {folder}", *metadata.notes, *describe_faults(faults)])
        )
        check_fault_share(faults, len(usable) + len(faults), tolerance)

    def _try(self, lines: Sequence[dict]) -> tuple[list[dict], list[Fault]]:
        """Read all examples; return the lines of those that can be used, and the faults of the others."""

        def fault_of(line: dict) -> Fault | None:
            try:
                self._read(line)
            except Fault as fault:
                return fault
            return None

        with ThreadPoolExecutor(os.cpu_count()) as threads:
            found = list(tqdm(threads.map(fault_of, lines), total=len(lines), desc="read", unit="image"))
        usable = [line for line, fault in zip(lines, found, strict=True) if fault is None]
        return usable, [fault for fault in found if fault is not None]

    def __len__(self) -> int:
        return len(self.lines)

    def __getitem__(self, index: int) -> dict:
        return self._read(self.lines[index])

    def _read(self, line: dict) -> dict:
        image_path, depth_path, mask_path = (
            str(locate(self.folder, line[key])) if key in line else None for key in _FILE_KEYS
        )
        image = open_colour(str(image_path))
        pixels = square_image(image, self.size, kernel=Image.Resampling.LANCZOS)
        example = {"image": pixels, "text": line["text"]}
        if depth_path is None:
            return example
        paths = DepthPaths(line["file_name"], str(image_path), depth_path, mask_path)
        depth, mask = read_label(paths, decode_distance, self.size, image.size)
        depth = np.round(depth * DEPTH_SCALE).astype(np.uint16)
        return example | {"depth": depth, "mask": np.where(mask, 255, 0).astype(np.uint8)}


class Metadata(NamedTuple):
    """The lines of a `metadata.jsonl` that can be used, the faults of the others, and notes for the user."""

    lines: list[dict]
    faults: list[Fault]
    notes: list[str]


def read_metadata(path: Path, required: Sequence[str]) -> Metadata:
    """Read the lines of a `metadata.jsonl`, each a JSON object with the `required` strings.

    Other lines are faults, and so are lines that repeat another. Notes tell of images with several lines, and
    of images in the folder that no line names. Raises ValueError if there are no lines.
    """
    lines: dict[str, dict] = {}
    faults: list[Fault] = []
    for number, text in read_lines(path):
        try:
            line = _parse_line(f"{path}:{number}", text, required)
        except Fault as fault:
            faults.append(fault)
            continue
        if lines.setdefault(json.dumps(line, sort_keys=True), line) is not line:
            faults.append(Fault(f"{path}:{number}", "repeats another line"))
    if not lines and not faults:
        raise ValueError(f"{path} has no lines: write one JSON line per image")
    counts = Counter(line["file_name"] for line in lines.values())
    repeated = sorted(name for name, count in counts.items() if count > 1)
    used = {locate(path.parent, line[key]) for line in lines.values() for key in _FILE_KEYS if key in line}
    listing = list_files(path.parent, IMAGE_SUFFIXES)
    unnamed = [name for name, file in listing.files.items() if file not in used]
    kinds = ((repeated, f"several lines in {path}"), (unnamed, f"no line in {path} and are not used"))
    notes = [f"{len(names)} images have {what}: {abbreviate(names)}" for names, what in kinds if names]
    return Metadata(list(lines.values()), faults, notes + listing.hidden_notes())


def _parse_line(place: str, text: str, required: Sequence[str]) -> dict:
    try:
        line = json.loads(text)
    except ValueError as error:
        raise Fault(place, "is not JSON") from error
    line = {key: value for key, value in line.items() if value is not None} if isinstance(line, dict) else {}
    for key in (*required, *(key for key in _FILE_KEYS if key in line)):
        if not isinstance(line.get(key), str):
            raise Fault(place, f"must be a JSON object with a string {key!r}")
    return line


def read_images(folder: Path, size: int) -> np.ndarray:
    """Read all images of a folder, cropped and resized, as float32 `[n,size,size,3]` in [0,1].

    If the folder has a `metadata.jsonl`, its images are those that this names; otherwise all below the
    folder. Images that cannot be read are left out, and the reasons are printed. Raises FileNotFoundError for
    a folder without images, ValueError if more than half of them cannot be read.
    """
    if (folder / METADATA).is_file():
        metadata = read_metadata(folder / METADATA, ("file_name",))
        paths = sorted({locate(folder, line["file_name"]) for line in metadata.lines})
        faults, notes = metadata.faults, metadata.notes
    else:
        listing = list_files(folder, IMAGE_SUFFIXES)
        paths, faults, notes = list(listing.files.values()), [], listing.notes()
    if not paths and not faults:
        raise FileNotFoundError(
            f"{folder} has no images ({', '.join(IMAGE_SUFFIXES)}): "
            f"{'; '.join(notes) or ('it has no files' if folder.is_dir() else 'there is no such folder')}"
        )
    images = []
    for path in paths:
        try:
            images.append(square_image(open_colour(path), size))
        except Fault as fault:
            faults.append(fault)
    print("\n".join([*notes, *describe_faults(faults)]), end="\n" if notes or faults else "")
    check_fault_share(faults, len(images) + len(faults), 0.5)
    return np.stack(images).astype(np.float32) / 255
