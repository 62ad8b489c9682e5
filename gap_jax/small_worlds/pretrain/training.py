"""The training of a small world's networks: what worlds differ in, and one way to train every network."""

import dataclasses
from collections.abc import Callable, Mapping, Sequence
from functools import lru_cache
from pathlib import Path
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import optax
import optax.contrib

from gap_jax.data.batch import Example, Transform
from gap_jax.data.loader import Batches, Source
from gap_jax.diffusion.align import Condition
from gap_jax.diffusion.pipeline import Pipeline
from gap_jax.models.clip import Clip
from gap_jax.models.tokenizer import Tokenizer, train_tokenizer
from gap_jax.small_worlds.pretrain.examples import Random
from gap_jax.small_worlds.pretrain.recipes import PARTS, Recipe, TrainingPart
from gap_jax.small_worlds.words import Axes
from gap_jax.stages.train import Loss, Params, Probe, train

TOKENS = 32  # length of captions
FEW_PROBED = 8  # a recipe with few pictures divides the pictures of its probes by this


@dataclasses.dataclass(frozen=True, kw_only=True)
class SmallWorld:
    """The differences between one small world and another.

    - `folder`: the name of the folder that the models are written to.
    - `vocabulary`: the words that become one token each.
    - `make_builder(config, data_dir)`: returns the TFDS builder. Its config `every` has pictures of all
      words; an example has `image` and, for each of `axes`, its word's number.
    - `caption(words, known)`: returns a caption of the words whose `known` is True.
    - `known_probabilities(words)`: returns how probable it is that a caption names each of the words.
    - `latent_channels`: the number of values of a latent, which stands for 4 × 4 pixels.
    - `condition(batch)`: returns what the ControlNet sees of a batch; None if the world has no ControlNet.
    - `sample_probe(pipe, frozen, clip, clip_params, count)`: returns a probe that generates `count` images.
      The probe is given the trained parameters; with `frozen`, they are all of the pipeline's.
    - `train_supervised(training, folder)`: trains the world's other models and saves them in `folder`.
    - `probe_command`: the command that measures all models, with `{0}` for their folder.
    """

    folder: str
    vocabulary: str
    make_builder: Callable[[str, Path], Any]
    axes: Axes
    caption: Callable[[Sequence[str], Sequence[bool]], str]
    known_probabilities: Callable[[Sequence[str]], Sequence[float] | np.ndarray]
    latent_channels: int
    condition: Condition | None
    sample_probe: Callable[[Pipeline, Params, Clip, Params, int], Probe]
    train_supervised: Callable[["Training", Path], None]
    probe_command: str


class Training:
    """The things that all trainings of a recipe share: the world, its data and its tokenizer."""

    def __init__(self, recipe: Recipe, world: SmallWorld):
        self.recipe, self.world = recipe, world
        self.tokenizer, self.vocab_size = train_tokenizer(world.vocabulary.split(), TOKENS)
        self.dtypes: dict[str, Any] = {"dtype": jnp.dtype(recipe.dtype)}
        self.key = jax.random.key(recipe.seed)

    def source(self, config: str, split: str, decoders: Mapping[str, Any] | None = None) -> Source:
        """Return a split of a data set's config, rendered first if its files are missing.

        `decoders` are those of TFDS's `as_data_source`.
        """
        builder = self.world.make_builder(
            config + ("_few" if self.recipe.few else ""), self.recipe.work / "data"
        )
        builder.download_and_prepare()
        return builder.as_data_source(split, decoders=decoders)

    def batches(self, source: Source, part: TrainingPart, transform: Transform) -> Batches:
        """Return the batches of a part of the recipe."""
        return Batches(source, transform, size=part.batch, seed=self.recipe.seed)

    def num_probed(self, count: int) -> int:
        """Return the number of pictures that a probe uses: `count`, or an eighth in a recipe with `few`."""
        return count // FEW_PROBED if self.recipe.few else count

    def words(self, example: Example) -> tuple[str, ...]:
        """Return the words of an example, one for each axis."""
        return tuple(words[example[axis]] for axis, words in self.world.axes.items())

    def caption(self, example: Example, random: Random, empty: float = 0.0) -> str:
        """Draw a caption of some of the example's words, or the empty one with probability `empty`."""
        if random.random() < empty:
            return ""
        words = self.words(example)
        known = random.random(len(words)) < self.world.known_probabilities(words)
        return self.world.caption(words, known.tolist())

    def tokens(self, caption: str) -> np.ndarray:
        """Return the token ids of a caption, int32 `[TOKENS]`."""
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
        average: float | None = 0.999,
    ) -> Params:
        """Train the part `name` of the recipe in its own folder, by `gap_jax.stages.train`.

        `init(key)` returns the first parameters, `probe` is given parameters on the host, and
        `optimizer(part)` is `make_optimizer` by default. Returns the moving average of the parameters with
        the decay `average`, or the parameters of the last step if it is None.
        """
        key = jax.random.fold_in(self.key, PARTS.index(name))
        init_key, train_key = jax.random.split(key)
        config = {"seed": self.recipe.seed, "dtype": self.recipe.dtype, "few": self.recipe.few}
        if self.recipe.world != "rooms":  # folders from before there was a second world stay valid
            config["world"] = self.recipe.world
        return train(
            loss,
            init(init_key),
            (optimizer or make_optimizer)(part),
            batches,
            steps=part.steps,
            key=train_key,
            folder=self.recipe.work / name,
            config=config | dataclasses.asdict(part),
            frozen=frozen,
            average=average,
            probe=lambda params: probe(jax.device_get(params)),
            probe_every=max(part.steps // 20, 1),
            checkpoint_every=max(part.steps // 40, 1),
        )


def make_optimizer(part: TrainingPart) -> optax.GradientTransformation:
    """Return AdamW, or Muon for matrices and convolutions with Adam for other parameters.

    Gradients are clipped to norm 1. Muon (Jordan 2024; scaled as in Liu et al., arXiv 2502.16982) took less
    than half of AdamW's steps to the same denoising loss here.
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
            muon_weight_dimension_numbers=_matrix_axes,
        )
    return optax.chain(optax.clip_by_global_norm(1.0), update)


def _matrix_axes(params: Any) -> Any:
    """Return which axes of each kernel are its inputs and its outputs; None for other parameters."""
    axes = {2: ((0,), (1,)), 4: ((0, 1, 2), (3,))}
    return jax.tree.map(
        lambda leaf: optax.contrib.MuonDimensionNumbers(*axes[leaf.ndim]) if leaf.ndim in axes else None,
        params,
    )


@lru_cache(maxsize=4096)
def _tokens(tokenizer: Tokenizer, vocab_size: int, caption: str) -> np.ndarray:
    return tokenizer.encode([caption], length=TOKENS, vocab_size=vocab_size)[0]


def initialiser(module: nn.Module) -> Callable[[jax.Array], Params]:
    """Return `init(key)`, which draws the module's parameters."""
    return lambda key: jax.jit(module.init)(key, *module.example_inputs())["params"]


def to_float16(params: Params) -> Params:
    """Return parameters as float16 on the host, the form in which they are saved."""
    return jax.tree.map(lambda leaf: np.asarray(leaf, np.float16), params)
