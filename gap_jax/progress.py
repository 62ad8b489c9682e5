"""The progress of stages: bars that say what compiles and how fast it runs, and traces of first steps."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from pathlib import Path

import jax
from tqdm import tqdm

from gap_jax.flops import utilisation

_TRACES: ContextVar[tuple[int, Path] | None] = ContextVar("traces", default=None)


def speed(bar: tqdm, images: int, flops: float | None) -> dict[str, str]:
    """Return the images a second of a bar and, if it is known, the share of the chips' peak, as texts.

    `images` are those of a unit of the bar, and `flops` the operations of each device for them, as
    `flops.flops_to_report` returns them. A bar that is not shown has no rate: the result is empty.
    """
    if bar.disable:
        return {}
    state = bar.format_dict
    rate = state["rate"] or (bar.n - bar.initial) / max(state["elapsed"], 1e-9)
    texts = {"images/s": f"{rate * images:.3g}"}
    if flops is not None and rate:
        share = utilisation(flops, 1 / rate, jax.devices()[0].device_kind)
        texts |= {} if share is None else {"peak FLOP/s": f"{share:.1%}"}
    return texts


@contextmanager
def compiling(bar: tqdm, first: bool) -> Iterator[None]:
    """Show beside the bar that the block compiles its programs, if it is the first one that runs them."""
    if first:
        bar.set_postfix_str("compiling")
    yield
    if first:
        bar.set_postfix_str("")


@contextmanager
def tracing(steps: int, folder: Path) -> Iterator[None]:
    """Trace `steps` steps of each stage that runs in the block, with `jax.profiler`; 0: trace nothing.

    A stage's trace is in `folder / stage`, for TensorBoard's profile plug-in, XProf and Perfetto. Its first
    step, which compiles, is left out.
    """
    token = _TRACES.set((steps, folder) if steps else None)
    try:
        yield
    finally:
        _TRACES.reset(token)


@contextmanager
def traced_steps(stage: str) -> Iterator[Callable[[], None]]:
    """Yield `begin_step()`, which a stage calls at the beginning of each step, so that `tracing` can see it.

    A stage that is in the folder of traces already, such as that of an earlier arm, is not traced again.
    """
    request = _TRACES.get()
    if request is None or (request[1] / stage).exists() or jax.process_index() != 0:
        yield lambda: None
        return
    steps, folder = request
    begun, is_on = 0, False

    def begin_step() -> None:
        nonlocal begun, is_on
        begun += 1
        if begun == 2:
            jax.profiler.start_trace(folder / stage)
            is_on = True
        elif begun == 2 + steps:
            jax.profiler.stop_trace()
            is_on = False

    try:
        yield begin_step
    finally:
        if is_on:
            jax.profiler.stop_trace()
