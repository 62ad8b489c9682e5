"""The notebooks use the public API alone, run in time, and become pages of the site."""

import ast
import itertools
import json
import re
import runpy
import sys
import time
import types
from pathlib import Path

import IPython.core.inputtransformer2
import nbformat
import numpy as np
import pytest
import yaml

import gap_jax
from tests.documents.blocks import NOTEBOOKS, ROOT, read

pages = runpy.run_path(str(ROOT / "docs" / "notebook_pages.py"))
page, for_colab = pages["page"], pages["for_colab"]
ADDRESS = "https://github.com/us/gap_jax"
every_notebook = pytest.mark.parametrize("path", NOTEBOOKS, ids=[path.stem for path in NOTEBOOKS])


def cells(path: Path, kind: str) -> list[dict]:
    return [cell for cell in json.loads(read(path))["cells"] if cell["cell_type"] == kind]


def kinds(cell: dict) -> list[list[str]]:
    """Return the kinds of each output of a code cell."""
    return [sorted(output.get("data", ["text"])) for output in cell["outputs"]]


def numbers(cell: dict) -> list[float]:
    """Return the numbers with a decimal point in the outputs of a code cell, printed or in tables."""
    texts = [output.get("text") or output["data"].get("text/markdown", "") for output in cell["outputs"]]
    return [float(word) for text in texts for word in re.findall(r"\b\d+\.\d+\b", "".join(text))]


def code(path: Path) -> str:
    """Return the code of a notebook without IPython's magic lines."""
    text = "\n".join("".join(cell["source"]) for cell in cells(path, "code"))
    return re.sub(r"^%.*$", "", text, flags=re.MULTILINE)


@every_notebook
def test_a_notebook_imports_gap_jax_and_uses_its_public_names(path):
    tree = ast.parse(code(path))
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            assert all(alias.name == "gap_jax" for alias in node.names if alias.name.startswith("gap_jax"))
        elif isinstance(node, ast.ImportFrom):
            assert not node.module.startswith("gap_jax")
    used = {
        node.attr
        for node in ast.walk(tree)
        if isinstance(node, ast.Attribute) and isinstance(node.value, ast.Name) and node.value.id == "gap_jax"
    }
    assert used and used <= set(gap_jax.__all__)


@every_notebook
def test_a_sentence_comes_before_every_cell_and_links_lead_to_files(path):
    kinds = [cell["cell_type"] for cell in json.loads(read(path))["cells"]]
    assert kinds[0] == "markdown" and ("code", "code") not in itertools.pairwise(kinds)
    assert re.match(r"# [A-Z].*\n\n", "".join(cells(path, "markdown")[0]["source"]))
    for cell in cells(path, "markdown"):
        text = "".join(cell["source"])
        assert re.search(r"[.:]$", text), text
        for link in re.findall(r"\]\(([^)]+)\)", text):
            assert (path.parent / link).resolve().is_file(), link


@pytest.mark.slow
@every_notebook
def test_the_outputs_are_those_of_a_whole_run_and_name_no_machine(path):
    numbers = [cell["execution_count"] for cell in cells(path, "code")]
    assert numbers == list(range(1, len(numbers) + 1))
    outputs = [output for cell in cells(path, "code") for output in cell["outputs"]]
    assert any(
        "image/png" in output.get("data", {}) or "text/markdown" in output.get("data", {})
        for output in outputs
    )
    text = "".join("".join(output.get("text", "")) for output in outputs)
    assert not re.search(r"(?m)(?:^|[\s'\"])/(?:home|root|tmp|work|usr)\b", text)
    assert path.stat().st_size < 2e6


NOTEBOOK = {
    "cells": [
        {"cell_type": "markdown", "source": "# Title\n\nSay what it is."},
        {"cell_type": "markdown", "source": "This `code` prints [a](a.md) and draws."},
        {
            "cell_type": "code",
            "source": ["x = 1\n", "print(x)"],
            "outputs": [
                {"output_type": "stream", "name": "stdout", "text": ["\x1b[1m1 < 2\x1b[0m\n"]},
                {"output_type": "display_data", "data": {"image/png": "AAAA\n", "text/plain": "<Figure>"}},
                {"output_type": "execute_result", "data": {"text/markdown": "| a |", "text/plain": "<M>"}},
            ],
        },
    ]
}


def test_a_page_has_the_text_the_code_and_the_outputs_of_its_notebook():
    text = page(json.dumps(NOTEBOOK), "docs/notebooks/a.ipynb", "../a.ipynb", None)
    assert text.startswith("# Title\n\nTo run this notebook on your own machine")
    assert "jupyter lab docs/notebooks/a.ipynb\n" in text and "[download the notebook](../a.ipynb)" in text
    assert "Colab" not in text
    assert text.endswith(
        "Say what it is.\n\n"
        "This `code` prints [a](a.md) and draws.\n\n"
        "```python\nx = 1\nprint(x)\n```\n\n"
        "```text\n1 < 2\n```\n\n"
        '<img alt="This code prints a and draws." src="data:image/png;base64,AAAA">\n\n'
        "| a |\n"
    )


def test_a_page_has_a_button_for_colab_where_the_repository_has_an_address_on_github():
    """Colab opens the notebook that is published with the site: it has the cell that installs gap_jax."""
    arguments = json.dumps(NOTEBOOK), "docs/notebooks/a.ipynb", "../a.ipynb"
    place = "https://colab.research.google.com/github/us/gap_jax/blob/gh-pages/notebooks/a.ipynb"
    assert f"# Title\n\n[Open in Colab]({place}){{ .md-button }}\n\nTo run" in page(*arguments, ADDRESS + "/")
    assert page(*arguments, "https://git.example/us/gap_jax") == page(*arguments, None)


@every_notebook
def test_the_first_cell_installs_gap_jax_in_colab_alone(path, monkeypatch):
    source = read(path)
    assert for_colab(source, None) == source
    added = nbformat.reads(for_colab(source, ADDRESS), as_version=4)
    nbformat.validate(added)
    cell = next(cell for cell in added.cells if cell.cell_type == "code")
    assert [other for other in added.cells if other is not cell] == nbformat.reads(source, as_version=4).cells

    run = []
    shell = types.SimpleNamespace(run_line_magic=lambda *words: run.append(words))
    names = {"get_ipython": lambda: shell}
    code = IPython.core.inputtransformer2.TransformerManager().transform_cell(cell.source)
    exec(code, names)
    assert run == []
    monkeypatch.setitem(sys.modules, "google.colab", None)
    exec(code, names)
    assert run == [("pip", f"install --quiet git+{ADDRESS}")]


def test_the_workflow_publishes_the_site_where_the_buttons_lead():
    jobs = yaml.safe_load(read(ROOT / ".github" / "workflows" / "checks.yml"))["jobs"]
    build, publish = jobs["docs"], jobs["site"]
    address = "${{ github.server_url }}/${{ github.repository }}"
    assert build["env"] == {"REPOSITORY": address}
    assert "!ENV [REPOSITORY, null]" in read(ROOT / "mkdocs.yml")
    assert publish["needs"] == "docs" and "push" in publish["if"]
    assert f"--branch {pages['SITE_BRANCH']} " in publish["steps"][-1]["run"]


def test_a_notebook_that_failed_is_no_page():
    failed = {"output_type": "error", "ename": "KeyError", "evalue": "'fog'"}
    cell = {"cell_type": "code", "source": "x", "outputs": [failed]}
    with pytest.raises(ValueError, match="failed with KeyError: 'fog'"):
        page(json.dumps({"cells": [NOTEBOOK["cells"][0], cell]}), "a.ipynb", "a.ipynb", None)


@pytest.mark.slow
@every_notebook
def test_a_notebook_runs_in_time_with_the_outputs_that_it_is_shown_with(path, tmp_path):
    execute, longest = (
        runpy.run_path(str(ROOT / "docs" / "run_notebooks.py"))[name] for name in ("execute", "LONGEST")
    )
    start = time.perf_counter()
    executed = execute(path, tmp_path)
    assert time.perf_counter() - start < longest

    found = [cell for cell in executed.cells if cell.cell_type == "code"]
    for new, shown in zip(found, cells(path, "code"), strict=True):
        assert kinds(new) == kinds(shown)
        # between machines, rounding grows over the steps of an optimisation
        np.testing.assert_allclose(numbers(new), numbers(shown), 0.2, 0.1, err_msg="".join(shown["source"]))
        if "similarity to the target" in "".join(shown["source"]):
            before, *guided = numbers(new)[1::2]
            assert before < min(guided)
    if path.stem == "adversarial":
        errors = -gap_jax.load_trajectory(tmp_path / "runs" / "adversarial")["adversarial"]
        assert errors[-4:].mean() > 2 * errors[:4].mean()
