"""A switch for the progress bars of TFDS, which show no totals, and for its warnings of usual things."""

import contextlib
from collections.abc import Iterator


@contextlib.contextmanager
def hide_progress_bars() -> Iterator[None]:
    """Hide TFDS's own progress bars, and what it logs below errors, inside a `with` block."""
    import tensorflow_datasets as tfds
    from absl import logging

    level = logging.get_verbosity()
    logging.set_verbosity(logging.ERROR)
    tfds.display_progress_bar(False)
    try:
        yield
    finally:
        tfds.display_progress_bar(True)
        logging.set_verbosity(level)
