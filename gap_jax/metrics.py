"""Metrics and pictures of a run: `metrics.jsonl`, a JSON object per line, and TensorBoard's event files."""

import json
import math
from collections.abc import Mapping
from pathlib import Path
from typing import IO, Any

import jax
import jax.numpy as jnp
import numpy as np
from PIL import Image
from tensorboardX import SummaryWriter

from gap_jax.checks import expect_shape
from gap_jax.files import write_whole

_FILE = "metrics.jsonl"


class MetricsWriter:
    """A writer of a run's metrics into `folder`; a context manager.

    - `resume_step`: step of the checkpoint that the run resumes from. Lines of later steps are dropped, so
      that the file becomes that of an uninterrupted run. None: the run is new, and all lines are dropped.

    Only process 0 writes; on others, nothing happens. Raises ValueError if the run resumes from a file that
    is not one of metrics.
    """

    def __init__(self, folder: str | Path, resume_step: int | None = None):
        self._lines: IO[str] | None = None
        if jax.process_index() != 0:
            return
        self._folder = Path(folder)
        path = self._folder / _FILE
        write_whole(path, b"" if resume_step is None else _lines_until(path, resume_step))
        self._lines = path.open("a", encoding="utf-8")
        # tensorboardX names a file by the second: without the suffix it would overwrite one of that second.
        start = 0 if resume_step is None else resume_step + 1
        self._board = SummaryWriter(str(folder), purge_step=start, flush_secs=5, filename_suffix=f".{start}")

    def write(self, step: int, values: Mapping[str, float | jax.Array | np.ndarray]) -> None:
        """Append the line `{"step": step, **values}`, with arrays (a value for each prompt) as lists.

        JSON has no NaN and infinity: they become null. TensorBoard shows the entries of an array as `name/0`,
        `name/1`, …. A jax.Array of several processes must be replicated.

        Raises ValueError for a metric named `step`.
        """
        if self._lines is None:
            return
        if "step" in values:
            raise ValueError(
                "a metric cannot be named 'step', which is the name of the line's step: rename it"
            )
        arrays = {name: _to_numpy(value) for name, value in values.items()}
        line = {"step": int(step)} | {name: _to_json(array.tolist()) for name, array in arrays.items()}
        self._lines.write(json.dumps(line, allow_nan=False) + "\n")
        self._lines.flush()
        for name, array in arrays.items():
            for index, value in np.ndenumerate(array):
                self._board.add_scalar("/".join((name, *map(str, index))), value, int(step))

    def image(self, step: int, name: str, image: jax.Array | np.ndarray) -> None:
        """Save an image, float `[H,W,3]` clipped to [0,1], as `pictures/{name}-{step}.png`.

        TensorBoard shows it, too. Raises ValueError for another shape.
        """
        if self._lines is None:
            return
        image = _to_numpy(image)
        expect_shape(f"image {name!r}", image, (None, None, 3))
        pixels = np.round(np.clip(np.nan_to_num(image), 0, 1) * 255).astype(np.uint8)
        self._board.add_image(name, pixels, int(step), dataformats="HWC")
        path = self._folder / "pictures" / f"{name}-{int(step):06d}.png"
        path.parent.mkdir(exist_ok=True)
        Image.fromarray(pixels).save(path)

    def close(self) -> None:
        """Write what is pending, and close the files."""
        if self._lines is not None:
            self._lines.close()
            self._board.close()
            self._lines = None

    def __enter__(self) -> "MetricsWriter":
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


def _lines_until(path: Path, last_step: int) -> bytes:
    """Return the complete lines of steps up to `last_step`."""
    if not path.exists():
        return b""
    *lines, _ = path.read_bytes().split(b"\n")
    kept = []
    for number, line in enumerate(lines, 1):
        try:
            step = int(json.loads(line)["step"])
        except (ValueError, TypeError, KeyError) as error:
            raise ValueError(
                f"{path}:{number} must be a JSON object with 'step', found {line[:80]!r}: remove the "
                "line, or use another folder"
            ) from error
        if step <= last_step:
            kept.append(line + b"\n")
    return b"".join(kept)


def _to_numpy(value: Any) -> np.ndarray:
    array = np.asarray(value)
    return array.astype(np.float64) if jnp.issubdtype(array.dtype, jnp.floating) else array


def _to_json(value: Any) -> Any:
    if isinstance(value, list):
        return [_to_json(entry) for entry in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value
