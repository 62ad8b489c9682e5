"""The export of a prepared or generated data set in a format of other programs, with a dataset card."""

import json
import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Literal

from gap_jax.data.writing.card import write_card
from gap_jax.data.writing.coco import Boxes, check_for_coco, write_coco
from gap_jax.data.writing.image_folder import write_image_folder
from gap_jax.data.writing.stored import StoredSet, open_stored
from gap_jax.data.writing.webdataset import check_for_webdataset, write_shards
from gap_jax.files import fsync_tree, read_json, write_json, writing
from gap_jax.ranges import FILE_NAME, is_file_name

Format = Literal["image-folder", "webdataset", "coco", "tfds"]
MARKER = "export.json"  # tells an export of ours from other folders, and which one it is
IMAGES = "images"  # the folder of a split's images, and of nothing else, in image folders


def export(
    data: Path,
    target: Path,
    form: Format,
    *,
    class_names: tuple[str, ...] = (),
    left_out: tuple[str, ...] = (),
    boxes: Boxes | None = None,
    prompts: Path | None = None,
    license: str = "unknown",
    images_per_shard: int = 1000,
) -> StoredSet:
    """Write a data set as the new folder `target`, with `README.md`, and return what was written.

    - `data`: a folder with one data set in TFDS, generated or prepared.
    - `form`: the format; the modules of this package describe them.
    - `class_names`: as in `StoredSet`, if the data set does not have them.
    - `left_out`: fields that are not written; every other field is written without loss.
    - `boxes`: the boxes to annotate, for COCO.
    - `prompts`: a folder whose prompt files (`*.safetensors`) are added.
    - `license`: an identifier of the hub's list.
    - `images_per_shard`: for WebDataset.

    The folder appears when it is complete. If the process is killed, the next one begins anew; if the folder
    is complete already, nothing is done.

    Raises FileExistsError for a folder that something else made, with nothing changed; ValueError for fields
    that the format cannot hold, before anything is written; and the errors of `open_stored`.
    """
    stored = open_stored(data, class_names, left_out)
    _check(stored, form, left_out, boxes, images_per_shard)
    files = _prompt_files(prompts)
    identity = {
        "format": form,
        "data": stored.digest(),
        "classes": stored.class_names,
        "left_out": sorted(left_out),
        "boxes": boxes,
        "prompts": sorted(files),
        "license": license,
        "images_per_shard": images_per_shard if form == "webdataset" else None,
    }
    if _is_complete(target, identity):
        return stored
    scratch = _new_scratch(target, identity)
    with writing(target):
        paths = _write(stored, scratch, form, boxes, images_per_shard)
        for name, path in files.items():
            (scratch / name).parent.mkdir(parents=True, exist_ok=True)
            shutil.copyfile(path, scratch / name)
        write_card(stored, scratch, target.name, form, license, _reading(form, stored), paths, sorted(files))
        fsync_tree(scratch)
        scratch.rename(target)
    return stored


def _check(
    stored: StoredSet, form: Format, left_out: tuple[str, ...], boxes: Boxes | None, images_per_shard: int
) -> None:
    """Raise ValueError for what the format cannot hold."""
    if boxes is not None and form != "coco":
        raise ValueError(f"boxes are annotated in COCO only, found the format {form}: leave the option out")
    match form:
        case "image-folder":
            if odd := [name for name in stored.class_names or () if not is_file_name(name)]:
                raise ValueError(
                    f"the class {odd[0]!r} must be renamed (--classes), because its images have a folder of "
                    f"this name: it must be {FILE_NAME.text}"
                )
            if IMAGES in stored.fields:
                raise ValueError(f"the field {IMAGES} must be left out: its files would be among the images")
        case "webdataset":
            if images_per_shard < 1:
                raise ValueError(f"images_per_shard must be 1 or more, found {images_per_shard}")
            check_for_webdataset(stored.fields)
        case "coco":
            check_for_coco(stored, boxes)
        case "tfds":
            if left_out:
                raise ValueError("the format tfds copies a data set with all its fields: leave none out")


def _write(
    stored: StoredSet, folder: Path, form: Format, boxes: Boxes | None, images_per_shard: int
) -> dict[str, str]:
    """Write the data set's files and return the pattern of each split's files, for the hub's viewer."""
    match form:
        case "image-folder":
            labelled = "label" in stored.fields and stored.fields["label"].is_integer
            names = stored.class_names if labelled else None
            for split in stored.sizes:
                write_image_folder(stored.records(split), stored.fields, folder / split, names, IMAGES)
            return {split: f"{split}/**" for split in stored.sizes}
        case "webdataset":
            for split in stored.sizes:
                write_shards(stored.records(split), stored.fields, folder, split, images_per_shard)
            return {split: f"{split}-*.tar" for split in stored.sizes}
        case "coco":
            write_coco(stored, folder, boxes)
            return {split: f"{split}/*.png" for split in stored.sizes}
        case "tfds":
            shutil.copytree(stored.folder, folder / _place(stored))
            return {}


def _place(stored: StoredSet) -> Path:
    """Return the place of a copied TFDS data set: its name and version, as TFDS has them."""
    return Path(*stored.folder.parts[-2:])


def _reading(form: Format, stored: StoredSet) -> str:
    """Return Python code that reads the first split, run in the folder."""
    split = next(iter(stored.sizes))
    match form:
        case "tfds":
            place = f'tfds.builder_from_directory("{_place(stored).as_posix()}")'
            return f'import tensorflow_datasets as tfds\n\nsource = {place}.as_data_source("{split}")'
        case "coco":
            place = f'COCO("annotations/instances_{split}.json")'
            return f"from pycocotools.coco import COCO\n\nannotations = {place}  # images are in {split}/"
    return f'from datasets import load_dataset\n\ndata = load_dataset(".", split="{split}")'


def _prompt_files(folder: Path | None) -> dict[str, Path]:
    """Return the prompt files in a folder by their places in the export; raise ValueError if it has none."""
    if folder is None:
        return {}
    found = sorted(folder.rglob("*.safetensors"))
    if not found:
        raise ValueError(f"{folder} has no prompt files (*.safetensors): give the folder of a stage optimize")
    return {f"prompts/{path.relative_to(folder).as_posix()}": path for path in found}


def _is_complete(target: Path, identity: Mapping[str, Any]) -> bool:
    """Return True if the folder is this export already; raise FileExistsError if it is anything else."""
    if not target.exists() or (target.is_dir() and not any(target.iterdir())):
        return False
    if (target / MARKER).is_file():
        found = read_json(target / MARKER, f"delete {target} and export again")
        if found == _plain(identity):
            return True
        odd = ", ".join(sorted(name for name in identity if found.get(name) != _plain(identity)[name]))
        raise FileExistsError(
            f"{target} is another export ({odd} differ): choose another folder, or delete it"
        )
    raise FileExistsError(f"{target} is there already, and no export of gap_jax: choose another folder")


def _new_scratch(target: Path, identity: Mapping[str, Any]) -> Path:
    """Return a new, hidden folder beside `target`; one that a killed export left is removed."""
    scratch = target.with_name(f".{target.name}.unfinished")
    if scratch.exists():
        if any(scratch.iterdir()) and not (scratch / MARKER).is_file():
            raise FileExistsError(f"{scratch} is no unfinished export of gap_jax: move it away")
        shutil.rmtree(scratch)
    with writing(scratch):
        scratch.mkdir(parents=True)
    write_json(scratch / MARKER, _plain(identity))
    return scratch


def _plain(identity: Mapping[str, Any]) -> dict[str, Any]:
    """Return the values as JSON gives them back."""
    return json.loads(json.dumps(identity))
