"""The stage that fine-tunes the model under improvement on original and generated data."""

import functools
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import jax
import numpy as np
import optax

from gap_jax.data.batch import Example, HostBatch, Transform
from gap_jax.data.loader import Batches, Source
from gap_jax.models.network import Training
from gap_jax.stages.evaluate import in_steps, to_local_devices
from gap_jax.stages.train import train
from gap_jax.tasks.metric import ImageLoss

Predict = Callable[[Any, jax.Array], Any]


class Mixture:
    """A `Source` of all original and all generated examples, in which the generated ones make up `share`.

    Examples of the part that would be too small are repeated; with a share of None, none are. Without
    generated examples, or with a share of 0, it is the original source. Raises ValueError for a share outside
    [0, 1).
    """

    def __init__(self, original: Source, generated: Source | None, share: float | None):
        if share is not None and not 0 <= share < 1:
            raise ValueError(f"share must be in [0, 1), found {share}")
        self.original: Source = original
        self.generated: Source = () if generated is None else generated
        self._num_original, self._length = len(original), len(original)
        if generated is not None and share is None:
            self._length += len(generated)
        elif generated is not None and share:
            num_generated = max(round(share / (1 - share) * len(original)), len(generated))
            self._num_original = max(round((1 - share) / share * num_generated), len(original))
            self._length = self._num_original + num_generated

    def __len__(self) -> int:
        return self._length

    def __getitem__(self, index: int) -> Example:
        if index < self._num_original:
            return self.original[index % len(self.original)]
        return self.generated[(index - self._num_original) % len(self.generated)]


def finetune(
    predict: Predict,
    params: Any,
    loss: ImageLoss,
    source: Source,
    transform: Transform,
    optimizer: optax.GradientTransformation,
    validation: Mapping[str, HostBatch],
    *,
    steps: int,
    images_per_step: int,
    seed: int,
    folder: str | Path,
    config: Mapping[str, Any],
    training: Training | None = None,
    select: str | None = None,
    probe_every: int = 100,
) -> Any:
    """Fine-tune a model and return the last parameters, or the best ones on the validation set `select`.

    - `predict(params, images)`: the model, with `params` to start from.
    - `loss(prediction, batch) -> [B]`: the loss of each image, given the labels in the batch.
    - `source`: the training examples, often a `Mixture`.
    - `transform(example, random)`: returns `image`, float32 `[H,W,3]` in [0,1], and the labels of an example.
    - `validation`: sets by name, each a batch of any size. Every `probe_every` steps, the mean loss of each
      set is reported, and the mean over the sets as `mean`.
    - `select`: the name of a validation set, or `mean`. None returns the last parameters.
    - `folder`: the folder of the checkpoints and of the metrics.
    - `config`: JSON values that tell this run from others. A folder of another config is refused.
    - `training`: what training uses in place of `predict`; see `Network`.

    If it is started again with the same folder, it continues from the last checkpoint and reaches the same
    result. It runs data-parallel on all devices. Raises ValueError for another config, and FloatingPointError
    after too many updates in a row that are not finite, once the last good state is saved.
    """
    mean_loss, image_losses = _loss_functions(predict, loss, training)

    def probe(params):
        params = to_local_devices(jax.device_get(params))
        losses = {
            name: float(in_steps(image_losses, params, batch).mean()) for name, batch in validation.items()
        }
        return losses | {"mean": float(np.mean(list(losses.values())))}, {}

    return train(
        mean_loss,
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
        select=select,
    )


@functools.cache
def _loss_functions(predict: Predict, loss: ImageLoss, training: Training | None):
    """Return the loss that `train` minimises, and the jitted losses of each image.

    They are cached, so that one model and loss is compiled only once.
    """

    def mean_loss(params, frozen, batch, keys):
        if training is None:
            return loss(predict(params, batch["image"]), batch).mean(), {}
        prediction, extra = training(params, batch["image"], keys)
        return loss(prediction, batch).mean() + extra, {}

    return mean_loss, jax.jit(lambda params, batch: loss(predict(params, batch["image"]), batch))
