"""The site has a place for every document and every public name; the code on its pages runs."""

import ast
import pkgutil
import re
import runpy

import numpy as np
import pytest

import gap_jax
from gap_jax.stages.objective import Sample
from tests.documents.blocks import DOCUMENTS, NOTEBOOKS, ROOT, code_blocks, local_links, read, run_block

HOW_TO = sorted((ROOT / "docs" / "how-to").glob("*.md"))
problems = runpy.run_path(str(ROOT / "docs" / "check_links.py"))["problems"]


def test_every_document_has_a_place_in_the_navigation():
    places = re.findall(r"^ +- .+: (\S+\.(?:md|ipynb))$", read(ROOT / "mkdocs.yml"), re.MULTILINE)
    assert sorted(places) == sorted(str(path.relative_to(ROOT)) for path in (*DOCUMENTS, *NOTEBOOKS))


def test_every_public_name_is_in_the_reference_once():
    text = "\n".join(map(read, (ROOT / "docs" / "api").glob("*.md")))
    assert sorted(re.findall(r"^::: (\w+)$", text, re.MULTILINE)) == gap_jax.__all__


def test_the_readme_leads_to_all_pages_but_details():
    """From these pages, links lead to the others."""
    linked = {link.partition("#")[0] for link in local_links(ROOT / "README.md")}
    assert {f"docs/{path.name}" for path in (ROOT / "docs").glob("*.md")} - linked == {"docs/faq.md"}
    assert {"experiments/README.md", "CONTRIBUTING.md", "CHANGELOG.md", "LICENSE"} <= linked


@pytest.mark.parametrize("path", HOW_TO, ids=[path.stem for path in HOW_TO])
def test_a_how_to_page_says_one_thing_and_its_code_is_right(path):
    prose = re.sub(r"```.*?```", "", read(path), flags=re.S)
    assert re.match(r"# [A-Z]", prose) and len(prose.splitlines()) < 80
    for block in code_blocks(path):
        for node in ast.walk(ast.parse(block)):
            if isinstance(node, ast.ImportFrom) and node.module.startswith("gap_jax"):
                for alias in node.names:
                    pkgutil.resolve_name(f"{node.module}.{alias.name}")


def test_the_network_of_the_page_on_jax_models_predicts():
    path = ROOT / "docs" / "how-to" / "jax-model.md"
    (block,) = code_blocks(path)
    network = run_block(path, block, {})["network"]
    images = np.full((2, 4, 4, 3), 0.75, np.float32)
    np.testing.assert_allclose(network.predict(network.params, images), np.full((2, 4, 4, 1), 3))


def test_the_term_of_the_page_on_guidance_has_a_value_for_each_image():
    path = ROOT / "docs" / "how-to" / "guidance.md"
    (block,) = code_blocks(path)
    term = run_block(path, block, {})["darkness"]
    images = np.stack([np.zeros((4, 4, 3)), np.ones((4, 4, 3))])
    sample = Sample(images, np.zeros((1, 77, 8)), None, {}, None)
    np.testing.assert_array_equal(term.loss(term.params, sample), [0, 1])


def test_the_check_of_links_finds_what_is_broken(tmp_path):
    (tmp_path / "sub").mkdir()
    (tmp_path / "index.html").write_text('<h1 id="top"></h1><a href="sub/a.html#here">a</a>')
    (tmp_path / "sub" / "a.html").write_text('<p id="here"></p><a href="../index.html#top">b</a>')
    assert problems(tmp_path) == []
    (tmp_path / "sub" / "a.html").write_text(
        '<a href="../index.html#none"></a><a href="gone.html"></a><a href="https://a.example/"></a>'
        '<img src="https://b.example/x.png"><img src="x.png">'
    )
    assert [line.partition(" ")[2] for line in sorted(problems(tmp_path))] == [
        "links to sub/a.html#here, but that page has no such anchor",
        "links to ../index.html#none, but that page has no such anchor",
        "links to gone.html, which does not exist",
        "links to x.png, which does not exist",
        "loads https://b.example/x.png from another host",
    ]
    assert problems(tmp_path / "nothing") == [f"{tmp_path / 'nothing'} has no pages"]
