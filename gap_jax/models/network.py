"""A network as a value: a pure prediction function with its parameters."""

from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import jax

Mask = Callable[[Any], Any]  # from parameters to a tree of bools of the same structure
Training = Callable[[Any, jax.Array, jax.Array], tuple[Any, jax.Array]]  # from parameters, images and keys


class Network(NamedTuple):
    """A prediction function, its parameters, and which of them fine-tuning may change.

    - `predict(params, images)`: a pure function of images, float32 `[B,H,W,3]` in [0,1]. It resizes and
      normalises them as the network needs, and returns what the task's losses take.
    - `params`: a pytree of arrays. They are arguments of compiled programs, never constants in them.
    - `trainable(params)`: a tree of bools, True for each parameter that fine-tuning may change. None means
      all of them.
    - `training(params, images, keys)`: returns the prediction as fine-tuning needs it, and a scalar to add to
      the loss; for a network whose layers work in another way in training, such as batch norm and dropout.
      `keys` `[B]` are random keys, one per image. None: `predict`.
    - `save(params, folder)`: writes the network with these parameters as a folder for other programs. None:
      it cannot be written.
    """

    predict: Callable[[Any, jax.Array], Any]
    params: Any
    trainable: Mask | None = None
    training: Training | None = None
    save: Callable[[Any, Path], None] | None = None
