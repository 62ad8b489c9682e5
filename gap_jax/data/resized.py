"""Examples brought to another size or mirrored, with their maps."""

import numpy as np
from PIL import Image

from gap_jax.data.batch import Example, HostBatch
from gap_jax.data.files import square_array, square_image
from gap_jax.data.loader import Source


class Resized:
    """The examples of a source, all with `size` pixels a side; a `Source`.

    Images are resized without aliasing on 8 bits, as by `python -m gap_jax.data prepare`; all other
    maps `[H,W,C]` by nearest neighbour. Everything of another shape than `[H,W,C]` stays as it is.
    """

    def __init__(self, source: Source, size: int):
        self._source, self._size = source, size

    def __len__(self) -> int:
        return len(self._source)

    def __getitem__(self, index: int) -> Example:
        return {name: self._resized(name, value) for name, value in self._source[index].items()}

    def _resized(self, name: str, value: np.ndarray) -> np.ndarray:
        size, frame = self._size, (self._size, self._size)
        if np.ndim(value) != 3 or value.shape[:2] == frame:
            return value
        if name == "image":
            picture = Image.fromarray(np.round(value * 255).astype(np.uint8))
            return square_image(picture, size, frame) / np.float32(255)
        return np.stack([square_array(channel, size, frame) for channel in np.moveaxis(value, -1, 0)], -1)


def mirrored(batch: HostBatch, rows: np.ndarray) -> dict[str, np.ndarray]:
    """Return a batch in which everything `[H,W,C]` of the rows, bool `[n]`, is mirrored left to right."""
    return {
        name: np.where(rows[:, None, None, None], array[:, :, ::-1], array) if array.ndim == 4 else array
        for name, array in batch.items()
    }
