"""Griffe extensions for the reference: fields explained by comments, and the signatures of named tuples."""

import ast
import re
from typing import Any

import griffe


class FieldComments(griffe.Extension):
    """Takes the comment behind or above a field as its docstring, as in `--help`, if it has none."""

    def on_attribute_instance(self, *, node: Any, attr: griffe.Attribute, **_: Any) -> None:
        """Read the comment from the source of the class."""
        if attr.docstring or not isinstance(node, ast.AnnAssign) or not isinstance(node.target, ast.Name):
            return
        if not isinstance(attr.parent, griffe.Class):
            return
        assert attr.lineno is not None and attr.endlineno is not None
        lines = attr.lines_collection[attr.filepath]
        behind = re.search(r"  # (.*)$", lines[attr.endlineno - 1])
        above: list[str] = []
        for line in reversed(lines[: attr.lineno - 1]):
            if not line.strip().startswith("# "):
                break
            above.insert(0, line.strip().removeprefix("# "))
        if comment := behind[1] if behind else " ".join(above):
            attr.docstring = griffe.Docstring(comment, parent=attr)


class NamedTuples(griffe.Extension):
    """Gives a named tuple the signature that its fields make, as Griffe itself does for a dataclass."""

    def on_class_members(self, *, cls: griffe.Class, **_: Any) -> None:
        """Add `__init__`, which the page shows as the signature of the class."""
        if "NamedTuple" not in map(str, cls.bases):
            return
        fields = [field for field in cls.members.values() if field.is_attribute and field.annotation]
        parameters = [
            griffe.Parameter(
                field.name,
                annotation=field.annotation,
                kind=griffe.ParameterKind.positional_or_keyword,
                default=field.value,
            )
            for field in fields
        ]
        own = griffe.Parameter("self", kind=griffe.ParameterKind.positional_or_keyword)
        function = griffe.Function("__init__", parameters=griffe.Parameters(own, *parameters))
        cls.set_member("__init__", function)
