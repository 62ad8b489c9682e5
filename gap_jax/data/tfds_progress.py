"""A switch for the progress bars of TFDS, which show no totals."""

import contextlib
from collections.abc import Iterator


@contextlib.contextmanager
def hide_progress_bars() -> Iterator[None]:
    """Hide TFDS's own progress bars inside a `with` block."""
    import tensorflow_datasets as tfds

    tfds.display_progress_bar(False)
    try:
        yield
    finally:
        tfds.display_progress_bar(True)
