"""Metrics and pictures of a run: `metrics.jsonl`, a JSON object per line, and TensorBoard's event files."""

import io
import json
import math
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from PIL import Image
from tensorboardX import summary
from tensorboardX.event_file_writer import EventsWriter
from tensorboardX.proto.event_pb2 import Event, SessionLog

from gap_jax.checks import expect_shape
from gap_jax.files import write_whole, writing

_FILE = "metrics.jsonl"


class MetricsWriter:
    """A writer of a run's metrics into `folder`; a context manager.

    - `resume_step`: step of the checkpoint that the run resumes from. Lines of later steps are dropped, so
      that the file becomes that of an uninterrupted run; a line of that step which is written again stays
      one line. None: the run is new, and all lines are dropped.

    Only process 0 writes; on others, nothing happens. All is written at once, so that a full disk raises
    WriteError where it happens. Raises ValueError if the run resumes from a file that is not one of metrics.
    """

    def __init__(self, folder: str | Path, resume_step: int | None = None):
        self._lines: io.FileIO | None = None
        if jax.process_index() != 0:
            return
        self._folder = Path(folder)
        path = self._folder / _FILE
        kept = {} if resume_step is None else _lines_until(path, resume_step)
        write_whole(path, b"".join(kept))
        self._of_resume_step = {line for line, step in kept.items() if step == resume_step}
        start = 0 if resume_step is None else resume_step + 1
        with writing(path):
            self._lines = io.FileIO(path, "a")
            # A file is named by the second: without the suffix it would overwrite one of that second.
            self._events = EventsWriter(str(self._folder / "events"), f".{start}")
            # TensorBoard hides what earlier files have of this step and later ones.
            self._add_event(start, session_log=SessionLog(status=SessionLog.START))

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
        text = json.dumps(line, allow_nan=False).encode() + b"\n"
        with writing(self._folder / _FILE):
            if text not in self._of_resume_step:
                self._lines.write(text)
            for name, array in arrays.items():
                for index, value in np.ndenumerate(array):
                    scalar = summary.scalar("/".join((name, *map(str, index))), value)
                    self._add_event(int(step), summary=scalar)

    def image(self, step: int, name: str, image: jax.Array | np.ndarray) -> None:
        """Save an image, float `[H,W,3]` clipped to [0,1], as `pictures/{name}-{step}.png`.

        TensorBoard shows it, too. Raises ValueError for another shape.
        """
        if self._lines is None:
            return
        image = _to_numpy(image)
        expect_shape(f"image {name!r}", image, (None, None, 3))
        pixels = np.round(np.clip(np.nan_to_num(image), 0, 1) * 255).astype(np.uint8)
        with writing(self._folder / "events"):
            self._add_event(int(step), summary=summary.image(name, pixels, dataformats="HWC"))
        stream = io.BytesIO()
        Image.fromarray(pixels).save(stream, "PNG")
        write_whole(self._folder / "pictures" / f"{name}-{int(step):06d}.png", stream.getvalue())

    def _add_event(self, step: int, **content: Any) -> None:
        self._events.write_event(Event(step=step, wall_time=time.time(), **content))
        self._events.flush()

    def close(self) -> None:
        """Close the files."""
        if self._lines is not None:
            self._lines.close()
            self._lines = None
            with writing(self._folder / "events"):
                self._events.close()

    def __enter__(self) -> "MetricsWriter":
        return self

    def __exit__(self, kind: type[BaseException] | None, *_: object) -> None:
        try:
            self.close()
        except OSError:
            if kind is None:  # else the first error says what is wrong
                raise


def _lines_until(path: Path, last_step: int) -> dict[bytes, int]:
    """Return the complete lines of steps up to `last_step`, in their order, with their steps."""
    if not path.exists():
        return {}
    *lines, _ = path.read_bytes().split(b"\n")
    kept = {}
    for number, line in enumerate(lines, 1):
        try:
            step = int(json.loads(line)["step"])
        except (ValueError, TypeError, KeyError, RecursionError) as error:
            raise ValueError(
                f"{path}:{number} must be a JSON object with 'step', found {line[:80]!r}: remove the "
                "line, or use another folder"
            ) from error
        if step <= last_step:
            kept[line + b"\n"] = step
    return kept


def _to_numpy(value: Any) -> np.ndarray:
    array = np.asarray(value)
    return array.astype(np.float64) if jnp.issubdtype(array.dtype, jnp.floating) else array


def _to_json(value: Any) -> Any:
    if isinstance(value, list):
        return [_to_json(entry) for entry in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value
