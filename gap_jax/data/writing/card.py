"""The dataset card: `README.md` with the YAML head that the Hugging Face hub and `datasets` read."""

import json
from collections import Counter
from collections.abc import Mapping, Sequence
from itertools import chain
from pathlib import Path
from typing import Any

import matplotlib
import numpy as np
from huggingface_hub import DatasetCardData
from PIL import Image, ImageOps

from gap_jax.data.check import contact_sheet
from gap_jax.data.writing.fields import Field, Record
from gap_jax.data.writing.stored import StoredSet
from gap_jax.data.writing.webdataset import extension, has_class

SHEET = "contact_sheet.png"
_SIDE, _EXAMPLES, _COLUMNS = 128, 12, 2  # pixels of a panel, examples that are drawn, examples in a row
_SIZES = ((1e3, "n<1K"), (1e4, "1K<n<10K"), (1e5, "10K<n<100K"), (1e6, "100K<n<1M"), (1e9, "1M<n<1B"))
_LONGEST = 100  # prompts that are listed
_LICENCE_NOTE = """\
Two licences apply to generated images: that of the generator's weights (for Stable Diffusion 1.x and 2.x, a
CreativeML OpenRAIL licence, whose restrictions of use must be passed on), and that of the data that the
labels were taken from. The program that wrote this card knows neither. Check both before you publish the
data, and name the result in the head of this file."""


def write_card(
    stored: StoredSet,
    folder: Path,
    title: str,
    form: str,
    license: str,
    reading: str,
    paths: Mapping[str, str],
    prompt_files: Sequence[str],
) -> None:
    """Write `README.md` and the contact sheet of a data set whose files `folder` has already.

    - `title`: the data set's name.
    - `form`: the name of the format.
    - `license`: an identifier of the hub's list.
    - `reading`: Python code that reads the data set.
    - `paths`: the pattern of each split's files, for the viewer; empty: it cannot read the format.
    - `prompt_files`: the files of learned prompts in `folder`.
    """
    rows = _sheet_rows(stored.sample(_EXAMPLES), stored.fields)
    Image.fromarray(contact_sheet(rows)).save(folder / SHEET)
    head = _head(stored, folder, title, form, license, paths)
    body = _body(stored, title, form, reading, prompt_files)
    (folder / "README.md").write_text(f"---\n{head}\n---\n{body}", encoding="utf-8")


def _head(
    stored: StoredSet, folder: Path, title: str, form: str, license: str, paths: Mapping[str, str]
) -> str:
    total = sum(stored.sizes.values())
    head: dict[str, Any] = {
        "pretty_name": title,
        "size_categories": [next((name for limit, name in _SIZES if total < limit), "n>1B")],
        "tags": ["synthetic", "gap_jax"],
    }
    if paths:
        files = [{"split": split, "path": path} for split, path in paths.items()]
        config: dict[str, Any] = {"config_name": "default", "data_files": files}
        if form == "image-folder":  # whose reader takes types from here, others from `dataset_info`
            config["features"] = _features(stored, form)
        head["configs"] = [config]
        head["dataset_info"] = {
            "features": _features(stored, form),
            "splits": [
                {"name": split, "num_bytes": _num_bytes(folder, paths[split]), "num_examples": count}
                for split, count in stored.sizes.items()
            ],
        }
    else:
        head["viewer"] = False
    return DatasetCardData(license=license, task_categories=_tasks(stored.fields) or None, **head).to_yaml()


def _num_bytes(folder: Path, pattern: str) -> int:
    """Return the size of all files of a pattern of the hub, in which `**` stands for files at any depth."""
    files = folder.glob(pattern.replace("**", "**/*"))
    return sum(path.stat().st_size for path in files if path.is_file())


def _features(stored: StoredSet, form: str) -> list[dict[str, Any]]:
    """Return the columns that `datasets` finds in the files of a format, in the order of its own reader."""
    fields = stored.fields
    values = [_feature(name, field, stored) for name, field in fields.items() if not field.suffix]
    if form == "coco":
        return [{"name": "image", "dtype": "image"}]
    if form == "webdataset":
        named = [
            _feature(extension(name, field), field, stored) for name, field in fields.items() if field.suffix
        ]
        if has_class(fields):
            named.append(_feature("cls", fields["label"], stored))
        keys = [{"name": name, "dtype": "string"} for name in ("__key__", "__url__")]
        return [*named, {"name": "json", "struct": values}, *keys]
    return [
        {"name": f"{name}_npy", "dtype": "string"} if field.form == "npy" else _feature(name, field, stored)
        for name, field in fields.items()
    ]


def _feature(name: str, field: Field, stored: StoredSet) -> dict[str, Any]:
    if field.suffix == "png":
        return {"name": name, "dtype": "image"}
    if name in ("label", "cls") and field.is_integer and stored.class_names:
        names = {str(number): text for number, text in enumerate(stored.class_names)}
        return {"name": name, "dtype": {"class_label": {"names": names}}}
    dtype: Any = _dtype(field)
    for _ in field.shape[:-1]:
        dtype = {"sequence": dtype}
    return {"name": name, "sequence": dtype} if field.shape else {"name": name, "dtype": dtype}


def _tasks(fields: Mapping[str, Field]) -> list[str]:
    kinds = {field.kind for field in fields.values()}
    found = {
        "depth-estimation": "depth" in kinds,
        "image-segmentation": "classes" in kinds,
        "image-classification": "label" in fields and fields["label"].is_integer,
    }
    return [task for task, is_there in found.items() if is_there]


def _body(stored: StoredSet, title: str, form: str, reading: str, prompt_files: Sequence[str]) -> str:
    sizes = ", ".join(f"{count:,} in `{split}`" for split, count in stored.sizes.items())
    rows = "\n".join(
        f"| `{name}` | {field.kind} | {_dtype(field)} | {_shape(field)} |"
        for name, field in stored.fields.items()
    )
    kind = "Generated images" if "prompt_id" in stored.fields else "Images"
    parts = [
        f"# {title}",
        f"![Examples, each followed by its labels]({SHEET})",
        f"{kind} with labels: {sizes}. The format is {form}; gap_jax wrote the files.",
        f"```python\n{reading}\n```",
        f"## Fields\n\n| field | kind | type | shape |\n|---|---|---|---|\n{rows}",
    ]
    if "depth" in stored.fields:
        parts.append("Depth is in [0, 1]; PNG files hold it times 65535.")
    if "text" in stored.fields:
        parts.append(_prompts(stored, prompt_files))
    parts += [
        f"## Recipe\n\n```json\n{json.dumps(stored.recipe, indent=1)}\n```",
        f"## Licence\n\n{_LICENCE_NOTE}",
    ]
    return "\n\n".join(parts) + "\n"


def _prompts(stored: StoredSet, prompt_files: Sequence[str]) -> str:
    counts = Counter(str(record["text"]) for split in stored.sizes for record in stored.records(split))
    lines = [f"| {_cell(text)} | {count:,} |" for text, count in counts.most_common(_LONGEST)]
    if len(counts) > _LONGEST:
        lines.append(f"| {len(counts) - _LONGEST:,} further prompts, in the field `text` | |")
    text = "## Prompts\n\n| prompt | images |\n|---|---|\n" + "\n".join(lines)
    if prompt_files:
        listed = "\n".join(f"- `{name}`" for name in prompt_files)
        text += (
            "\n\nThe files of the learned tokens, which diffusers reads by `load_textual_inversion`:\n\n"
            + listed
        )
    return text


def _cell(text: str) -> str:
    return f"`{text}`".replace("|", "\\|").replace("\n", " ")


def _dtype(field: Field) -> str:
    return "string" if field.dtype.kind == "U" else field.dtype.name


def _shape(field: Field) -> str:
    return " × ".join("n" if length is None else str(length) for length in field.shape) or "one value"


def _sheet_rows(records: Sequence[Record], fields: Mapping[str, Field]) -> list[list[np.ndarray]]:
    """Return the panels of the contact sheet: each example's image and maps, several examples in a row."""
    drawn = [name for name, field in fields.items() if field.kind not in ("value", "list")]
    drawn.sort(key=lambda name: name != "image")
    examples = [[_panel(fields[name], record[name]) for name in drawn] for record in records]
    columns = min(_COLUMNS, len(examples))
    whole = len(examples) // columns * columns
    return [list(chain(*examples[i : i + columns])) for i in range(0, whole, columns)]


def _panel(field: Field, value: np.ndarray) -> np.ndarray:
    """Return a picture of a map, uint8 `[128,128,3]`; classes have colours, other values shades of grey."""
    pixels = np.asarray(value)
    if field.kind == "classes":
        colours = matplotlib.colormaps["tab20"](pixels[..., 0].astype(np.int64) % 20)
        pixels = (255 * colours[..., :3]).astype(np.uint8)
    elif field.kind != "image":
        shown = np.nan_to_num(pixels.astype(np.float64), posinf=0, neginf=0)[..., :3]
        low, high = (0, 1) if field.kind in ("depth", "mask") else (shown.min(), shown.max())
        pixels = (255 * np.clip((shown - low) / max(high - low, 1e-12), 0, 1)).astype(np.uint8)
        pixels = pixels if pixels.shape[-1] == 3 else np.repeat(pixels[..., :1], 3, -1)
    exact = Image.Resampling.BICUBIC if field.kind == "image" else Image.Resampling.NEAREST
    return np.asarray(ImageOps.pad(Image.fromarray(pixels), (_SIDE, _SIDE), method=exact))
