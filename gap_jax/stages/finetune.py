"""The stage that fine-tunes the model under improvement, on original and generated data."""

import functools
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import jax
import numpy as np
import optax

from gap_jax.data.loader import Batches, Example, Source
from gap_jax.stages.evaluate import in_steps
from gap_jax.stages.train import train

Arrays = Mapping[str, np.ndarray]
Predict = Callable[[Any, jax.Array], Any]


class Mixture:
    """Original and generated examples, of each all, and as often as makes the latter `share`; a `Source`.

    Without generated ones it is the original. Raises ValueError for a share outside [0, 1).
    """

    def __init__(self, original: Source, generated: Source | None, share: float):
        if not 0 <= share < 1:
            raise ValueError(f"share must be in [0, 1), found {share}")
        self.original, self.generated = original, generated
        self._originals, self._length = len(original), len(original)
        if generated is not None and share:
            added = max(round(share / (1 - share) * len(original)), len(generated))
            self._originals = max(round((1 - share) / share * added), len(original))
            self._length = self._originals + added

    def __len__(self) -> int:
        return self._length

    def __getitem__(self, index: int) -> Example:
        if index < self._originals:
            return self.original[index % len(self.original)]
        return self.generated[(index - self._originals) % len(self.generated)]


def finetune(
    predict: Predict,
    params: Any,
    loss: Callable[[Any, Arrays], jax.Array],
    source: Source,
    transform: Callable[[Example, np.random.Generator], Arrays],
    optimizer: optax.GradientTransformation,
    validation: Mapping[str, Arrays],
    *,
    steps: int,
    images_per_step: int,
    seed: int,
    folder: str | Path,
    config: Mapping[str, Any],
    select: str | None = None,
    probe_every: int = 100,
) -> Any:
    """Fine-tune and return the parameters of the last step, or those that were best on the set `select`.

    - `predict(params, images)`; `loss(prediction, batch) -> [B]`, which the batch's labels go into.
    - `source`, often a `Mixture`, and `transform`, which makes of an example `image` float `[H,W,3]` in
      [0,1] and its labels.
    - `validation`: sets by name, each arrays of equal first axes; their mean losses, and as
      `mean` the mean of these, are reported every `probe_every` steps.

    Resumable, data-parallel over all devices; raises as `train`.
    """
    objective, measure = _programs(predict, loss)

    def probe(params):
        params = jax.device_get(params)
        losses = {name: float(in_steps(measure, params, batch).mean()) for name, batch in validation.items()}
        return losses | {"mean": float(np.mean(list(losses.values())))}, {}

    return train(
        objective,
        params,
        optimizer,
        Batches(source, transform, size=images_per_step, seed=seed),
        steps=steps,
        key=jax.random.key(seed),
        folder=folder,
        config=config,
        probe=probe,
        probe_every=probe_every,
        checkpoint_every=probe_every,
        best=select,
    )


@functools.cache
def _programs(predict: Predict, loss: Callable[[Any, Arrays], jax.Array]):
    """The training's objective and each image's loss, the same functions for the same model and loss."""

    def objective(params, frozen, batch, keys):
        return loss(predict(params, batch["image"]), batch).mean(), {}

    return objective, jax.jit(lambda params, batch: loss(predict(params, batch["image"]), batch))
