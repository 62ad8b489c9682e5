"""Switches off TFDS's own progress bars, which know no totals."""

import contextlib
from collections.abc import Iterator


@contextlib.contextmanager
def without_bars() -> Iterator[None]:
    """Without TFDS's progress bars, which know no totals."""
    import tensorflow_datasets as tfds

    tfds.display_progress_bar(False)
    try:
        yield
    finally:
        tfds.display_progress_bar(True)
