"""Waterbirds in Parquet files, as copies on the hub hold it, written in the layout of the original."""

import csv
import io
import re
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

from tqdm import tqdm

from gap_jax.data.masked.waterbirds import SPLITS
from gap_jax.data.reading.listing import list_files
from gap_jax.files import write_whole
from gap_jax.ranges import FILE_NAME, is_file_name

_SPLIT_NAMES = {"train": "train", "validation": "validation", "val": "validation", "test": "test"}
_NAME = re.compile(r"(.+)_\d+_\d+")  # of CUB's images: the species, its number, the image's number


class _Row(NamedTuple):
    name: str
    image: bytes
    label: int
    place: int
    split: int


def unpack_waterbirds(parquet: Path, root: Path) -> int:
    """Write `metadata.csv` and the images of Parquet files to the new folder `root`; return their number.

    The files' names begin with their split (train, validation or val, test). Their columns are `image`, with
    `bytes` and `path`; `label`, 0 for landbirds and 1 for waterbirds; and `place`, 0 for land and 1 for
    water. The images of a species go to a folder of its name, which is the first part of `path`. Images are
    written as they are; masks are not part of such copies.

    Raises FileNotFoundError if there are no such files, FileExistsError if `root` is not empty, ValueError
    for a file of another form.
    """
    files = list_files(parquet, (".parquet",))
    if not files.files:
        raise FileNotFoundError(f"{parquet} must hold the Parquet files of a copy: {files.describe()}")
    if root.exists() and any(root.iterdir()):
        raise FileExistsError(f"{root} is not empty: name a new folder, so that nothing in it is replaced")
    table = io.StringIO()
    writer = csv.writer(table, lineterminator="\n")
    writer.writerow(("img_id", "img_filename", "y", "split", "place", "place_filename"))
    written: set[str] = set()
    for path in files.files.values():
        for row in tqdm(_rows(path), desc=path.stem, unit="image"):
            name = row.name if row.name not in written else f"copies/{len(written):05d}.jpg"
            written.add(name)
            write_whole(root / name, row.image)
            writer.writerow((len(written) - 1, name, row.label, row.split, row.place, ""))
    write_whole(root / "metadata.csv", table.getvalue().encode())
    return len(written)


def _rows(path: Path) -> Iterator[_Row]:
    from pyarrow import ArrowInvalid
    from pyarrow.parquet import ParquetFile

    split = next((known for name, known in _SPLIT_NAMES.items() if path.name.startswith(name)), None)
    if split is None:
        raise ValueError(f"{path}: the file's name must begin with train, validation, val or test")
    try:
        batches = ParquetFile(path).iter_batches(64, columns=["image", "label", "place"])
        rows = (row for batch in batches for row in batch.to_pylist())
        for number, row in enumerate(rows):
            image, label, place = row["image"], row["label"], row["place"]
            if label not in (0, 1) or place not in (0, 1):
                raise ValueError(
                    f"{path}: row {number} must have 0 or 1 as label and place, found {label}, {place}"
                )
            if image["bytes"] is None:
                raise ValueError(f"{path}: row {number} holds no image, only the path {image['path']!r}")
            name = Path(image["path"] or f"{split}_{number:05d}.jpg").name
            species = _NAME.fullmatch(Path(name).stem)
            folder = species[1] if species else split
            if not (is_file_name(folder) and is_file_name(name)):
                raise ValueError(
                    f"{path}: row {number} has the path {image['path']!r}, but the names of its file and of "
                    f"its species must each be {FILE_NAME.text}"
                )
            yield _Row(f"{folder}/{name}", image["bytes"], label, place, SPLITS.index(split))
    except (ArrowInvalid, KeyError, TypeError) as error:
        raise ValueError(
            f"{path} must be a Parquet file with the columns image (bytes, path), label and place: {error!r}"
        ) from error
