"""What pretraining is made of: worlds of pictures in words, and one way to train every network."""

import dataclasses
from collections.abc import Callable, Mapping, Sequence
from functools import lru_cache
from pathlib import Path
from typing import Any, NamedTuple

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import optax
import optax.contrib
from scipy.ndimage import zoom

from gap_jax.data.encoding import as_arrays
from gap_jax.data.loader import Batches, Example, Source
from gap_jax.diffusion.pipeline import Pipeline
from gap_jax.models.clip import Clip
from gap_jax.models.tokenizer import Tokenizer, train_tokenizer
from gap_jax.small_worlds.pretrain.recipes import PARTS, Recipe, TrainingPart
from gap_jax.small_worlds.words import Axes
from gap_jax.stages.train import Loss, Params, Probe, train

TOKENS = 32
Random = np.random.Generator
Change = Callable[[np.ndarray, Random], np.ndarray]  # of an image, float `[H,W,3]` in [0,1]
Transform = Callable[[Example, Random], Mapping[str, np.ndarray]]


class SmallWorld(NamedTuple):
    """What tells one world from another.

    - `folder`: the name of what is made.
    - `vocabulary`: words that are to be one token each.
    - `builder(config=…, data_dir=…, file_format=…)`: the TFDS builder, whose config `every` is all of the
      world, and whose examples have `image` and a word for each of `axes`.
    - `caption(words, known)`: words in a sentence, those left out that are not `known`; `said(words)`: how
      probable each is to be known.
    - `controlled`: whether images follow `depth` and `mask`, by a ControlNet.
    - `samples(pipe, frozen, clip, clip_params) -> probe`: of the parameters that a diffusion model is
      trained by, which with `frozen` are all of the pipeline's.
    - `supervised(training, folder)`: trains the world's other models and saves them in `folder`.
    - `probe`: the command that measures them all, `{0}` being their folder.
    """

    folder: str
    vocabulary: str
    builder: Callable[..., Any]
    axes: Axes
    caption: Callable[[Sequence[str], Sequence[bool]], str]
    said: Callable[[Sequence[str]], Sequence[float]]
    controlled: bool
    samples: Callable[[Pipeline, Params, Clip, Params], Probe]
    supervised: Callable[["Training", Path], None]
    probe: str


class Training:
    """What every training of a recipe shares: its world, the data, the tokenizer."""

    def __init__(self, recipe: Recipe, world: SmallWorld):
        self.recipe, self.world = recipe, world
        self.tokenizer, self.vocab_size = train_tokenizer(world.vocabulary.split(), TOKENS)
        self.dtypes = {"dtype": jnp.dtype(recipe.dtype)}
        self.key = jax.random.key(recipe.seed)

    def source(self, config: str, split: str, **options: Any) -> Source:
        """A split of a config, made if it is not there yet; `options` are those of `as_data_source`."""
        builder = self.world.builder(
            config=config + ("_few" if self.recipe.few else ""),
            data_dir=self.recipe.work / "data",
            file_format="array_record",
        )
        builder.download_and_prepare()
        return builder.as_data_source(split, **options)

    def batches(self, source: Source, part: TrainingPart, transform: Transform) -> Batches:
        return Batches(source, transform, size=part.batch, seed=self.recipe.seed)

    def words(self, example: Example) -> tuple[str, ...]:
        """An example's, one for each axis."""
        return tuple(words[example[axis]] for axis, words in self.world.axes.items())

    def caption(self, example: Example, random: Random, silent: float = 0.0) -> str:
        """The example's words as far as they are said, or nothing at all with probability `silent`."""
        if random.random() < silent:
            return ""
        words = self.words(example)
        return self.world.caption(words, random.random(len(words)) < self.world.said(words))

    def tokens(self, caption: str) -> np.ndarray:
        """Token ids, int32 `[TOKENS]`."""
        return _tokens(self.tokenizer, self.vocab_size, caption)

    def train(
        self,
        name: str,
        part: TrainingPart,
        loss: Loss,
        init: Callable[[jax.Array], Params],
        batches: Batches,
        probe: Probe,
        optimizer: Callable[[TrainingPart], optax.GradientTransformation] | None = None,
        frozen: Params = (),
    ) -> Params:
        """`loop.train` of the part `name`, in its folder; `probe` is given parameters on the host."""
        key = jax.random.fold_in(self.key, PARTS.index(name))
        init_key, train_key = jax.random.split(key)
        config = {"seed": self.recipe.seed, "dtype": self.recipe.dtype, "few": self.recipe.few}
        if self.recipe.world != "rooms":  # folders that are older than the second world go on
            config["world"] = self.recipe.world
        return train(
            loss,
            init(init_key),
            (optimizer or rule)(part),
            batches,
            steps=part.steps,
            key=train_key,
            folder=self.recipe.work / name,
            config=config | dataclasses.asdict(part),
            frozen=frozen,
            average=0.999,
            probe=lambda params: probe(jax.device_get(params)),
            probe_every=max(part.steps // 20, 1),
            checkpoint_every=max(part.steps // 40, 1),
        )


def rule(part: TrainingPart) -> optax.GradientTransformation:
    """AdamW, or Muon for all matrices and convolutions and Adam for the rest; gradients clipped to norm 1.

    Muon (Jordan 2024; scaled as Liu et al., arXiv 2502.16982) took less than half of AdamW's steps to the
    same denoising loss here.
    """
    rate = optax.warmup_cosine_decay_schedule(0.0, part.learning_rate, part.steps // 50 + 1, part.steps)
    if part.optimizer == "adamw":
        update = optax.adamw(rate, b2=0.99, weight_decay=1e-3)
    else:
        update = optax.contrib.muon(
            rate,
            consistent_rms=0.2,
            adam_b2=0.99,
            adam_learning_rate=lambda step: 0.4 * rate(step),
            muon_weight_dimension_numbers=_matrices,
        )
    return optax.chain(optax.clip_by_global_norm(1.0), update)


def _matrices(params: Any) -> Any:
    """Which axes of a kernel are its inputs, which its outputs; None for what is no kernel."""
    kinds = {2: ((0,), (1,)), 4: ((0, 1, 2), (3,))}
    return jax.tree.map(
        lambda leaf: optax.contrib.MuonDimensionNumbers(*kinds[leaf.ndim]) if leaf.ndim in kinds else None,
        params,
    )


@lru_cache(maxsize=4096)
def _tokens(tokenizer: Tokenizer, vocab_size: int, caption: str) -> np.ndarray:
    return tokenizer.encode([caption], length=TOKENS, vocab_size=vocab_size)[0]


def init(module: nn.Module) -> Callable[[jax.Array], Params]:
    """`init(key)`: the module's parameters."""
    return lambda key: jax.jit(module.init)(key, *module.example_inputs())["params"]


def half(params: Params) -> Params:
    """float16 on the host, for the files."""
    return jax.tree.map(lambda leaf: np.asarray(leaf, np.float16), params)


def first(source: Source, count: int) -> list[Example]:
    """The first examples, as many as there are."""
    return [source[i] for i in range(min(count, len(source)))]


def image(example: Example) -> np.ndarray:
    """An example's image, float32 `[H,W,3]` in [0,1]."""
    return example["image"].astype(np.float32) / 255


def with_labels(change: Change | None = None) -> Transform:
    """An example's arrays; `change(image, random)` augments its image."""

    def transform(example, random):
        arrays = as_arrays(example)
        return arrays | {"image": change(arrays["image"], random)} if change else arrays

    return transform


def augmented(image: np.ndarray, random: Random) -> np.ndarray:
    """Mildly: brightness, contrast, noise, and blotches as generated images have them."""
    coarse = random.normal(0, random.uniform(0, 0.05), (16, 16, 3)).astype(np.float32)
    image = image + zoom(coarse, (image.shape[0] / 16, image.shape[1] / 16, 1), order=1)
    image = (image - 0.5) * random.uniform(0.9, 1.1) + 0.5 + random.uniform(-0.05, 0.05)
    image += random.normal(0, random.uniform(0, 0.02), image.shape).astype(np.float32)
    return np.clip(image, 0, 1).astype(np.float32)


def grid(*rows: np.ndarray) -> np.ndarray:
    """Images `[n,H,W,3]` of each row side by side, rows below each other."""
    return np.concatenate([np.concatenate(list(np.asarray(row, np.float32)), 1) for row in rows])
