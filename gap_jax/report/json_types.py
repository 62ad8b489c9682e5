"""Conversion of nested dataclasses to JSON values and back, checked against the types of their fields.

The types that fields may have: dataclasses, `tuple`, `Mapping` with string keys, `X | None`, `str`, `bool`,
`int`, `float` and `Any`. NaN and infinity, which JSON lacks, are null in JSON; null is read as NaN where a
`float` is declared. Every error names the place, such as `columns[1].severity`.

Neither msgspec nor cattrs does this: msgspec's errors do not name the keys of mappings, and it does not read
null as NaN; cattrs converts values of other types instead of refusing them.
"""

import json
import math
import types
import typing
from collections.abc import Mapping, Sequence
from dataclasses import MISSING, fields, is_dataclass
from typing import Any

import numpy as np

_DESCRIPTIONS = {int: "an integer", str: "a string", bool: "true or false"}


def to_json(value: Any, place: str = "") -> Any:
    """Return a dataclass, mapping, sequence or number as JSON's dicts, lists and scalars.

    Raises ValueError for a value of another type.
    """
    if isinstance(value, np.generic | np.ndarray):
        value = value.tolist()
    if is_dataclass(value):
        value = {field.name: getattr(value, field.name) for field in fields(value)}
    if isinstance(value, Mapping):
        return {str(name): to_json(entry, _join(place, name)) for name, entry in value.items()}
    if isinstance(value, Sequence) and not isinstance(value, str | bytes):
        return [to_json(entry, f"{place}[{i}]") for i, entry in enumerate(value)]
    if isinstance(value, float) and not math.isfinite(value):
        return None
    if value is not None and not isinstance(value, str | int | float):
        kind = type(value).__name__
        raise ValueError(f"{place} is a {kind}, which JSON cannot hold: convert it to a string or a number")
    return value


def from_json(kind: Any, value: Any, place: str = "") -> Any:
    """Return a JSON value as an instance of `kind`, one of the types above.

    Raises ValueError for a value of another type, a missing or unknown field, and an error of a dataclass.
    """
    origin, arguments = typing.get_origin(kind), typing.get_args(kind)
    if kind is Any:
        return value
    if is_dataclass(kind):
        return _to_dataclass(kind, _expect(value, dict, "an object", place), place)
    if origin is types.UnionType:  # X | None
        return None if value is None else from_json(arguments[0], value, place)
    if origin is Mapping:
        entries = _expect(value, dict, "an object", place)
        return {name: from_json(arguments[1], entry, _join(place, name)) for name, entry in entries.items()}
    if origin is tuple:
        entries = _expect(value, list, "a list", place)
        kinds = arguments[:1] * len(entries) if arguments[-1] is Ellipsis else arguments
        if len(kinds) != len(entries):
            raise ValueError(f"{place} must have {len(kinds)} entries, found {len(entries)}")
        pairs = enumerate(zip(kinds, entries, strict=True))
        return tuple(from_json(entry_kind, entry, f"{place}[{i}]") for i, (entry_kind, entry) in pairs)
    if kind is float:
        return math.nan if value is None else float(_expect(value, int | float, "a number or null", place))
    return _expect(value, kind, _DESCRIPTIONS[kind], place)


def _to_dataclass(kind: Any, entries: Mapping[str, Any], place: str) -> Any:
    kinds = typing.get_type_hints(kind)
    required = [field.name for field in fields(kind) if field.default is MISSING]
    for name in entries:
        if name not in kinds:
            raise ValueError(f"{_join(place, name)} is unknown: {kind.__name__} has {', '.join(kinds)}")
    for name in required:
        if name not in entries:
            raise ValueError(f"{_join(place, name)} is missing")
    values = {name: from_json(kinds[name], entry, _join(place, name)) for name, entry in entries.items()}
    try:
        return kind(**values)
    except ValueError as error:
        raise ValueError(_join(place, str(error))) from error


def _expect(value: Any, kind: Any, description: str, place: str) -> Any:
    if not isinstance(value, kind) or (isinstance(value, bool) and kind is not bool):
        raise ValueError(f"{place or 'the whole'} must be {description}, found {json.dumps(value)[:60]}")
    return value


def _join(place: str, name: str) -> str:
    return f"{place}.{name}" if place else name
