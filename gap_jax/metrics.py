"""Numbers and pictures of a run: `metrics.jsonl`, each line a JSON object, and TensorBoard's event files."""

import json
import math
import os
from collections.abc import Mapping
from pathlib import Path
from typing import IO, Any

import jax
import jax.numpy as jnp
import numpy as np
from PIL import Image
from tensorboardX import SummaryWriter

_FILE = "metrics.jsonl"


class MetricsWriter:
    """Writes a run's metrics into `folder`; a context manager.

    - `resume_step`: the step whose checkpoint the run goes on from: what was written for later ones is
      dropped, so that the file becomes the uninterrupted run's. None, the start, drops all.

    Only process 0 writes, elsewhere nothing happens. Raises ValueError for a file that is not ours.
    """

    def __init__(self, folder: str | Path, resume_step: int | None = None):
        self._lines: IO[str] | None = None
        if jax.process_index() != 0:
            return
        self._folder = folder = Path(folder)
        folder.mkdir(parents=True, exist_ok=True)
        start = 0 if resume_step is None else resume_step + 1
        _cut(folder / _FILE, resume_step)
        self._lines = (folder / _FILE).open("a", encoding="utf-8")
        # The suffix: tensorboardX names files by the second, and would overwrite one of the same second.
        self._board = SummaryWriter(str(folder), purge_step=start, flush_secs=5, filename_suffix=f".{start}")

    def write(self, step: int, values: Mapping[str, float | jax.Array | np.ndarray]) -> None:
        """Append `{"step": step, **values}`; an array, as of a population, is a list.

        JSON has no NaN and infinity: they are null there. In TensorBoard, the entries of an array are
        `name/0`, `name/1`, …. A jax array of several processes must be replicated.
        Raises ValueError for a value named `step`.
        """
        if self._lines is None:
            return
        if "step" in values:
            raise ValueError("a metric cannot be named 'step', which each line begins with")
        arrays = {name: _array(value) for name, value in values.items()}
        line = {"step": int(step)} | {name: _json(array.tolist()) for name, array in arrays.items()}
        self._lines.write(json.dumps(line, allow_nan=False) + "\n")
        self._lines.flush()
        for name, array in arrays.items():
            for index, value in np.ndenumerate(array):
                self._board.add_scalar("/".join((name, *map(str, index))), value, int(step))

    def image(self, step: int, name: str, image: jax.Array | np.ndarray) -> None:
        """Keep an image, float `[H,W,3]` in [0,1], what is outside clipped: `pictures/{name}-{step}.png`.

        TensorBoard shows it too.

        Raises ValueError for another shape.
        """
        if self._lines is None:
            return
        image = _array(image)
        if image.ndim != 3 or image.shape[-1] != 3:
            raise ValueError(f"image {name!r} must have shape [H, W, 3], found {list(image.shape)}")
        pixels = np.round(np.clip(np.nan_to_num(image), 0, 1) * 255).astype(np.uint8)
        self._board.add_image(name, pixels, int(step), dataformats="HWC")
        path = self._folder / "pictures" / f"{name}-{int(step):06d}.png"
        path.parent.mkdir(exist_ok=True)
        Image.fromarray(pixels).save(path)

    def close(self) -> None:
        """Write out what is pending."""
        if self._lines is not None:
            self._lines.close()
            self._board.close()
            self._lines = None

    def __enter__(self) -> "MetricsWriter":
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


def read(folder: str | Path) -> list[dict[str, Any]]:
    """What `write` was given, in order; without a last line not (yet) written to its end.

    Raises FileNotFoundError; ValueError naming the line that is no metrics.
    """
    return [content for _, content in _read(Path(folder) / _FILE)]


def _read(path: Path) -> list[tuple[bytes, dict[str, Any]]]:
    """The lines, each with its content."""
    *lines, _ = path.read_bytes().split(b"\n")
    found = []
    for number, line in enumerate(lines, 1):
        try:
            content = json.loads(line)
            int(content["step"])
        except (ValueError, TypeError, KeyError) as error:
            raise ValueError(f"{path}:{number} is not a line of metrics: {line[:80]!r}") from error
        found.append((line, content))
    return found


def _cut(path: Path, last: int | None) -> None:
    """Drop what is after step `last`; all for None. The file is the old one or the new one at any moment."""
    kept = []
    if last is not None and path.exists():
        kept = [line + b"\n" for line, content in _read(path) if content["step"] <= last]
    scratch = path.with_name(f".{path.name}.{os.getpid()}")
    try:
        scratch.write_bytes(b"".join(kept))
        os.replace(scratch, path)
    finally:
        scratch.unlink(missing_ok=True)


def _array(value: Any) -> np.ndarray:
    array = np.asarray(value)
    return array.astype(np.float64) if jnp.issubdtype(array.dtype, jnp.floating) else array


def _json(value: Any) -> Any:
    if isinstance(value, list):
        return [_json(x) for x in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value
