"""TFDS without what it adds by itself: progress bars without totals, notices, a folder for downloads."""

import contextlib
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any


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


def write_dataset(builder: Any, files: Path | None = None) -> None:
    """Write the data set of a TFDS builder, unless it is written; `files` is the builder's manual folder."""
    import tensorflow_datasets as tfds

    with hide_progress_bars(), tempfile.TemporaryDirectory() as downloads:  # which TFDS makes in any case
        config = tfds.download.DownloadConfig(manual_dir=files)
        builder.download_and_prepare(download_dir=downloads, download_config=config)
