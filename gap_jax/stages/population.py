"""The images of all prompts of a population, spread over the mapped axes of a program."""

from typing import NamedTuple

import jax


class Population(NamedTuple):
    """The mapped axes over which the images of a population are spread.

    - `batch_axis`: the axis over which each prompt's batch is spread; None: it is on one device.
    - `prompt_axes`: the axes over which prompts are spread, outermost first; empty: there is one prompt.
    - `prompts`: the number of prompts, without the copies that come after them; None: there are no copies.
    """

    batch_axis: str | None
    prompt_axes: tuple[str, ...] = ()
    prompts: int | None = None

    def gather(self, features: jax.Array) -> jax.Array:
        """Return features `[P,N,D]` of all N images of all P prompts, from those of this program, `[B,D]`.

        Every program along the axes must call it.
        """
        if self.batch_axis is not None:
            features = jax.lax.all_gather(features, self.batch_axis, tiled=True)
        features = features[None]
        for axis in reversed(self.prompt_axes):
            features = jax.lax.all_gather(features, axis, tiled=True)
        return features[: self.prompts]

    def replace(self, features: jax.Array, own: jax.Array, number: int | jax.Array) -> jax.Array:
        """Return gathered `features` `[P,N,D]` with `own` `[B,D]` as this program's micro-batch `number`.

        A copy of the last prompt takes that prompt's place.
        """
        prompt: int | jax.Array = 0
        for axis in self.prompt_axes:
            prompt = prompt * jax.lax.axis_size(axis) + jax.lax.axis_index(axis)
        row = number * len(own)
        if self.batch_axis is not None:
            row += (
                jax.lax.axis_index(self.batch_axis) * features.shape[1] // jax.lax.axis_size(self.batch_axis)
            )
        return jax.lax.dynamic_update_slice(features, own[None], (prompt, row, 0))
