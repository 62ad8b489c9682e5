"""What a folder of images holds, to read and to look at before anything is trained on it."""

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import matplotlib
import numpy as np
from PIL import Image
from tqdm import tqdm

from gap_jax.data.depth import read as depth
from gap_jax.data.files import Fault
from gap_jax.data.inventory import Layout, check_share, count, listed, spread, summary
from gap_jax.data.masked import read as masked

_GAP = 4  # pixels
_DESCRIBED = 3
_BINS = 1000


class View(NamedTuple):
    """How one kind of examples is read, told in numbers and drawn."""

    read: Callable[[Any, Any, int], Any]  # layout, files, size -> example; raises `Fault`
    values: Callable[[Any], np.ndarray]  # example -> numbers in [0,1], `[n]`
    of: str  # what they are
    describe: Callable[[Any], str]
    panels: Callable[[Any], Sequence[np.ndarray]]  # example -> uint8 `[S,S,3]` each
    look: str  # what is to be seen on them
    judge: Callable[[Any, float], None]  # layout, median of values -> raises ValueError for a wrong one


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
    """Print what is there and what is missing, read a `sample` of examples, draw some of them on a `sheet`.

    All of them are read if `sample` is 0. Raises ValueError if more than the share `tolerance` cannot be
    used, as the layout's `find`, and as the view's `judge`.
    """
    found = layout.find(root)
    print(summary(found))
    everything = [files for examples in found.splits.values() for files in examples]
    chosen = spread(everything, sample or len(everything))
    good, faults, bins = [], [], np.zeros(_BINS + 1, int)
    for files in tqdm(chosen, desc="read", unit="image"):
        try:
            example = view.read(layout, files, size)
        except Fault as fault:
            faults.append(fault)
            continue
        bins += np.bincount((view.values(example) * _BINS).astype(int), minlength=_BINS + 1)
        good.append((files, view.describe(example)))
    print("\n".join([f"read {len(chosen)} of {len(everything)}, {len(good)} are good", *listed(faults)]))
    middle = None
    if bins.any():
        low, middle, high = np.searchsorted(bins.cumsum() / bins.sum(), (0.01, 0.5, 0.99)) / _BINS
        print(f"{view.of}: 1 % up to {low:.3f}, half up to {middle:.3f}, 99 % up to {high:.3f}")
    if good:
        for files, description in spread(good, _DESCRIBED):
            paths = [part for part in files[1:] if isinstance(part, str) and part]
            print("\n  ".join([f"{files.id}: {description}", *paths]))
        drawn = [view.panels(view.read(layout, files, size)) for files, _ in spread(good, pictures)]
        sheet.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(contact_sheet(drawn)).save(sheet)
        print(f"{sheet}: look whether {view.look} go together")
    check_share(found.faults, count(found) + len(found.faults), tolerance)
    check_share(faults, len(chosen), tolerance)
    if middle is not None:
        view.judge(layout, middle)


def contact_sheet(rows: Sequence[Sequence[np.ndarray]]) -> np.ndarray:
    """Rows of panels, each uint8 `[S,S,3]`, with black between them, uint8 `[H,W,3]`."""
    sides = ((0, _GAP), (0, _GAP), (0, 0))
    return np.concatenate([np.concatenate([np.pad(panel, sides) for panel in row], 1) for row in rows])


def _depth_panels(example: depth.DepthExample) -> list[np.ndarray]:
    image, depth, mask = example
    painted = np.uint8(255 * matplotlib.colormaps["viridis"](depth[..., 0])[..., :3]) * mask
    return [image, painted, _white(mask, image.shape)]


def _masked_panels(example: masked.MaskedExample) -> list[np.ndarray]:
    image, keep = example
    return [image, image * keep, _white(keep, image.shape)]


def _white(mask: np.ndarray, shape: tuple[int, ...]) -> np.ndarray:
    return np.broadcast_to(np.uint8(255) * mask, shape)


def _depth_values(example: depth.DepthExample) -> np.ndarray:
    return example.depth[example.mask]


def _describe_depth(example: depth.DepthExample) -> str:
    depth = _depth_values(example)
    return f"depth {depth.min():.3f} to {depth.max():.3f}, {example.mask.mean():.1%} valid"


def _share_kept(example: masked.MaskedExample) -> np.ndarray:
    """Nothing for what is kept nothing of: that has no mask."""
    return example.keep.mean(keepdims=True).ravel() if example.keep.any() else np.zeros(0)


DEPTH = View(
    read=lambda layout, files, size: depth.read(files, layout.decode, size, layout.frame),
    values=_depth_values,
    of="depth of all valid pixels",
    describe=_describe_depth,
    panels=_depth_panels,
    look="image, depth (bright is far) and mask (white is valid)",
    judge=lambda layout, middle: None,
)
MASKED = View(
    read=lambda layout, files, size: masked.read(files, size, layout.scaled),
    values=_share_kept,
    of="share of an image that its mask keeps",
    describe=lambda example: f"{example.keep.mean():.1%} kept",
    panels=_masked_panels,
    look="image, foreground and mask (white is kept)",
    judge=lambda layout, middle: masked.check_kept(middle, layout.most_kept),
)
