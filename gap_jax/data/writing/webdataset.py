"""WebDataset: tar files, the shards, in which successive files with the same key are one example.

A file's key is its name up to the first dot, and the rest is its field, as in
https://github.com/webdataset/webdataset: `000000.png` is the image, `000000.cls` the number of its class,
`000000.json` its numbers, strings and lists, and `000000.{field}.png` or `.npy` any other field.
"""

import io
import itertools
import json
import tarfile
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path

from gap_jax.data.writing.fields import Field, Record, content, in_json

CLASS = "label"  # the field that is also written as `.cls`


def check_for_webdataset(fields: Mapping[str, Field]) -> None:
    """Raise ValueError for fields whose names differ in case only, which readers of WebDataset ignore."""
    lower = [name.lower() for name in fields]
    if doubled := sorted(name for name in fields if lower.count(name.lower()) > 1):
        raise ValueError(
            f"WebDataset ignores case and so does not tell {', '.join(doubled)} apart: leave out all but "
            "one, or choose another format"
        )


def write_shards(
    records: Iterable[Record], fields: Mapping[str, Field], folder: Path, split: str, images_per_shard: int
) -> None:
    """Write the examples of a split to `{split}-000000.tar`, …; equal records give equal bytes."""
    shards = itertools.groupby(enumerate(records), lambda numbered: numbered[0] // images_per_shard)
    for shard, numbered in shards:
        with tarfile.open(folder / f"{split}-{shard:06d}.tar", "w", format=tarfile.USTAR_FORMAT) as tar:
            for number, record in numbered:
                for suffix, data in _files(record, fields):
                    member = tarfile.TarInfo(f"{number:06d}.{suffix}")
                    member.size = len(data)
                    tar.addfile(member, io.BytesIO(data))


def extension(name: str, field: Field) -> str:
    """Return what follows the key in the name of a field's file."""
    return field.suffix if name == "image" else f"{name}.{field.suffix}"


def has_class(fields: Mapping[str, Field]) -> bool:
    """Return True if the examples have a class, which is written as `.cls` too."""
    return CLASS in fields and fields[CLASS].is_integer


def _files(record: Record, fields: Mapping[str, Field]) -> Iterator[tuple[str, bytes]]:
    for name, field in fields.items():
        if field.suffix:
            yield extension(name, field), content(field, record[name])
    if has_class(fields):
        yield "cls", str(int(record[CLASS])).encode()
    values = {name: in_json(record[name]) for name, field in fields.items() if not field.suffix}
    yield "json", json.dumps(values).encode()
