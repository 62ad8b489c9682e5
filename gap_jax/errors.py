"""The ends of commands: errors, each printed as one line, and the signals that stop them."""

import os
import signal
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

_INTERRUPTED, _TERMINATED = 130, 143  # exit statuses after Ctrl-C and after SIGTERM


class Terminated(KeyboardInterrupt):
    """SIGTERM, by which SLURM, Kubernetes and preemptible machines announce the end."""


def how_to_install(extra: str) -> str:
    """Return how an extra of gap_jax is installed, to be part of an error message."""
    return f"pip install -e '.[{extra}]' in the checkout of gap_jax installs it"


@contextmanager
def exit_when_stopped() -> Iterator[None]:
    """Exit with status 130 after Ctrl-C and with 143 after SIGTERM, and say how to go on.

    The block sees both as a KeyboardInterrupt, and saves its work. Among several processes, JAX has taken
    SIGTERM, and `parallel.stop_if_preempted` raises it on all of them. Call it after `parallel.initialize`.
    """
    try:
        with _sigterm_raised(), _lost_signals_repeated():
            yield
    except KeyboardInterrupt as stop:
        print("stopped; finished work is kept: run the same command again to continue", file=sys.stderr)
        raise SystemExit(_TERMINATED if isinstance(stop, Terminated) else _INTERRUPTED) from None


@contextmanager
def _sigterm_raised() -> Iterator[None]:
    """Raise `Terminated` in the block at SIGTERM, if this process is alone and this is its main thread."""
    import jax

    def stop(*_: Any) -> None:
        raise Terminated

    if threading.current_thread() is not threading.main_thread() or jax.process_count() > 1:
        yield
        return
    before = signal.signal(signal.SIGTERM, stop)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, before)


@contextmanager
def held_back(hold: bool = True) -> Iterator[None]:
    """Let Ctrl-C and SIGTERM wait until the block ends, because all or none of it must happen.

    Signals that Python does not handle are left alone, and all signals outside of the main thread and with
    `hold` False.
    """
    if not hold or threading.current_thread() is not threading.main_thread():
        yield
        return
    received: list[int] = []
    handlers = {number: signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)}
    handled = {number: handler for number, handler in handlers.items() if callable(handler)}
    for number in handled:
        signal.signal(number, lambda number, frame: received.append(number))
    try:
        yield
    finally:
        for number, handler in handled.items():
            signal.signal(number, handler)
    if received:
        signal.raise_signal(received[0])


@contextmanager
def one_line_errors() -> Iterator[None]:
    """Exit with status 1 and the line `error: …` for an error that the user can correct.

    Ctrl-C, such as while modules are imported, exits with status 130 and no stack trace. Errors of another
    kind, which are faults of the program, keep theirs. If JAX is first imported in the block, XLA's log, such
    as of slow compilation, is off unless TF_CPP_MIN_LOG_LEVEL is set.
    """
    os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
    try:
        yield
    except (ValueError, OSError, ImportError, FloatingPointError) as error:
        raise SystemExit(f"error: {error}") from error
    except MemoryError as error:
        raise SystemExit(f"error: the memory does not suffice. {error}".rstrip()) from error
    except RecursionError as error:
        raise SystemExit("error: a file that was read is nested too deeply") from error
    except KeyboardInterrupt:
        raise SystemExit(_INTERRUPTED) from None


@contextmanager
def _lost_signals_repeated() -> Iterator[None]:
    """Send a signal again whose KeyboardInterrupt Python ignored, as it does while it collects garbage."""
    before = sys.unraisablehook

    def repeat(ignored: Any) -> None:
        if not issubclass(ignored.exc_type, KeyboardInterrupt):
            before(ignored)
            return
        number = signal.SIGTERM if issubclass(ignored.exc_type, Terminated) else signal.SIGINT
        later = threading.Timer(0.05, os.kill, (os.getpid(), number))  # wakes the main thread, too
        later.daemon = True
        later.start()

    sys.unraisablehook = repeat
    try:
        yield
    finally:
        if sys.unraisablehook is repeat:
            sys.unraisablehook = before
