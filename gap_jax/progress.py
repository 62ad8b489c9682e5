"""Progress bars that say when something compiles, since that may take minutes."""

from collections.abc import Iterator
from contextlib import contextmanager

from tqdm import tqdm


@contextmanager
def compiling(bar: tqdm, first: bool) -> Iterator[None]:
    """Show beside the bar that the block compiles its programs, if it is the first one that runs them."""
    if first:
        bar.set_postfix_str("compiling")
    yield
    if first:
        bar.set_postfix_str("")
