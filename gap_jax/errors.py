"""The errors of commands, each printed as one line."""

from collections.abc import Iterator
from contextlib import contextmanager


@contextmanager
def one_line_errors() -> Iterator[None]:
    """Exit with status 1 and the line `error: …` for an error that the user can correct.

    Errors of another kind, which are faults of the program, keep their stack trace.
    """
    try:
        yield
    except (ValueError, OSError, ImportError, FloatingPointError) as error:
        raise SystemExit(f"error: {error}") from error
    except MemoryError as error:
        raise SystemExit(f"error: the memory does not suffice. {error}".rstrip()) from error
    except RecursionError as error:
        raise SystemExit("error: a file that was read is nested too deeply") from error
