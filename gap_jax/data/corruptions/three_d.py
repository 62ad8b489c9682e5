"""3D Common Corruptions, those that an image and its depth are enough for, each in five severities.

Kar et al., CVPR 2022, arXiv 2203.01441, figures from their code. Depth only matters relative to other depth
of the image, but for `fog_3d`. Exact are `fog_3d`, `low_light`, `iso_noise` and `color_quant`. The others:

- `near_focus`, `far_focus`: their focal planes, apertures and eight layers. Blur radii are theirs from 224
  pixels (shorter side) up, and in proportion below, where they would leave nothing to see.
- `flash`: their factors on how bright the light falls, which is read from renderings there and here is
  (nearest depth / depth)², 1 at the nearest depth in the middle of the image, whatever surfaces face.
- `xy_motion_blur`, `z_motion_blur`: their camera paths and numbers of frames, lengths as shares of the width
  (theirs: 512). Surfaces that the camera uncovers are inpainted there; here a pixel is averaged over the
  frames in which something is seen at it, from the first on, to which the depth belongs.
- `bit_error`: theirs is in a video. Here it is in a JPEG file (quality 95, no chroma subsampling) that
  starts anew after every eight blocks; a share of its coded bits is flipped, at rates of ours.
"""

from collections.abc import Callable, Sequence
from io import BytesIO

import numpy as np
from PIL import Image
from scipy import ndimage

from gap_jax.data.corruptions.common import check_request, corrupt_each, to_8_bits

_LAYERS = 8
_FRAMES = 60
_NEAREST = 1e-3  # of the depth's range: nothing is nearer


def corrupt_3d(
    images: np.ndarray,
    depth: np.ndarray,
    mask: np.ndarray,
    name: str,
    severity: int,
    *,
    ids: Sequence[int] | np.ndarray,
    seed: int = 0,
) -> np.ndarray:
    """Images corrupted by `name` (one of `CORRUPTIONS_3D`) to `severity` (1 to 5).

    `images` float32 `[B,H,W,3]` in [0,1], sides of 16 pixels or more, and so is the result, in whole 255ths.
    `depth` float32 `[B,H,W,1]`, in [0,1] where `mask` (bool, the same shape) is True; elsewhere it may be
    anything, and is taken to be the image's farthest, 1 if no pixel has a depth. `ids` are B integers from 0:
    what is random comes from (seed, id, name, severity) alone, whatever the batch. Raises ValueError for a
    name or severity that does not exist, and arrays unlike these.
    """
    check_request(images, name, severity, ids, seed, CORRUPTIONS_3D)
    _check_depth(depth, mask, images.shape)
    effect = _CORRUPTIONS_3D[name]

    def each(image, random, i):
        return effect(image, _filled(depth[i, ..., 0], mask[i, ..., 0]), random, severity)

    return corrupt_each(each, images, name, severity, ids, seed)


def _check_depth(depth: np.ndarray, mask: np.ndarray, images: tuple[int, ...]) -> None:
    wanted = (*images[:3], 1)
    for what, array, dtype in (("depth", depth, np.float32), ("mask", mask, np.bool_)):
        if array.shape != wanted or array.dtype != dtype:
            found = f"{array.dtype} {list(array.shape)}"
            raise ValueError(
                f"{what} must be {np.dtype(dtype)} {list(wanted)}, as the images are, found {found}"
            )
    valid = depth[mask]
    if len(valid) and not (valid.min() >= 0 and valid.max() <= 1):
        raise ValueError(
            f"depth must be in [0, 1] where mask is True, found {valid.min():g} to {valid.max():g}"
        )


def _filled(depth, mask):
    return np.where(mask, depth, depth[mask].max() if mask.any() else 1).astype(np.float64)


def _nearest(depth):
    """The nearest depth in the middle half of the image."""
    height, width = depth.shape
    middle = depth[height // 4 : height - height // 4, width // 4 : width - width // 4]
    return max(middle.min(), _NEAREST)


def _fog_3d(image, depth, random, severity):
    clear = np.exp(-4 * severity * depth)[..., None]
    return clear * image + (1 - clear) * image.mean()


def _near_focus(image, depth, random, severity):
    return _refocus(image, depth, 0, severity + 2)


def _far_focus(image, depth, random, severity):
    return _refocus(image, depth, _LAYERS - 1, severity + 0.5)


def _refocus(image, depth, focus, aperture):
    """Blurred by how far depth is from that of quantile `focus`; between quantiles, a blend of both."""
    depth = np.maximum(depth, _NEAREST)
    planes = np.quantile(depth, np.linspace(0, 1, _LAYERS + 1))
    radii = aperture * np.abs(planes - planes[focus]) / planes * min(1, min(depth.shape) / 224)
    layers = [
        ndimage.gaussian_filter(image, (r, r, 0), mode="nearest", radius=(int(1.5 * r),) * 2 + (0,))
        for r in radii
    ]
    left = np.clip(np.searchsorted(planes, depth, "right") - 1, 0, _LAYERS - 1)
    beyond = (depth - planes[left]) / np.maximum(planes[left + 1] - planes[left], 1e-9)
    beyond = np.clip(beyond, 0, 1)
    total = np.zeros_like(image)
    weights = np.zeros_like(depth)
    for i, layer in enumerate(layers):
        away = np.where(left == i, beyond, np.where(left + 1 == i, 1 - beyond, 1))
        weights += 1 - away**2
        total += (1 - away**2)[..., None] * layer
    return total / weights[..., None]


def _flash(image, depth, random, severity):
    near = _nearest(depth)
    light = (near / np.maximum(depth, near)) ** 2
    return image * (1 + light[..., None] / (2.4, 1.4, 0.9, 0.6, 0.4)[severity - 1])


def _xy_motion_blur(image, depth, random, severity):
    across = random.choice((-1, 1)) * random.uniform(50, 75)
    shift = np.array((across, random.uniform(-75, 75))) / 512
    return _moving(image, depth, shift, 0, (20, 30, 40, 50, 60)[severity - 1])


def _z_motion_blur(image, depth, random, severity):
    shift = random.uniform(-30, 30, 2) / 512
    return _moving(image, depth, shift, random.uniform(0.4, 0.5), (20, 25, 30, 35, 38)[severity - 1])


def _moving(image, depth, shift, forward, frames):
    """The average of the first `frames` of 60 views on a straight way.

    At its end the camera is nearer by the share `forward` of the nearest depth, and what is nearest has moved
    by `shift`, (across, down), of the image's width.
    """
    height, width = depth.shape
    near = _nearest(depth)
    far_to_near = np.argsort(-depth, axis=None, kind="stable")
    z = np.maximum(depth.ravel()[far_to_near], near)
    pixels = image.reshape(-1, 3)
    centre = (np.array((width, height)) - 1) / 2
    places = np.stack([far_to_near % width, far_to_near // width], 1) - centre
    total, seen = np.zeros_like(pixels), np.zeros((len(pixels), 1))
    for time in np.arange(frames) / (_FRAMES - 1):
        nearer = z - time * forward * near
        moved = time * shift * width * (1 - time * forward) * near
        x, y = ((places * z[:, None] + moved) / nearer[:, None] + centre).T
        # every pixel is a square of up to 2x2 pixels, so that none show through between neighbours
        columns = np.stack([np.floor(x), np.ceil(x)] * 2, 1).astype(int)
        rows = np.stack([np.floor(y)] * 2 + [np.ceil(y)] * 2, 1).astype(int)
        inside = (columns >= 0) & (columns < width) & (rows >= 0) & (rows < height)
        shown = np.full(height * width, -1)
        shown[(rows * width + columns)[inside]] = np.broadcast_to(far_to_near[:, None], inside.shape)[inside]
        total += np.where(shown[:, None] >= 0, pixels[shown], 0)
        seen += shown[:, None] >= 0
    return (total / seen).reshape(image.shape)


def _low_light(image, depth, random, severity):
    stretched = (image - image.min()) / max(np.ptp(image), 1 / 255)
    dark = (0.6, 0.5, 0.4, 0.3, 0.2)[severity - 1] * stretched**2
    return _sensor_noise(dark, random, photons=120, scale=0.018)


def _iso_noise(image, depth, random, severity):
    return _sensor_noise(image, random, photons=25, scale=0.7 * (0.08, 0.12, 0.18, 0.26, 0.38)[severity - 1])


def _sensor_noise(image, random, photons, scale):
    return np.clip(random.poisson(image * photons) / photons, 0, 1) + random.normal(0, scale, image.shape)


def _color_quant(image, depth, random, severity):
    lost = 2 + severity
    return (to_8_bits(image) >> lost << lost) / 255.0


def _bit_error(image, depth, random, severity):
    file = BytesIO()
    Image.fromarray(to_8_bits(image)).save(file, "JPEG", quality=95, subsampling=0, restart_marker_blocks=8)
    code = np.frombuffer(file.getvalue(), np.uint8).copy()
    scan = file.getvalue().index(b"\xff\xda")
    start = scan + 2 + int.from_bytes(file.getvalue()[scan + 2 : scan + 4], "big")
    flips = random.random((len(code), 8)) < _BIT_ERRORS[severity - 1]
    wrong = code ^ np.packbits(flips, 1)[:, 0]
    marker = code == 0xFF
    marker[1:] |= marker[:-1].copy()  # and what it marks
    allowed = ~marker & (wrong != 0xFF) & (np.arange(len(code)) >= start)
    return np.asarray(Image.open(BytesIO(np.where(allowed, wrong, code).tobytes()))) / 255.0


_BIT_ERRORS = (5e-5, 1.2e-4, 3e-4, 7e-4, 1.5e-3)  # of all bits

_CORRUPTIONS_3D: dict[str, Callable[[np.ndarray, np.ndarray, np.random.Generator, int], np.ndarray]] = {
    "fog_3d": _fog_3d,
    "near_focus": _near_focus,
    "far_focus": _far_focus,
    "flash": _flash,
    "xy_motion_blur": _xy_motion_blur,
    "z_motion_blur": _z_motion_blur,
    "low_light": _low_light,
    "iso_noise": _iso_noise,
    "color_quant": _color_quant,
    "bit_error": _bit_error,
}
CORRUPTIONS_3D: tuple[str, ...] = tuple(_CORRUPTIONS_3D)
