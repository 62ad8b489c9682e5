"""Images with a class and a mask of what is kept: checked, read and brought to one size."""

from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import NamedTuple, Protocol, TypeVar

import numpy as np
from PIL import Image

from gap_jax.data.files import Fault, format_size, open_image, read_mask, square_array, square_image, turned
from gap_jax.data.inventory import Layout
from gap_jax.data.table import TableRow

Parsed = TypeVar("Parsed")
_PNG_SIGNATURE = b"\x89PNG\r\n\x1a\n"
_PNG_BIT_DEPTH = 24  # index of the byte with the bits per channel (W3C PNG specification, 11.2.1)


class MaskedPaths(NamedTuple):
    """The files of one example, with its label, group and further integer attributes.

    `id` is unique in its split. Without a mask, nothing is kept. `row` is the place in a table that names the
    example, such as `folder/metadata.csv:2`, or "".
    """

    id: str
    image: str
    mask: str | None
    label: int
    group: int
    attributes: Mapping[str, int]
    row: str = ""

    def fault(self, path: str, reason: str) -> Fault:
        """Return a `Fault` that names a file of this example, and its row."""
        return Fault(f"{path} ({self.row})" if self.row else path, reason)


class MaskedExample(NamedTuple):
    """An image with a mask.

    - `image`: uint8 `[S,S,3]`.
    - `keep`: bool `[S,S,1]`, True on the foreground, which shows the class and must not change.
    """

    image: np.ndarray
    keep: np.ndarray


class MaskedLayout(Layout, Protocol):
    """The layout of a data set with masks; its inventory has `MaskedPaths`.

    - `attributes`: the names in `MaskedPaths.attributes`.
    - `scaled_masks`: the argument of this name for `read_masked_example`.
    - `most_kept`: the limit for `check_kept_share`.
    """

    @property
    def attributes(self) -> tuple[str, ...]: ...
    @property
    def scaled_masks(self) -> bool: ...
    @property
    def most_kept(self) -> float: ...


def read_masked_example(paths: MaskedPaths, size: int, scaled_masks: bool = False) -> MaskedExample:
    """Read a whole image and its mask, resized to `size` pixels, the mask by nearest neighbour.

    Images that are not square are squeezed, not cropped, so that no foreground is lost; the paper's
    classifiers and generator see these data sets so. With `scaled_masks`, a mask may be larger or smaller
    than its image but must have its aspect ratio.

    Raises `Fault` naming the file and its row for files that are damaged, images without three 8-bit
    channels, masks of another size or of several channels, and masks that keep nothing.
    """
    try:
        image = read_rgb(paths.image)
        keep = np.zeros(image.size[::-1], bool)
        if paths.mask is not None:
            keep = read_keep_mask(paths.mask, image.size, scaled_masks)
    except Fault as fault:
        raise paths.fault(fault.path, fault.reason) from fault
    frame = (size, size)
    return MaskedExample(square_image(image, size, frame), square_array(keep, size, frame)[..., None])


def read_rgb(path: str | Path) -> Image.Image:
    """Open an image of three 8-bit channels; raise `Fault` for any other."""
    image = open_image(path)
    with Path(path).open("rb") as stream:
        header = stream.read(_PNG_BIT_DEPTH + 1)
    has_16_bits = header.startswith(_PNG_SIGNATURE) and header[_PNG_BIT_DEPTH] == 16
    if image.mode != "RGB" or has_16_bits:
        channels = len(image.getbands())
        kind = "16 bits a channel" if has_16_bits else f"mode {image.mode}, {channels} channel(s)"
        raise Fault(path, f"must be an RGB image of 8 bits a channel, found {kind}: convert it")
    return image


def read_keep_mask(path: str | Path, size: tuple[int, int], scaled_masks: bool) -> np.ndarray:
    """Read the mask of an image of `size` (width, height), bool `[H,W]`, True where it is not 0.

    `scaled_masks` and `Fault` are those of `read_masked_example`.
    """
    keep = read_mask(path, None if scaled_masks else size)
    actual = keep.shape[::-1]
    rounding = max(*actual, *size)  # widths and heights are whole numbers: either may be off by one
    if abs(actual[0] * size[1] - actual[1] * size[0]) > rounding:
        raise Fault(
            path,
            f"must have the aspect ratio of its image, {format_size(size)}, found {format_size(actual)}"
            + turned(actual, size),
        )
    if not keep.any():
        raise Fault(path, "keeps nothing: all its pixels are 0")
    return keep


def parse_rows(
    rows: Iterable[TableRow], parse: Callable[[TableRow], Parsed]
) -> tuple[list[Parsed], list[Fault]]:
    """Return what `parse` makes of rows, and the faults that it raises."""
    parsed, faults = [], []
    for row in rows:
        try:
            parsed.append(parse(row))
        except Fault as fault:
            faults.append(fault)
    return parsed, faults


def keep_existing(candidates: Iterable[MaskedPaths]) -> tuple[list[MaskedPaths], list[Fault]]:
    """Separate examples whose files all exist from the faults of the others.

    Only the first of several candidates with the same id is an example; the others are faults.
    """
    examples, faults, ids = [], [], set()
    for paths in candidates:
        if paths.id in ids:
            faults.append(paths.fault(paths.image, "has the same name as another image"))
        elif not Path(paths.image).is_file():
            faults.append(paths.fault(paths.image, "is missing"))
        elif paths.mask is not None and not Path(paths.mask).is_file():
            faults.append(paths.fault(paths.image, "has no mask"))
        else:
            examples.append(paths)
        ids.add(paths.id)
    return examples, faults


def format_counts(source: str | Path, names: Iterable[str]) -> str:
    """Return a line with the number of occurrences of each name in `source`, a split or a folder."""
    counts = Counter(names)
    return f"{source}: " + ", ".join(f"{counts[name]} {name}" for name in sorted(counts))


def check_classes(source: str | Path, examples: Sequence[MaskedPaths], classes: Sequence[str]) -> None:
    """Raise ValueError naming `source`, a file or folder, if a class has no examples."""
    for problem in missing_classes(source, examples, classes):
        raise ValueError(problem)


def missing_classes(source: str | Path, examples: Sequence[MaskedPaths], classes: Sequence[str]) -> list[str]:
    """Return a sentence that names `source`, a file or folder, and the classes without examples, if any."""
    if not examples:
        return [
            f"{source}: found no example to train on whose files can be used; the reasons are listed with "
            f"what was left out. The classes are {', '.join(classes)}"
        ]
    labels = {paths.label for paths in examples}
    missing = [name for label, name in enumerate(classes) if label not in labels]
    return [
        f"{source}: each class needs examples to train on; found none of {', '.join(missing)} among "
        f"{len(examples)} examples; the classes are {', '.join(classes)}"
    ][: len(missing)]


def check_kept_share(median: float, most_kept: float) -> None:
    """Raise ValueError if `median`, of the shares of an image that masks keep, is above `most_kept`."""
    if median > most_kept:
        raise ValueError(
            f"half of the masks keep more than {median:.0%} of their image: they look inverted. A mask must "
            "be 0 where the image may change and anything else on the foreground: invert the masks "
            f"(255 - mask), or raise most_kept, now {most_kept:.2g}, if the foreground really is that large"
        )
