"""A switch for what TFDS shows by itself: progress bars without totals, and notices."""

import contextlib
from collections.abc import Iterator


@contextlib.contextmanager
def hide_progress_bars() -> Iterator[None]:
    """Hide TFDS's own progress bars and notices inside a `with` block; errors are shown."""
    import tensorflow_datasets as tfds
    from absl import logging

    verbosity = logging.get_verbosity()
    tfds.display_progress_bar(False)
    logging.set_verbosity(logging.ERROR)
    try:
        yield
    finally:
        tfds.display_progress_bar(True)
        logging.set_verbosity(verbosity)
