"""An image with a class and a mask of what is to be kept: read from files, checked, brought to one size."""

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import NamedTuple, Protocol

import numpy as np
from PIL import Image

from gap_jax.data.files import Fault, open_image, read_mask, square, square_image, times
from gap_jax.data.inventory import Layout

_PNG_BITS = 24  # the byte of a PNG that says how many bits a channel has (W3C PNG specification, 11.2.1)


class MaskedPaths(NamedTuple):
    """One example: paths, class, group, and in integers what else is known of it.

    Without a mask nothing is kept. `id` tells it from the others of its split; `row` is the line of a table
    that names it, such as `folder/metadata.csv:2`, or "".
    """

    id: str
    image: str
    mask: str | None
    label: int
    group: int
    about: Mapping[str, int]
    row: str = ""

    def fault(self, path: str, why: str) -> Fault:
        """A `Fault` that names a file of this example, and its row."""
        return Fault(f"{path} ({self.row})" if self.row else path, why)


class MaskedExample(NamedTuple):
    """`image` uint8 `[S,S,3]`; `keep` bool `[S,S,1]`, True = keep: the foreground that the class is of."""

    image: np.ndarray
    keep: np.ndarray


class MaskedLayout(Layout, Protocol):
    """How images with masks lie in their folder; `find` finds `MaskedPaths`.

    `about`: the names in `MaskedPaths.about`; `scaled` as in `read`; `most_kept` as in `check_kept`.
    """

    @property
    def about(self) -> tuple[str, ...]: ...
    @property
    def scaled(self) -> bool: ...
    @property
    def most_kept(self) -> float: ...


def read(files: MaskedPaths, size: int, scaled: bool = False) -> MaskedExample:
    """All of an image and its mask, resized to `size` pixels: the mask by nearest neighbour.

    What is not square is squeezed to a square, not cropped, so that no foreground is lost; this is how the
    paper's classifiers and generator see these data sets. `scaled`: masks may be larger or smaller than their
    images, of the same shape. Raises `Fault`, naming the file and its row, for files that are damaged, images
    of other than three 8-bit channels, masks of another size or channels, and masks that keep nothing.
    """
    try:
        image = read_rgb(files.image)
        keep = np.zeros(image.size[::-1], bool)
        if files.mask is not None:
            keep = read_keep(files.mask, image.size, scaled)
    except Fault as fault:
        raise files.fault(fault.path, fault.why) from fault
    frame = (size, size)
    return MaskedExample(square_image(image, size, frame), square(keep, size, frame)[..., None])


def read_rgb(path: str | Path) -> Image.Image:
    """An image of three 8-bit channels; raises `Fault` for any other."""
    image = open_image(path)
    with Path(path).open("rb") as stream:
        header = stream.read(_PNG_BITS + 1)
    wide = image.format == "PNG" and header[_PNG_BITS] == 16
    if image.mode != "RGB" or wide:
        found = "16 bits a channel" if wide else f"mode {image.mode}, {len(image.getbands())} channel(s)"
        raise Fault(path, f"must be an RGB image of 8 bits a channel, found {found}: convert it")
    return image


def read_keep(path: str | Path, size: tuple[int, int], scaled: bool) -> np.ndarray:
    """Where a mask is not 0, bool `[H,W]`, for an image of `size` (W, H); `scaled`, `Fault` as in `read`."""
    keep = read_mask(path, None if scaled else size)
    found = keep.shape[::-1]
    rounding = max(*found, *size)  # widths and heights are whole: either may be off by one
    if abs(found[0] * size[1] - found[1] * size[0]) > rounding:
        raise Fault(path, f"must have the shape of its image, {times(size)} or scaled, found {times(found)}")
    if not keep.any():
        raise Fault(path, "keeps nothing: all of it is 0")
    return keep


def present(candidates: Iterable[MaskedPaths]) -> tuple[list[MaskedPaths], list[Fault]]:
    """Those whose files are all there, and the faults of the others and of what comes a second time."""
    examples, faults, seen = [], [], set()
    for files in candidates:
        if files.id in seen:
            faults.append(files.fault(files.image, "is named a second time"))
        elif not Path(files.image).is_file():
            faults.append(files.fault(files.image, "is not there"))
        elif files.mask is not None and not Path(files.mask).is_file():
            faults.append(files.fault(files.image, "has no mask"))
        else:
            examples.append(files)
        seen.add(files.id)
    return examples, faults


def tally(split: str, names: Iterable[str]) -> str:
    """How many examples of each name there are, in words."""
    counts = Counter(names)
    return f"{split}: " + ", ".join(f"{counts[name]} {name}" for name in sorted(counts))


def check_classes(where: str | Path, examples: Sequence[MaskedPaths], classes: Sequence[str]) -> None:
    """Raise ValueError, beginning with `where`, if a class has no examples."""
    found = {files.label for files in examples}
    lacking = [name for label, name in enumerate(classes) if label not in found]
    if lacking:
        raise ValueError(
            f"{where}: no examples of the class {', '.join(lacking)} among {len(examples)} to train on; the "
            f"classes are {', '.join(classes)}"
        )


def check_kept(middle: float, most: float) -> None:
    """Raise ValueError if `middle`, the median share of an image that its mask keeps, is above `most`."""
    if middle > most:
        raise ValueError(
            f"half of the masks keep more than {middle:.0%} of their image: they look inverted. A mask is 0 "
            "where the image may change, anything else on the foreground: turn them round (255 - mask), or "
            f"raise most_kept, which is {most:.2g}, if the foreground really is that large"
        )
