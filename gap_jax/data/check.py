"""The check of a data set's folder before training: its contents in numbers and in pictures."""

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import matplotlib
import numpy as np
from PIL import Image
from tqdm import tqdm

from gap_jax.data.depth.read import DepthExample, read_depth_example
from gap_jax.data.files import Fault, open_colour, read_mask, square_array, square_image
from gap_jax.data.inventory import Layout, check_fault_share, describe_faults, sample_evenly
from gap_jax.data.masked.read import MaskedExample, check_kept_share, read_masked_example
from gap_jax.data.segmented.read import UNLABELLED, SegmentedExample, read_segmented_example

_GAP = 4  # pixels between panels
_DESCRIBED = 3  # examples whose numbers and paths are printed
_BINS = 1000
_TOGETHER = ": look at it and see that they belong together"


class View(NamedTuple):
    """The way in which one kind of example is read, described in numbers and drawn.

    - `read(layout, paths, size)` returns the example or raises `Fault`.
    - `values(example)` returns the numbers in [0,1], `[n]`, whose quantiles are printed.
    - `quantity` names these numbers.
    - `describe(example)` returns a short text.
    - `panels(example)` returns pictures, uint8 `[S,S,3]` each; `legend` says what they show.
    - `check_median(layout, median)` raises ValueError if the median of all values reveals an error.
    """

    read: Callable[[Any, Any, int], Any]
    values: Callable[[Any], np.ndarray]
    quantity: str
    describe: Callable[[Any], str]
    panels: Callable[[Any], Sequence[np.ndarray]]
    legend: str
    check_median: Callable[[Any, float], None]


def check(
    view: View,
    layout: Layout,
    root: Path,
    *,
    sheet: Path,
    sample: int = 200,
    size: int = 256,
    pictures: int = 8,
    tolerance: float = 0.01,
) -> None:
    """Print what a folder holds and what is missing, read examples, and draw some of them.

    `sample` examples are read, at even distances, or all if it is 0; `pictures` of them are drawn in the PNG
    file `sheet`. Raises the errors of the layout's `find`. After everything has been printed, raises
    ValueError with the inventory's problems, if more than the share `tolerance` of the examples cannot be
    used, or if the view's `check_median` does.
    """
    inventory = layout.find(root)
    print(inventory.summary())
    examples = [paths for split in inventory.splits.values() for paths in split]
    chosen = sample_evenly(examples, sample or len(examples))
    readable, faults, bins = [], [], np.zeros(_BINS + 1, int)
    for paths in tqdm(chosen, desc="read", unit="image"):
        try:
            example = view.read(layout, paths, size)
        except Fault as fault:
            faults.append(fault)
            continue
        bins += np.bincount((view.values(example) * _BINS).astype(int), minlength=_BINS + 1)
        readable.append((paths, view.describe(example)))
    counts = f"read {len(chosen)} of {len(examples)} examples; {len(readable)} can be used"
    print("\n".join([counts, *describe_faults(faults)]))
    median = None
    if bins.any():
        low, median, high = np.searchsorted(bins.cumsum() / bins.sum(), (0.01, 0.5, 0.99)) / _BINS
        print(f"{view.quantity}: 1st percentile {low:.3f}, median {median:.3f}, 99th percentile {high:.3f}")
    if readable:
        for paths, description in sample_evenly(readable, _DESCRIBED):
            names = [part for part in paths[1:] if isinstance(part, str) and part]
            print("\n  ".join([f"{paths.id}: {description}", *names]))
        rows = [view.panels(view.read(layout, paths, size)) for paths, _ in sample_evenly(readable, pictures)]
        _draw(rows, sheet, view.legend)
    errors = []
    for examine in (
        lambda: inventory.check_faults(tolerance),
        lambda: check_fault_share(faults, len(chosen), tolerance),
        lambda: None if median is None else view.check_median(layout, median),
    ):
        try:
            examine()
        except ValueError as error:
            errors.append(str(error))
    if errors:
        raise ValueError("\n".join(errors))


def draw_masks(masks: Mapping[Path, Path], sheet: Path, size: int = 256, pictures: int = 8) -> None:
    """Draw some images, their foregrounds and their masks in the PNG file `sheet`, `size` pixels each.

    `masks` has the path of each image's mask by the path of the image.
    """
    rows = []
    for image, mask in sample_evenly(list(masks.items()), pictures):
        frame = (size, size)
        keep = square_array(read_mask(mask, None), size, frame)[..., None]
        rows.append(_masked_panels(MaskedExample(square_image(open_colour(image), size, frame), keep)))
    _draw(rows, sheet, MASKED_VIEW.legend)


def _draw(rows: Sequence[Sequence[np.ndarray]], sheet: Path, legend: str) -> None:
    sheet.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(contact_sheet(rows)).save(sheet)
    print(f"{sheet} shows {legend}")


def contact_sheet(rows: Sequence[Sequence[np.ndarray]]) -> np.ndarray:
    """Join rows of panels, uint8 `[S,S,3]` each, with black gaps, to one picture, uint8 `[H,W,3]`."""
    gaps = ((0, _GAP), (0, _GAP), (0, 0))
    return np.concatenate([np.concatenate([np.pad(panel, gaps) for panel in row], 1) for row in rows])


def _depth_panels(example: DepthExample) -> list[np.ndarray]:
    image, depth, mask = example
    coloured = np.uint8(255 * matplotlib.colormaps["viridis"](depth[..., 0])[..., :3]) * mask
    return [image, coloured, _white(mask, image.shape)]


def _masked_panels(example: MaskedExample) -> list[np.ndarray]:
    image, keep = example
    return [image, image * keep, _white(keep, image.shape)]


def _white(mask: np.ndarray, shape: tuple[int, ...]) -> np.ndarray:
    return np.broadcast_to(np.uint8(255) * mask, shape)


def _valid_depth(example: DepthExample) -> np.ndarray:
    return example.depth[example.mask]


def _describe_depth(example: DepthExample) -> str:
    depth = _valid_depth(example)
    return f"depth {depth.min():.3f} to {depth.max():.3f}, {example.mask.mean():.1%} valid"


def _share_kept(example: MaskedExample) -> np.ndarray:
    """Return the share of pixels that the mask keeps, `[1]`; `[0]` for an image without a mask."""
    return example.keep.mean(keepdims=True).ravel() if example.keep.any() else np.zeros(0)


def _segmented_panels(example: SegmentedExample) -> list[np.ndarray]:
    image, classes = example
    colours = matplotlib.colormaps["tab20"](classes[..., 0] % 20, bytes=True)[..., :3]
    return [image, colours * (classes != UNLABELLED)]


def _share_labelled(example: SegmentedExample) -> np.ndarray:
    return (example.classes != UNLABELLED).mean(keepdims=True).ravel()


def _describe_classes(example: SegmentedExample) -> str:
    present = np.setdiff1d(example.classes, UNLABELLED)
    return f"{_share_labelled(example)[0]:.1%} labelled, classes {', '.join(map(str, present))}"


DEPTH_VIEW = View(
    read=lambda layout, paths, size: read_depth_example(paths, layout.decode, size, layout.frame),
    values=_valid_depth,
    quantity="depth of all valid pixels",
    describe=_describe_depth,
    panels=_depth_panels,
    legend=f"image, depth (bright is far) and mask (white is valid){_TOGETHER}",
    check_median=lambda layout, median: None,
)
MASKED_VIEW = View(
    read=lambda layout, paths, size: read_masked_example(paths, size, layout.scaled_masks),
    values=_share_kept,
    quantity="share of an image that its mask keeps",
    describe=lambda example: f"{example.keep.mean():.1%} kept",
    panels=_masked_panels,
    legend=f"image, foreground and mask (white is kept){_TOGETHER}",
    check_median=lambda layout, median: check_kept_share(median, layout.most_kept),
)
WHOLE_VIEW = MASKED_VIEW._replace(
    describe=lambda example: "whole image",
    panels=lambda example: [example.image],
    legend="some images: look at it",
)
SEGMENTED_VIEW = View(
    read=lambda layout, paths, size: read_segmented_example(paths, size, layout.first, layout.unlabelled),
    values=_share_labelled,
    quantity="share of an image that has a class",
    describe=_describe_classes,
    panels=_segmented_panels,
    legend=f"image and classes (pixels without a class are black){_TOGETHER}",
    check_median=lambda layout, median: None,
)
