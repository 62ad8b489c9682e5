"""The documents of this repository, read for tests: their code blocks, commands and links."""

import re
import shlex
from pathlib import Path
from typing import Any

ROOT = Path(__file__).parents[2]
DOCUMENTS = sorted(
    [
        *ROOT.glob("*.md"),
        *(ROOT / "experiments").glob("*.md"),
        *(ROOT / "docs").rglob("*.md"),
        *(ROOT / "gap_jax" / "assets").glob("*/README.md"),
    ]
)
NOTEBOOKS = sorted((ROOT / "docs" / "notebooks").glob("*.ipynb"))
IDS = [str(path.relative_to(ROOT)) for path in DOCUMENTS]


def read(path: Path) -> str:
    """Return a document's text."""
    return path.read_text(encoding="utf-8")


def code_blocks(path: Path, language: str = "python") -> list[str]:
    """Return the code blocks of a language, each below as many empty lines as there are lines above it.

    Line numbers in tracebacks are therefore those of the document.
    """
    text = read(path)
    blocks = re.finditer(rf"^```{language}\n(.*?)^```$", text, re.MULTILINE | re.DOTALL)
    return ["\n" * text.count("\n", 0, block.start(1)) + block[1] for block in blocks]


def run_block(path: Path, code: str, names: dict[str, Any]) -> dict[str, Any]:
    """Execute a code block with these names, and return them with those that it defines."""
    exec(compile(code, str(path.relative_to(ROOT)), "exec"), names)
    return names


def commands(path: Path) -> list[list[str]]:
    """Return the words of every shell command in a document's code blocks; continued lines are joined."""
    lines = "\n".join(code_blocks(path, "sh")).replace("\\\n", " ").splitlines()
    return [words for words in (shlex.split(line, comments=True) for line in lines) if words]


def local_links(path: Path) -> list[str]:
    """Return a document's links to files of this repository, each perhaps with an anchor."""
    return [link for link in re.findall(r"\]\(([^)]+)\)", read(path)) if not re.match(r"https?://", link)]


def anchors(path: Path) -> set[str]:
    """Return the anchors that GitHub gives to a document's headings."""
    headings = re.findall(r"^#+ (.+)$", re.sub(r"^```.*?^```$", "", read(path), flags=re.M | re.S), re.M)
    return {re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-") for heading in headings}
