"""3D Common Corruptions that need only an image and its depth, each in five severities.

Kar et al., CVPR 2022, arXiv 2203.01441, with the numbers of the authors' code. Except for `fog_3d`, only the
ratios of an image's depths matter. `fog_3d`, `low_light`, `iso_noise` and `color_quant` are exact; the others
differ:

- `near_focus`, `far_focus` have the authors' focal planes, apertures and eight layers. Blur radii are theirs
  if the shorter side has 224 pixels or more; below, where they would hide everything, they are proportional.
- `flash` has the authors' factors on the brightness of the light. They render it; here it is
  (nearest depth / depth)² for the nearest depth in the centre of the image, at most 1, whatever the
  directions of the surfaces.
- `xy_motion_blur`, `z_motion_blur` have the authors' camera paths and numbers of frames, with lengths as
  shares of the width (theirs is 512). They inpaint surfaces that the camera uncovers; here a pixel is
  averaged over the frames in which something is seen at it, beginning with the original image.
- `bit_error` is in a video there. Here it is in a JPEG file (quality 95, no chroma subsampling) with a
  restart marker after every eight blocks; a share of its coded bits is flipped, at rates chosen here.
"""

from collections.abc import Callable, Sequence
from io import BytesIO

import numpy as np
from PIL import Image
from scipy import ndimage

from gap_jax.data.corruptions.apply import check_request, corrupt_each, to_8_bits

_LAYERS = 8
_FRAMES = 60
_MIN_DEPTH = 1e-3


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
    """Corrupt images by `name` (one of `CORRUPTIONS_3D`) with `severity` (1 to 5).

    `images` are float32 `[B,H,W,3]` in [0,1] with sides of 16 pixels or more; the result has the same form,
    with whole multiples of 1/255. `depth` is float32 `[B,H,W,1]`, in [0,1] where `mask` (bool, the same
    shape) is True. Elsewhere its values do not matter and are replaced by the image's largest valid depth,
    or 1 if there is none. `ids` are B integers from 0: random numbers depend only on (seed, id, name,
    severity), not on the batch. Raises ValueError for an unknown name or severity and for other arrays.
    """
    check_request(images, name, severity, ids, seed, CORRUPTIONS_3D)
    _check_depth(depth, mask, images.shape)
    effect = _CORRUPTIONS_3D[name]

    def corrupt_one(image, random, i):
        return effect(image, _fill_invalid(depth[i, ..., 0], mask[i, ..., 0]), random, severity)

    return corrupt_each(corrupt_one, images, name, severity, ids, seed)


def _check_depth(depth: np.ndarray, mask: np.ndarray, images: tuple[int, ...]) -> None:
    expected = (*images[:3], 1)
    for name, array, dtype in (("depth", depth, np.float32), ("mask", mask, np.bool_)):
        if array.shape != expected or array.dtype != dtype:
            raise ValueError(
                f"{name} must be {np.dtype(dtype)} {list(expected)}, of the images' size, "
                f"found {array.dtype} {list(array.shape)}"
            )
    valid = depth[mask]
    if len(valid) and not (valid.min() >= 0 and valid.max() <= 1):
        raise ValueError(
            f"depth must be in [0, 1] where mask is True, found {valid.min():g} to {valid.max():g}"
        )


def _fill_invalid(depth, mask):
    return np.where(mask, depth, depth[mask].max() if mask.any() else 1).astype(np.float64)


def _nearest(depth):
    """Return the smallest depth in the central half of the image."""
    height, width = depth.shape
    centre = depth[height // 4 : height - height // 4, width // 4 : width - width // 4]
    return max(centre.min(), _MIN_DEPTH)


def _fog_3d(image, depth, random, severity):
    clear = np.exp(-4 * severity * depth)[..., None]
    return clear * image + (1 - clear) * image.mean()


def _near_focus(image, depth, random, severity):
    return _refocus(image, depth, 0, severity + 2)


def _far_focus(image, depth, random, severity):
    return _refocus(image, depth, _LAYERS - 1, severity + 0.5)


def _refocus(image, depth, focus, aperture):
    """Blur pixels by the distance of their depth from the focal plane, the depth quantile `focus` of 8.

    Between two quantiles, the blurs of both are blended.
    """
    depth = np.maximum(depth, _MIN_DEPTH)
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
    return _moving_camera(image, depth, shift, 0, (20, 30, 40, 50, 60)[severity - 1])


def _z_motion_blur(image, depth, random, severity):
    shift = random.uniform(-30, 30, 2) / 512
    return _moving_camera(image, depth, shift, random.uniform(0.4, 0.5), (20, 25, 30, 35, 38)[severity - 1])


def _moving_camera(image, depth, shift, forward, frames):
    """Average the first `frames` of 60 views of a camera on a straight path.

    At the end of the path, the camera has moved forward by `forward` times the nearest depth, and the nearest
    surface has moved by `shift`, (across, down), times the image's width.
    """
    height, width = depth.shape
    near = _nearest(depth)
    far_to_near = np.argsort(-depth, axis=None, kind="stable")
    z = np.maximum(depth.ravel()[far_to_near], near)
    pixels = image.reshape(-1, 3)
    centre = (np.array((width, height)) - 1) / 2
    positions = np.stack([far_to_near % width, far_to_near // width], 1) - centre
    total, seen = np.zeros_like(pixels), np.zeros((len(pixels), 1))
    for time in np.arange(frames) / (_FRAMES - 1):
        nearer = z - time * forward * near
        moved = time * shift * width * (1 - time * forward) * near
        x, y = ((positions * z[:, None] + moved) / nearer[:, None] + centre).T
        # a pixel covers up to 2x2 pixels, so that no gaps open between neighbours
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
    lost_bits = 2 + severity
    return (to_8_bits(image) >> lost_bits << lost_bits) / 255.0


def _bit_error(image, depth, random, severity):
    file = BytesIO()
    Image.fromarray(to_8_bits(image)).save(file, "JPEG", quality=95, subsampling=0, restart_marker_blocks=8)
    code = np.frombuffer(file.getvalue(), np.uint8).copy()
    scan = file.getvalue().index(b"\xff\xda")  # the start of scan, whose header precedes the coded bits
    start = scan + 2 + int.from_bytes(file.getvalue()[scan + 2 : scan + 4], "big")
    flips = random.random((len(code), 8)) < _BIT_ERRORS[severity - 1]
    flipped = code ^ np.packbits(flips, 1)[:, 0]
    marker = code == 0xFF
    marker[1:] |= marker[:-1].copy()  # a marker's second byte
    allowed = ~marker & (flipped != 0xFF) & (np.arange(len(code)) >= start)
    return np.asarray(Image.open(BytesIO(np.where(allowed, flipped, code).tobytes()))) / 255.0


_BIT_ERRORS = (5e-5, 1.2e-4, 3e-4, 7e-4, 1.5e-3)  # shares of flipped bits, by severity

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
