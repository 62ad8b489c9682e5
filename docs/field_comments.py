"""A Griffe extension: the comment behind or above a field of a class documents it, as in `--help`."""

import ast
import re
from typing import Any

import griffe


class FieldComments(griffe.Extension):
    """Takes a field's comment as its docstring if it has no docstring."""

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
