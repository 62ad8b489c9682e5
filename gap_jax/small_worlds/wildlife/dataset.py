"""The wildlife as a TFDS data set: rendered once into ArrayRecord files, read through Grain."""

import dataclasses
from collections.abc import Iterator, Mapping, Sequence
from functools import partial
from typing import Any, ClassVar

import numpy as np
import tensorflow_datasets as tfds

from gap_jax.data.encoding import png
from gap_jax.small_worlds import wildlife
from gap_jax.small_worlds.in_processes import make_in_processes

_EVERY = dict.fromkeys(wildlife.SPLITS, (wildlife.Kind(wildlife.EVERY),))
_HELD_OUT = {"validation": 1_000, "test": 1_000}
_FEW = {"train": 126, "validation": 60, "test": 60}  # multiples of the number of kinds


@dataclasses.dataclass(eq=False, kw_only=True)
class WildlifeConfig(tfds.core.BuilderConfig):
    """A choice of kinds of pictures, image size and number of pictures.

    - `kinds`: the kinds of pictures in each split; they take turns.
    - `size`: pixels along a side.
    - `counts`: the number of pictures in each split.
    """

    kinds: Mapping[str, Sequence[wildlife.Kind]]
    size: int
    counts: Mapping[str, int]


class WildlifeDataset(tfds.core.GeneratorBasedBuilder):
    """The TFDS builder of animal pictures.

    Features: `image` uint8 `[S,S,3]`; `keep` uint8 `[S,S,1]`, 255 on the animal; `label`, the animal's number
    in `wildlife.LABELS`; `group`, see `wildlife.group`; `location`, the camera's number, 0 without a camera;
    `hour`, 0 to 23; `caption`; and the words `animal`, `place` and `light`, as class labels.

    The config `every` has pictures of all words, to train a generator on; `waterbirds` and `iwildcam` are the
    pictures of the two experiments. `every_few`, `waterbirds_few` and `iwildcam_few` are small versions to
    try things out, with 126 pictures to train on.
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
        return make_in_processes(make, config.counts[split])


def _examples(seed: int, kinds: Sequence[wildlife.Kind], size: int, indices: range) -> list[dict[str, Any]]:
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
