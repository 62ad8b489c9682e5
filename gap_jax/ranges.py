"""Ranges of settings: part of a field's type, and checked before anything runs.

    @dataclasses.dataclass
    class Training:
        steps: Annotated[int, at_least(1)] = 100
        targets: Annotated[tuple[str, ...], DISTINCT] = ()

A range is metadata of `typing.Annotated`: type checkers and command lines see the plain type.
"""

import dataclasses
import functools
import inspect
import math
import re
import types
import typing
from collections.abc import Callable, Collection, Iterator
from typing import Annotated, Any, NamedTuple, TypeVar, get_args, get_origin

_Function = TypeVar("_Function", bound=Callable[..., Any])

_RESERVED = re.compile(r"(con|prn|aux|nul|com\d|lpt\d)(\..*)?", re.IGNORECASE)  # names of devices on Windows
_LONGEST_NAME = 200  # bytes; file systems allow 255, and an ending is added
_UNSAFE = re.compile(r"[\x00-\x1f\x7f/\\]|^[. ]|[. ]$")


class Range(NamedTuple):
    """The values that are allowed: `holds(value)` is True for them, and `text` ends "must be"."""

    text: str
    holds: Callable[[Any], bool]


def at_least(low: float) -> Range:
    """Return the range of finite numbers from `low` on."""
    return Range(f"{low:g} or more", lambda value: low <= value < math.inf)


def above(low: float, high: float | None = None) -> Range:
    """Return the range of finite numbers above `low`, up to `high`, which is included; None: all of them."""
    if high is None:
        return Range(f"above {low:g}", lambda value: low < value < math.inf)
    return Range(f"above {low:g} and at most {high:g}", lambda value: low < value <= high)


def between(low: float, high: float) -> Range:
    """Return the range of numbers from `low` to `high`, both included."""
    return Range(f"between {low:.10g} and {high:.10g}", lambda value: low <= value <= high)


def below(low: float, high: float) -> Range:
    """Return the range of numbers from `low` to `high`, of which `high` is not included."""
    return Range(f"{low:g} or more and below {high:g}", lambda value: low <= value < high)


def one_of(names: Collection[str]) -> Range:
    """Return the range of these names."""
    return Range(f"one of {', '.join(names)}", lambda value: value in names)


def is_file_name(name: str) -> bool:
    """Return True if a file or folder can have this name on any system and in any folder."""
    unsafe = _UNSAFE.search(name) or _RESERVED.fullmatch(name)
    return 0 < len(name.encode(errors="replace")) <= _LONGEST_NAME and not unsafe


_PLAIN: dict[type, tuple[tuple[type, ...], str]] = {  # the types of each kind of value, and its name
    bool: ((bool,), "True or False"),
    int: ((int,), "a whole number"),
    float: ((int, float), "a number"),
    str: ((str,), "a text"),
}

FINITE = Range("a finite number", math.isfinite)
TEXT = Range("a text that is not empty", lambda value: bool(value.strip()) and "\0" not in value)
ANY_TEXT = Range("a text without line breaks", lambda value: value.isprintable())
NOT_EMPTY = Range("one or more values", lambda values: len(values) > 0)
DISTINCT = Range("different values", lambda values: len(set(values)) == len(values))
INCREASING = Range("two numbers, the first below the second", lambda pair: pair[0] < pair[1])
FILE_NAME = Range(
    "the name of a file or folder: without slashes and control characters, not beginning or ending with a "
    f"dot or space, not reserved by a system, at most {_LONGEST_NAME} bytes",
    is_file_name,
)

Count = Annotated[int, at_least(1)]
CountOrZero = Annotated[int, at_least(0)]
Positive = Annotated[float, above(0)]
NotNegative = Annotated[float, at_least(0)]
Share = Annotated[float, between(0, 1)]
Seed = Annotated[int, between(0, 2**32 - 1)]
DenoisingSteps = Annotated[int, between(1, 1000)]  # Stable Diffusion is trained on 1000
Text = Annotated[str, TEXT]
FileName = Annotated[str, FILE_NAME]


def check_ranges(settings: Any, prefix: str = "") -> None:
    """Check the values of a dataclass, and of the dataclasses in it, against the ranges of its fields.

    Raises ValueError naming the first field that is outside, after `prefix`, with its range and its value.
    """
    for fault in _faults(type(settings), settings, prefix):
        raise ValueError(fault)


def with_ranges(function: _Function) -> _Function:
    """Return the function with a check of its arguments, as by `check_ranges`, before anything else."""
    hints, signature = typing.get_type_hints(function, include_extras=True), inspect.signature(function)

    @functools.wraps(function)
    def call(*args: Any, **kwargs: Any) -> Any:
        for name, value in signature.bind(*args, **kwargs).arguments.items():
            for fault in _faults(hints[name], value, name):
                raise ValueError(fault)
        return function(*args, **kwargs)

    return typing.cast(_Function, call)


def _faults(kind: Any, value: Any, name: str) -> Iterator[str]:
    """Yield what is wrong with a value of a type, which may be made of other types."""
    origin, parts = get_origin(kind), get_args(kind)
    if origin is Annotated:
        yield from _faults(parts[0], value, name)
        ranges = [part for part in parts[1:] if isinstance(part, Range)]
        yield from (_fault(name, each.text, value) for each in ranges if not each.holds(value))
    elif origin in (typing.Union, types.UnionType):
        if value is not None:
            options = [part for part in parts if part is not types.NoneType]
            yield from _faults(options[0] if len(options) == 1 else type(value), value, name)
    elif origin is tuple and not isinstance(value, tuple | list):
        yield _fault(name, "several values", value)
    elif origin is tuple:
        items = [parts[0]] * len(value) if parts[1:] == (...,) else parts
        for item, entry in zip(items, value, strict=True):
            yield from _faults(item, entry, name)
    elif origin is dict:
        for key, entry in value.items():
            yield from _faults(parts[0], key, name)
            yield from _faults(parts[1], entry, f"{name}.{key}")
    elif dataclasses.is_dataclass(kind):
        hints = typing.get_type_hints(kind, include_extras=True)
        for field in dataclasses.fields(kind):
            path = f"{name}.{field.name}" if name else field.name
            yield from _faults(hints[field.name], getattr(value, field.name), path)
    elif origin is typing.Literal:
        if value not in parts:
            yield _fault(name, one_of(parts).text, value)
    elif kind in _PLAIN:
        allowed, text = _PLAIN[kind]
        if not isinstance(value, allowed) or (isinstance(value, bool) and kind is not bool):
            yield _fault(name, text, value)


def _fault(name: str, text: str, value: Any) -> str:
    shown = " ".join(map(str, value)) or "none" if isinstance(value, tuple) else repr(value)
    return f"{name} must be {text}; found {shown}"
