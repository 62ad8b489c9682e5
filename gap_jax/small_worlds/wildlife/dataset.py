"""The wildlife as a TFDS data set: rendered once into ArrayRecord files, read through Grain."""

from collections.abc import Iterator
from functools import partial
from typing import Any, ClassVar

import numpy as np
import tensorflow_datasets as tfds

from gap_jax.data.encoding import png
from gap_jax.small_worlds import wildlife
from gap_jax.small_worlds.in_processes import in_processes


class WildlifeConfig(tfds.core.BuilderConfig):
    """Which kinds of pictures each split has, in turn, what size, how many."""

    def __init__(
        self, *, kinds: dict[str, tuple[wildlife.Kind, ...]], size: int, counts: dict[str, int], **kwargs: Any
    ):
        super().__init__(**kwargs)
        self.kinds, self.size, self.counts = kinds, size, counts


_EVERY = dict.fromkeys(wildlife.SPLITS, (wildlife.Kind(wildlife.EVERY),))
_HELD_OUT = {"validation": 1_000, "test": 1_000}
_FEW = {"train": 126, "validation": 60, "test": 60}  # as many of each kind


class WildlifeDataset(tfds.core.GeneratorBasedBuilder):
    """Features: `image`, `keep` (255 = animal), `label`, `group`, `location`, `hour`, `caption`, three words.

    `label` and `group` are those of `wildlife.LABELS` and `wildlife.group`, `location` the camera's number, 0
    without one. `Wildlife(config="every")` has all words, to train a generator on; `config="waterbirds"` and
    `config="iwildcam"` are the two experiments' pictures; `every_few`, `waterbirds_few` and `iwildcam_few`
    have 126 to train on, to try things out.
    """

    name = "wildlife"
    VERSION = tfds.core.Version("1.0.0")
    BUILDER_CONFIGS: ClassVar = [
        WildlifeConfig(name=name + suffix, kinds=kinds, size=64, counts=counts)
        for name, kinds, train in (
            ("every", _EVERY, 24_000),
            ("waterbirds", wildlife.WATERBIRDS, 2_000),
            ("iwildcam", wildlife.IWILDCAM, 4_500),
        )
        for suffix, counts in (("", {"train": train, **_HELD_OUT}), ("_few", _FEW))
    ]

    def _info(self) -> tfds.core.DatasetInfo:
        shape = (self.builder_config.size, self.builder_config.size)
        words = {axis: tfds.features.ClassLabel(names=names) for axis, names in wildlife.AXES.items()}
        numbers = ("label", "group", "location", "hour")
        features = {
            "image": tfds.features.Image(shape=(*shape, 3), encoding_format="png"),
            "keep": tfds.features.Image(shape=(*shape, 1), encoding_format="png"),
            "caption": tfds.features.Text(),
            **{name: tfds.features.Scalar(np.int32) for name in numbers},
        }
        return self.dataset_info_from_configs(features=tfds.features.FeaturesDict(features | words))

    def _split_generators(self, dl_manager: tfds.download.DownloadManager) -> dict[str, Any]:
        return {split: self._generate_examples(split) for split in wildlife.SPLITS}

    def _generate_examples(self, split: str) -> Iterator[tuple[int, dict[str, Any]]]:
        config = self.builder_config
        make = partial(_examples, wildlife.SPLITS[split], config.kinds[split], config.size)
        return in_processes(make, config.counts[split])


def _examples(seed: int, kinds: tuple, size: int, indices: range) -> list[dict[str, Any]]:
    return [_example(seed, index, kinds[index % len(kinds)], size) for index in indices]


def _example(seed: int, index: int, kind: wildlife.Kind, size: int) -> dict[str, Any]:
    words = wildlife.draw_words(seed, index, kind.allowed)
    rendered = wildlife.render(seed, [index], [words], size, kind.camera)
    return {
        "image": png(rendered.image[0]),
        "keep": png(rendered.keep[0]),
        "label": rendered.label[0],
        "group": wildlife.group(words, kind.camera),
        "location": kind.camera or 0,
        "hour": wildlife.hour(seed, index, words.light),
        "caption": wildlife.caption(words),
        **words._asdict(),
    }
