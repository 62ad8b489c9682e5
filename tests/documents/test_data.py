"""The names and code blocks of docs/data.md exist in gap_jax."""

import ast
import importlib
import pkgutil
import re
from pathlib import Path

import pytest

DOCUMENT = (Path(__file__).parents[2] / "docs" / "data.md").read_text(encoding="utf-8")
NAMES = sorted(set(re.findall(r"\bgap_jax(?:\.\w+)+", DOCUMENT)))
BLOCKS = re.findall(r"^```python\n(.*?)^```$", DOCUMENT, re.MULTILINE | re.DOTALL)


@pytest.mark.parametrize("name", NAMES)
def test_dotted_names_resolve(name):
    pkgutil.resolve_name(name)


@pytest.mark.parametrize("block", BLOCKS)
def test_imports_of_code_blocks_resolve(block):
    imports = [node for node in ast.walk(ast.parse(block)) if isinstance(node, ast.ImportFrom)]
    assert imports
    for node in imports:
        module = importlib.import_module(node.module)
        for alias in node.names:
            assert hasattr(module, alias.name), f"{node.module} has no {alias.name}"


def test_the_document_has_names_and_code():
    assert len(NAMES) > 5 and len(BLOCKS) > 1
