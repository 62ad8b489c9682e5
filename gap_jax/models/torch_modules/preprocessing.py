"""The way a torch module wants its images: size, mean and deviation, and the order of channels."""

from collections.abc import Mapping
from typing import Any, Literal, NamedTuple

import jax
import jax.numpy as jnp

INTERPOLATIONS = {2: "bilinear", 3: "bicubic"}  # Pillow's numbers, which processors are saved with

NOT_NORMALISING = "MobileViT"  # its processors normalise only if `do_normalize` says so


class Preprocessing(NamedTuple):
    """The way a torch module wants its images.

    - `image_mean`, `image_std`: normalise images in [0,1], one value per channel.
    - `size`: the height and the width that images are resized to, in pixels; None: they are left as they are.
    - `interpolation`: `bilinear` or `bicubic`, with antialiasing, as Pillow resizes.
    - `layout`: `channels_first`, `[B,C,H,W]`, or `channels_last`, `[B,H,W,C]`, of images and predictions.
    - `channel_order`: `rgb` or `bgr`.
    """

    image_mean: tuple[float, ...] = (0.0, 0.0, 0.0)
    image_std: tuple[float, ...] = (1.0, 1.0, 1.0)
    size: tuple[int, int] | None = None
    interpolation: str = "bilinear"
    layout: Literal["channels_first", "channels_last"] = "channels_first"
    channel_order: Literal["rgb", "bgr"] = "rgb"

    @classmethod
    def from_processor(cls, config: Mapping[str, Any]) -> "Preprocessing":
        """Return the preprocessing of a transformers image processor, given its `to_dict()` or its JSON file.

        Whole images are resized to the size that the network sees: there is no central crop, so that labels
        keep their places. Raises ValueError for a processor without a fixed size or with another resampling.
        """
        # a processor multiplies pixels of 0 to 255 by `rescale_factor` before it normalises them
        scale = 255 * (config.get("rescale_factor", 1 / 255) if config.get("do_rescale", True) else 1)
        never = str(config.get("image_processor_type")).startswith(NOT_NORMALISING)
        normalises = config.get("do_normalize", "image_mean" in config and not never)
        mean = config["image_mean"] if normalises else (0.0, 0.0, 0.0)
        std = config["image_std"] if normalises else (1.0, 1.0, 1.0)
        resample = config.get("resample") or 2
        if resample not in INTERPOLATIONS:
            raise ValueError(
                f"the image processor's resample must be 2 (bilinear) or 3 (bicubic), found {resample}: "
                "resize images yourself, in the module"
            )
        return cls(
            tuple(value / scale for value in mean),
            tuple(value / scale for value in std),
            _size(config),
            INTERPOLATIONS[resample],
            channel_order="bgr" if config.get("do_flip_channel_order") else "rgb",
        )

    def to_processor(self) -> dict[str, Any]:
        """Return the configuration of a transformers image processor that does the same."""
        code = next(code for code, name in INTERPOLATIONS.items() if name == self.interpolation)
        config = {
            "image_processor_type": "ViTImageProcessor",  # it resizes and normalises only
            "image_mean": self.image_mean,
            "image_std": self.image_std,
            "do_normalize": True,
            "do_resize": self.size is not None,
            "do_flip_channel_order": self.channel_order == "bgr",
            "resample": code,
        }
        if self.size is not None:
            config["size"] = {"height": self.size[0], "width": self.size[1]}
        return config

    def resize(self, images: jax.Array) -> jax.Array:
        """Return images `[B,H,W,C]` at the size of the module."""
        if self.size is None or images.shape[1:3] == self.size:
            return images
        shape = (len(images), *self.size, images.shape[-1])
        method = "cubic" if self.interpolation == "bicubic" else "linear"
        return jax.image.resize(images, shape, method)

    def normalise(self, images: jax.Array) -> jax.Array:
        """Return images, float `[B,H,W,C]` in [0,1], as the module's input in its layout."""
        images = images if self.channel_order == "rgb" else images[..., ::-1]
        images = (images - jnp.asarray(self.image_mean)) / jnp.asarray(self.image_std)
        return images.transpose(0, 3, 1, 2) if self.layout == "channels_first" else images

    def to_channels_last(self, prediction: jax.Array) -> jax.Array:
        """Return a prediction of one value per pixel and channel as `[B,H,W,C]`, and any other as it is."""
        is_map = prediction.ndim == 4 and self.layout == "channels_first"
        return prediction.transpose(0, 2, 3, 1) if is_map else prediction


def _size(config: Mapping[str, Any]) -> tuple[int, int] | None:
    crops = config.get("do_center_crop") and config.get("crop_size") is not None
    size = config.get("crop_size" if crops else "size")
    if not crops and not config.get("do_resize", True):
        return None
    match size:
        case None:
            return None
        case int():
            return size, size
        case {"height": int(height), "width": int(width)}:
            return height, width
        case {"shortest_edge": int(side)}:
            return side, side
    raise ValueError(
        f"the image processor's size must have height and width, or shortest_edge; found {size}: give the "
        "size yourself"
    )
