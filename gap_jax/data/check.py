"""What a folder of images with depth holds, to read and to look at before anything is trained on it."""

from collections.abc import Sequence
from pathlib import Path

import matplotlib
import numpy as np
from PIL import Image
from tqdm import tqdm

from gap_jax.data.inventory import Layout, check_share, count, listed, summary
from gap_jax.data.rgbd import Fault, Rgbd, read

_GAP = 4  # pixels
_DESCRIBED = 3
_BINS = 1000


def check(
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
    used, and as the layout's `find`.
    """
    found = layout.find(root)
    print(summary(found))
    everything = [files for examples in found.splits.values() for files in examples]
    chosen = _spread(everything, sample or len(everything))
    good, faults, depths = [], [], np.zeros(_BINS + 1, int)
    for files in tqdm(chosen, desc="read", unit="image"):
        try:
            parts = read(files, layout.decode, size, layout.frame)
        except Fault as fault:
            faults.append(fault)
            continue
        depth = parts.depth[parts.mask]
        depths += np.bincount((depth * _BINS).astype(int), minlength=_BINS + 1)
        good.append((files, f"depth {depth.min():.3f} to {depth.max():.3f}, {parts.mask.mean():.1%} valid"))
    print("\n".join([f"read {len(chosen)} of {len(everything)}, {len(good)} are good", *listed(faults)]))
    if good:
        places = np.searchsorted(depths.cumsum() / depths.sum(), (0.01, 0.5, 0.99)) / _BINS
        low, middle, high = (f"{place:.3f}" for place in places)
        print(f"depth of all valid pixels: 1 % up to {low}, half up to {middle}, 99 % up to {high}")
        for files, description in _spread(good, _DESCRIBED):
            print("\n  ".join([f"{files.id}: {description}", *filter(None, files[1:])]))
        drawn = [read(files, layout.decode, size, layout.frame) for files, _ in _spread(good, pictures)]
        sheet.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(contact_sheet(drawn)).save(sheet)
        print(f"{sheet}: look whether image, depth (bright is far) and mask (white is valid) go together")
    check_share(found.faults, count(found) + len(found.faults), tolerance)
    check_share(faults, len(chosen), tolerance)


def contact_sheet(examples: Sequence[Rgbd]) -> np.ndarray:
    """A row for each example: image, depth (bright is far, black not valid), mask; uint8 `[H,W,3]`."""
    colours, sides = matplotlib.colormaps["viridis"], ((0, _GAP), (0, _GAP), (0, 0))
    rows = []
    for image, depth, mask in examples:
        painted = np.uint8(255 * colours(depth[..., 0])[..., :3]) * mask
        white = np.broadcast_to(np.uint8(255) * mask, image.shape)
        rows.append(np.concatenate([np.pad(part, sides) for part in (image, painted, white)], 1))
    return np.concatenate(rows)


def _spread(things: Sequence, number: int) -> list:
    """At most `number` of them, evenly spread."""
    places = np.linspace(0, len(things) - 1, min(number, len(things))).round().astype(int)
    return [things[place] for place in places]
