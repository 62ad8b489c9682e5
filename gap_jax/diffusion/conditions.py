"""Conditions: the images that published ControlNets see of a label, float `[B,H,W,3]` in [0,1]."""

import jax
import jax.numpy as jnp
import numpy as np

from gap_jax.models.torch_modules.host import call_on_host

# ADE20K's colours of its 150 classes, in the order of the SceneParsing challenge: `color150` of its devkit
_ADE20K = """
    787878 b47878 06e6e6 503232 04c803 787850 8c8c8c cc05ff e6e6e6 04fa07
    e005ff ebff07 96053d 787846 08ff33 ff0652 8fff8c ccff04 ff3307 cc4603
    0066c8 3de6fa ff0633 0b66ff ff0747 ff09e0 0907e6 dcdcdc ff095c 7009ff
    08ffd6 07ffe0 ffb806 0aff47 ff290a 07ffff e0ff08 6608ff ff3d06 ffc207
    ff7a08 00ff14 ff0829 ff0599 0633ff eb0cff a09614 00a3ff 8c8c8c fa0a0f
    14ff00 1fff00 ff1f00 ffe000 99ff00 0000ff ff4700 00ebff 00adff 1f00ff
    0bc8c8 ff5200 00fff5 003dff 00ff70 00ff85 ff0000 ffa300 ff6600 c2ff00
    008fff 33ff00 0052ff 00ff29 00ffad 0a00ff adff00 00ff99 ff5c00 ff00ff
    ff00f5 ff0066 ffad00 ff0014 ffb8b8 001fff 00ff3d 0047ff ff00cc 00ffc2
    00ff52 000aff 0070ff 3300ff 00c2ff 007aff 00ffa3 ff9900 00ff0a ff7000
    8fff00 5200ff a3ff00 ffeb00 08b8aa 8500ff 00ff5c b800ff ff001f 00b8ff
    00d6ff ff0070 5cff00 00e0ff 70e0ff 46b8a0 a300ff 9900ff 47ff00 ff00a3
    ffcc00 ff008f 00ffeb 85ff00 ff00eb f500ff ff007a fff500 0abed4 d6ff00
    00ccff 1400ff ffff00 0099ff 0029ff 00ffcc 2900ff 29ff00 ad00ff 00f5ff
    4700ff 7a00ff 00ffb8 005cff b8ff00 0085ff ffd600 19c2c2 66ff00 5c00ff
"""
ADE20K_COLOURS = np.array([list(bytes.fromhex(code)) for code in _ADE20K.split()], np.uint8)
CANNY_LOW, CANNY_HIGH = 100, 200  # the thresholds with which ControlNet's Canny model was trained


def depth_condition(depth: jax.Array, mask: jax.Array) -> jax.Array:
    """Return ControlNet's condition of a depth map, float `[B,H,W,3]`: near is bright, invalid is black.

    `depth` float `[B,H,W,1]` in [0,1]; `mask` boolean `[B,H,W,1]`, True = valid. The condition is 1 - depth,
    min-max normalised to [0,1] over the valid pixels of each image, and 0 elsewhere.
    """
    near = 1 - depth
    low = jnp.min(near, (1, 2, 3), keepdims=True, where=mask, initial=jnp.inf)
    high = jnp.max(near, (1, 2, 3), keepdims=True, where=mask, initial=-jnp.inf)
    scaled = (near - low) / jnp.maximum(high - low, 1e-8)
    return jnp.repeat(jnp.where(mask, scaled, 0.0), 3, -1)


def class_condition(classes: jax.Array, colours: np.ndarray = ADE20K_COLOURS) -> jax.Array:
    """Return ControlNet's condition of a class map: each class in its colour.

    - `classes` int `[B,H,W,1]`: the class of each pixel. A number that has no colour, such as 255 for
      "ignore", is black.
    - `colours` uint8 `[K,3]`: those that the ControlNet was trained with; the default is ADE20K's, for
      `lllyasviel/sd-controlnet-seg`.
    """
    classes = classes[..., 0].astype(jnp.int32)
    table = jnp.asarray(np.concatenate([colours, np.zeros((1, 3), colours.dtype)]), jnp.float32) / 255
    has_colour = (classes >= 0) & (classes < len(colours))
    return table[jnp.where(has_colour, classes, len(colours))]


def normal_condition(normals: jax.Array) -> jax.Array:
    """Return ControlNet's condition of surface normals: (n + 1) / 2, and black where there is none.

    `normals` float `[B,H,W,3]`: unit vectors in the axes that the ControlNet was trained with, or 0 where
    there is none.
    """
    has_normal = jnp.any(normals != 0, -1, keepdims=True)
    return jnp.where(has_normal, (normals + 1) / 2, 0.0)


def canny_condition(images: jax.Array, low: float = CANNY_LOW, high: float = CANNY_HIGH) -> jax.Array:
    """Return the edges of images by Canny's algorithm (1986), in white on black, as OpenCV finds them.

    `images` float `[B,H,W,3]` in [0,1]; `low`, `high`: OpenCV's thresholds. OpenCV runs on the host, also
    inside a compiled program; there is no gradient. Raises the errors of `call_on_host`.
    """
    import cv2

    def edges(images: np.ndarray) -> np.ndarray:
        pixels = np.round(np.clip(np.asarray(images), 0, 1) * 255).astype(np.uint8)
        found = np.stack([cv2.Canny(image, low, high) for image in pixels])
        return np.repeat(found[..., None], 3, -1).astype(np.float32) / 255

    shape = jax.ShapeDtypeStruct(images.shape, jnp.float32)
    return call_on_host(edges, shape, jax.lax.stop_gradient(images))
