"""Images with class maps: read, checked and brought to one size."""

from typing import NamedTuple

import numpy as np

from gap_jax.data.files import (
    Fault,
    format_size,
    open_colour,
    open_image,
    square_array,
    square_image,
    turned,
)

UNLABELLED = 255  # the number of pixels without a class, as in ADE20K's and Cityscapes' training maps


class SegmentedPaths(NamedTuple):
    """The files of one example, which `id` identifies."""

    id: str
    image: str
    classes: str

    def fault(self, path: str, reason: str) -> Fault:
        """Return a `Fault` that names a file of this example."""
        return Fault(path, reason)


class SegmentedExample(NamedTuple):
    """An image with its classes.

    - `image`: uint8 `[S,S,3]`.
    - `classes`: int32 `[S,S,1]`, the class of each pixel from 0, or `UNLABELLED`.
    """

    image: np.ndarray
    classes: np.ndarray


def read_segmented_example(
    paths: SegmentedPaths, size: int, first: int = 0, unlabelled: int = UNLABELLED
) -> SegmentedExample:
    """Read the central square of an example, resized to `size` pixels.

    Images are resized without aliasing, class maps by nearest neighbour. `first` and `unlabelled` are those
    of `SegmentedFolderLayout`. Raises `Fault` for files that are damaged or of another format or size, for
    class maps without a labelled pixel, and for more than 255 classes.
    """
    image = open_colour(paths.image)
    raw = square_array(read_classes(paths.classes, image.size), size).astype(np.int32)[..., None]
    labelled = (raw != unlabelled) & (raw >= first)
    if not labelled.any():
        raise Fault(paths.classes, "has no pixel of a class")
    classes = np.where(labelled, raw - first, UNLABELLED)
    if (largest := classes[labelled].max()) >= UNLABELLED:
        raise Fault(paths.classes, f"must have at most {UNLABELLED} classes, found class {largest + first}")
    return SegmentedExample(square_image(image, size), classes)


def read_classes(path: str, size: tuple[int, int]) -> np.ndarray:
    """Read the numbers in a class map, `[H,W]`: its grey values, or the indices of its palette.

    Raises `Fault` for an image of several channels, whose colours are no numbers, and for one that is not of
    `size` (width, height).
    """
    image = open_image(path)
    if image.size != size:
        raise Fault(
            path,
            f"must be as large as its image, {format_size(size)} pixels, found {format_size(image.size)}"
            + turned(image.size, size),
        )
    if image.mode == "1":
        raise Fault(path, "must be a class map, found a mask of black and white: save classes as grey values")
    pixels = np.asarray(image)
    if pixels.ndim != 2:
        raise Fault(
            path,
            f"must be a class map of one channel, the number of each pixel's class; found mode {image.mode}: "
            "convert its colours to numbers",
        )
    return pixels
