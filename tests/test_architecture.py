"""The house: imports go downwards, names exist once, files stay small, and public names are explained."""

import ast
import importlib
import inspect
import re
from collections import Counter
from pathlib import Path

import pytest

import gap_jax

ROOT = Path(gap_jax.__file__).parent
FLOORS = (  # from top to bottom: a module imports from its own floor and from those below
    ("planning",),
    ("experiments",),
    ("small_worlds",),
    ("closed_loop",),
    ("report",),
    ("adapt",),
    ("stages",),
    ("tasks",),
    ("prompts",),
    ("weights",),
    ("diffusion",),
    ("models",),
    ("data",),
    (
        "parallel",
        "ownership",
        "checkpoint",
        "metrics",
        "checks",
        "ranges",
        "errors",
        "progress",
        "files",
        "flops",
        "chips",
    ),
)
FLOOR = {name: floor for floor, names in enumerate(FLOORS) for name in names}
MODULES = sorted(path for path in ROOT.rglob("*.py") if path != ROOT / "__init__.py")
TESTS = sorted(Path(__file__).parent.rglob("*.py"))
NAMES = [str(path.relative_to(ROOT)) for path in MODULES]
WEAK_STARTS = set("of what how whose those that whether as by where with from for".split())  # noqa: SIM905
VERBS = set(  # one of which begins a public function's docstring
    """
    add align apply begin build call check choose clean collect combine compile compute convert copy count
    create crop cut decode delete denoise describe download draw drop encode estimate evaluate execute export
    fail feed fill filter find fine-tune finish fit flush fold follow format freeze generate give group hold
    initialise insert iterate join keep label list load make map mark match measure merge mix move name noise
    normalise open optimise pad paste place plan predict prepare print put raise rank read record reduce
    remove rename render repeat replace replicate report require resample resize restore return round run
    sample save score search select send set show shuffle sort split spread stack start stop store sum take
    tell tokenize train transform try tune turn update use validate wait write yield
    """.split()  # noqa: SIM905
)


def imported(path: Path) -> set[str]:
    """The names of modules and objects below `gap_jax` that a file imports, in functions too."""
    names = set()
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            names |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and node.module:
            names |= {f"{node.module}.{alias.name}" for alias in node.names}
    return {name.removeprefix("gap_jax.") for name in names if name.startswith("gap_jax.")}


def definitions(path: Path):
    """Public functions, classes and methods of a file: dotted name and node."""

    def walk(body, prefix):
        for node in body:
            if isinstance(node, ast.FunctionDef | ast.ClassDef) and not node.name.startswith("_"):
                yield f"{prefix}{node.name}", node
                if isinstance(node, ast.ClassDef):
                    yield from walk(node.body, f"{prefix}{node.name}.")

    return list(walk(ast.parse(path.read_text()).body, ""))


@pytest.mark.parametrize("path", MODULES, ids=NAMES)
def test_a_module_imports_only_from_its_own_floor_and_below(path):
    own = FLOOR[path.relative_to(ROOT).parts[0].removesuffix(".py")]
    above = {name for name in imported(path) if FLOOR[name.split(".")[0]] < own}
    assert not above


def test_no_module_imports_itself_by_way_of_others():
    names = {".".join(path.relative_to(ROOT).with_suffix("").parts): path for path in MODULES}
    edges = {
        name: {
            target
            for found in imported(path)
            for target in (found, found.rpartition(".")[0])
            if target in names
        }
        for name, path in names.items()
    }
    done: set[str] = set()

    def visit(name, way):
        assert name not in way, " -> ".join([*way, name])
        if name not in done:
            for target in edges[name] - {name}:
                visit(target, [*way, name])
            done.add(name)

    for name in edges:
        visit(name, [])


def test_every_class_name_exists_once():
    counts = Counter(
        node.name
        for path in MODULES
        for node in ast.walk(ast.parse(path.read_text()))
        if isinstance(node, ast.ClassDef)
    )
    assert [name for name, count in counts.items() if count > 1] == []


def test_files_and_folders_are_small():
    files = [*MODULES, *TESTS]
    assert [str(path) for path in files if len(path.read_text().splitlines()) > 400] == []
    folders = Counter(path.parent for path in files if path.name != "__init__.py")
    assert [str(folder) for folder, count in folders.items() if count > 15] == []


@pytest.mark.parametrize("path", MODULES, ids=NAMES)
def test_docstrings_begin_with_a_verb_or_name_the_thing(path):
    text = ast.get_docstring(ast.parse(path.read_text()))
    documented = [("module", text)] if text or path.name != "__init__.py" else []
    for name, node in definitions(path):
        first = ast.get_docstring(node)
        optional = name.count(".") or (isinstance(node, ast.ClassDef) and node.name.startswith("_"))
        if first or not optional:
            documented.append((name, first))
    problems = []
    for name, first in documented:
        words = re.findall(r"[\w-]+", first or "")
        if not words:
            problems.append(f"{name} has no docstring")
        elif words[0].lower() in WEAK_STARTS:
            problems.append(f"{name} begins with {words[0]!r}")
    assert problems == []


def public():
    """Every public name with its object, and the public methods of public classes."""
    for name in gap_jax.__all__:
        value = getattr(gap_jax, name)
        yield name, value
        if inspect.isclass(value):
            for attribute, member in vars(value).items():
                plain = inspect.isfunction(member) or isinstance(member, property)
                if plain and not attribute.startswith("_") and value.__module__.startswith("gap_jax"):
                    yield f"{name}.{attribute}", member


@pytest.mark.parametrize(("name", "value"), list(public()), ids=[name for name, _ in public()])
def test_public_names_are_explained(name, value):
    text = inspect.getdoc(value)
    assert text and not text.startswith(f"{name}("), (
        name
    )  # dataclasses and tuples get a signature by themselves
    first = re.findall(r"[\w-]+", text)[0].lower()
    if inspect.isfunction(value):
        assert first in VERBS, f"{name} must begin with a verb, found {first!r}"
    else:
        assert first not in WEAK_STARTS, f"{name} must name the thing, found {first!r}"


def test_public_names_are_where_the_package_says():
    for name in gap_jax.__all__:
        assert getattr(gap_jax, name) is getattr(importlib.import_module("gap_jax"), name)
    assert set(gap_jax.__all__) <= set(dir(gap_jax))
    with pytest.raises(AttributeError, match="has no attribute 'nothing'"):
        _ = gap_jax.nothing
