"""Image folders, as `datasets.load_dataset("imagefolder")` reads them: PNG files and `metadata.jsonl`."""

import json
from collections.abc import Iterable, Mapping
from pathlib import Path

from gap_jax.data.writing.fields import Field, Record, content, in_json

METADATA = "metadata.jsonl"


def file_keys(name: str) -> tuple[str, str]:
    """Return the keys of `metadata.jsonl` that name a field's PNG file and its NumPy file."""
    return f"{name}_file_name", f"{name}_npy"


def write_image_folder(
    records: Iterable[Record],
    fields: Mapping[str, Field],
    folder: Path,
    class_names: tuple[str, ...] | None = None,
    below: str = "",
) -> int:
    """Write the images of one split, with `metadata.jsonl`, and return their number.

    - `folder`: the split's own folder, which holds nothing yet.
    - `class_names`: an image goes to the folder of its `label`'s class; None: one folder for all.
    - `below`: the name of a folder in `folder` that holds the images and nothing else; empty: `folder`.

    Depth, masks and class maps go to PNG files that `metadata.jsonl` names as `{name}_file_name`, other maps
    to NumPy files that it names as `{name}_npy`; numbers, strings and lists go to `metadata.jsonl` itself.
    """
    folder.mkdir(parents=True)
    count = 0
    with (folder / METADATA).open("w", encoding="utf-8") as lines:
        for record in records:
            number = f"{count:06d}"
            parents = [below] if below else []
            if class_names is not None:
                parents.append(class_names[record["label"]])
            line = {"file_name": "/".join([*parents, f"{number}.png"])}
            for name, field in fields.items():
                if field.form == "json":
                    line[name] = in_json(record[name])
                    continue
                png_key, npy_key = file_keys(name)
                key = npy_key if field.form == "npy" else "file_name" if name == "image" else png_key
                line.setdefault(key, f"{name}/{number}.{field.suffix}")
                path = folder / line[key]
                path.parent.mkdir(parents=True, exist_ok=True)
                path.write_bytes(content(field, record[name]))
            lines.write(json.dumps(line) + "\n")
            count += 1
    return count
