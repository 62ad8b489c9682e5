"""The rooms as a TFDS data set: rendered once into ArrayRecord files, read through Grain."""

import dataclasses
from collections.abc import Iterator, Mapping, Sequence
from functools import partial
from typing import Any, ClassVar

import numpy as np
import tensorflow_datasets as tfds

from gap_jax.data.encoding import png
from gap_jax.small_worlds import rooms
from gap_jax.small_worlds.in_processes import make_in_processes

_COUNTS = {"train": 24_000, "validation": 1_000, "test": 1_000}
_FEW = {"train": 128, "validation": 64, "test": 64}


@dataclasses.dataclass(eq=False, kw_only=True)
class RoomsConfig(tfds.core.BuilderConfig):
    """A choice of styles, image size and number of rooms.

    - `allowed`: the words of each axis that styles are drawn from.
    - `size`: pixels along a side.
    - `counts`: the number of rooms in each split.
    """

    allowed: Mapping[str, Sequence[str]]
    size: int
    counts: Mapping[str, int]


class RoomsDataset(tfds.core.GeneratorBasedBuilder):
    """The TFDS builder of rooms.

    Features: `image` uint8 `[S,S,3]`; `depth` uint16 `[S,S,1]`, depth × 65535; `mask` uint8 `[S,S,1]`, 255
    where depth is valid; `caption`; and the style's words `colour`, `light`, `air` and `camera`, as class
    labels.

    The config `every` has all styles, `narrow` those that the supervised model is trained on. `every_few` and
    `narrow_few` are small versions to try things out, with 128 rooms to train on.
    """

    name = "rooms"
    VERSION = tfds.core.Version("2.0.0")
    BUILDER_CONFIGS: ClassVar = [
        RoomsConfig(name="every", allowed=rooms.EVERY, size=64, counts=_COUNTS),
        RoomsConfig(name="narrow", allowed=rooms.NARROW, size=64, counts=_COUNTS | {"train": 8_000}),
        RoomsConfig(name="every_few", allowed=rooms.EVERY, size=64, counts=_FEW),
        RoomsConfig(name="narrow_few", allowed=rooms.NARROW, size=64, counts=_FEW),
    ]

    def _info(self) -> tfds.core.DatasetInfo:
        shape = (self.builder_config.size, self.builder_config.size)
        words = {axis: tfds.features.ClassLabel(names=names) for axis, names in rooms.AXES.items()}
        features = {
            "image": tfds.features.Image(shape=(*shape, 3), encoding_format="png"),
            "depth": tfds.features.Image(shape=(*shape, 1), dtype=np.uint16, encoding_format="png"),
            "mask": tfds.features.Image(shape=(*shape, 1), encoding_format="png"),
            "caption": tfds.features.Text(),
        }
        return self.dataset_info_from_configs(features=tfds.features.FeaturesDict(features | words))

    def _split_generators(self, dl_manager: tfds.download.DownloadManager) -> dict[str, Any]:
        return {split: self._generate_examples(split) for split in rooms.SPLITS}

    def _generate_examples(self, split: str) -> Iterator[tuple[int, dict[str, Any]]]:
        config = self.builder_config
        make = partial(_examples, rooms.SPLITS[split], config.allowed, config.size)
        return make_in_processes(make, config.counts[split])


def _examples(
    seed: int, allowed: Mapping[str, Sequence[str]], size: int, indices: range
) -> list[dict[str, Any]]:
    rendered = rooms.render(seed, indices, [rooms.draw_style(seed, i, allowed) for i in indices], size)
    return [
        {
            "image": png(rendered.image[i]),
            "depth": png(rendered.depth[i]),
            "mask": png(rendered.mask[i]),
            "caption": rooms.caption(style),
            **style._asdict(),
        }
        for i, style in enumerate(rendered.styles)
    ]
