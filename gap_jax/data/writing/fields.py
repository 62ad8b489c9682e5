"""The fields of a data set, and how each is written: in the JSON object of its example, or in a file.

A field is written in the same way in all examples, which therefore follows from the values of all of them.
"""

from collections.abc import Iterable, Mapping
from io import BytesIO
from typing import Any, Literal, NamedTuple

import numpy as np

from gap_jax.data.encoding import Kind, kind_of, png

Record = Mapping[str, Any]  # an example as generation keeps it: arrays, numbers and strings by field
Form = Literal["json", "png", "png16", "npy"]


class Field(NamedTuple):
    """A field of all examples of a data set.

    - `kind`: as `encoding.kind_of` returns it.
    - `form`: how the field is written: in JSON, or as PNG or NumPy file.
    - `dtype`, `shape`: NumPy's; None is a length that differs between examples.
    - `low`, `high`: the smallest and the largest value of class maps and of integers, 0 for other kinds.
    """

    kind: Kind
    form: Form
    dtype: np.dtype
    shape: tuple[int | None, ...]
    low: float = 0
    high: float = 0

    @property
    def suffix(self) -> str:
        """The suffix of the field's files; empty if it has none."""
        return {"json": "", "png": "png", "png16": "png", "npy": "npy"}[self.form]

    @property
    def is_integer(self) -> bool:
        """True for a single integer per example, such as a class."""
        return self.kind == "value" and self.dtype.kind in "iu"


def describe_fields(records: Iterable[Record]) -> dict[str, Field]:
    """Return the fields of all records; empty if there are none.

    Raises ValueError if records differ in their fields or in a field's kind, and as `encoding.kind_of`.
    """
    fields: dict[str, Field] = {}
    for number, record in enumerate(records):
        if number and record.keys() != fields.keys():
            odd = ", ".join(sorted(record.keys() ^ fields.keys()))
            raise ValueError(f"all examples must have the same fields, but example {number} differs in {odd}")
        for name, value in record.items():
            field = _field(name, np.asarray(value))
            fields[name] = _joined(name, fields[name], field) if number else field
    return fields


def content(field: Field, value: Any) -> bytes:
    """Return the content of a field's file for one example."""
    array = np.asarray(value)
    if field.form == "npy":
        stream = BytesIO()
        np.save(stream, array, allow_pickle=False)
        return stream.getvalue()
    if field.kind == "classes":
        return png(array[..., 0].astype(np.uint16 if field.form == "png16" else np.uint8))
    return png(array)


def in_json(value: Any) -> Any:
    """Return the value of a field that is written in JSON."""
    return np.asarray(value).tolist()


def _field(name: str, array: np.ndarray) -> Field:
    kind = kind_of(name, array)
    low: Any = 0
    high: Any = 0
    form: Form = "png"
    match kind:
        case "classes":
            low, high = array.min(), array.max()
            form = "npy" if low < 0 or high > np.iinfo(np.uint16).max else "png16" if high > 255 else "png"
        case "map":
            form = "npy"
        case "value" | "list":
            is_finite = array.dtype.kind != "f" or np.isfinite(array).all()
            form = "json" if is_finite else "npy"  # JSON has no NaN and no infinity
            if kind == "value" and array.dtype.kind in "iu":
                low = high = array
    dtype = np.dtype(np.str_) if array.dtype.kind == "U" else array.dtype
    return Field(kind, form, dtype, array.shape, np.asarray(low).item(), np.asarray(high).item())


def _joined(name: str, all_before: Field, field: Field) -> Field:
    old, new = ((one.kind, one.dtype, len(one.shape)) for one in (all_before, field))
    if old != new:
        raise ValueError(
            f"the field {name} must be of one kind in all examples, found {all_before.kind} "
            f"({all_before.dtype}) and {field.kind} ({field.dtype}): convert it, or leave it out"
        )
    forms: tuple[Form, ...] = ("json", "png", "png16", "npy")
    return all_before._replace(
        form=max(all_before.form, field.form, key=forms.index),
        shape=tuple(a if a == b else None for a, b in zip(all_before.shape, field.shape, strict=True)),
        low=min(all_before.low, field.low),
        high=max(all_before.high, field.high),
    )
