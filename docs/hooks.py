"""The hooks of the site: documents outside `docs/`, notebooks, formulas, and the API reference.

A page is known by its path in the repository, so that links work here as in a view of the repository.
"""

import re
import sys
from pathlib import Path
from typing import Any

import latex2mathml.converter
from mkdocs.config.defaults import MkDocsConfig
from mkdocs.structure.files import File, Files
from mkdocs.structure.pages import Page
from mkdocs.utils import get_relative_url

ROOT = Path(__file__).parents[1]
OUTSIDE = (  # what pages link to, besides the files in docs/
    "README.md",
    "CHANGELOG.md",
    "CITATION.cff",
    "CONTRIBUTING.md",
    "LICENSE",
    "SECURITY.md",
    "constraints.txt",
    "experiments/*",
    "gap_jax/assets/*/README.md",
)

sys.path.insert(0, str(ROOT))  # the package is lazy: it imports none of its dependencies
from docs import notebook_pages  # noqa: E402
from gap_jax import _HOMES, _MODULES  # noqa: E402

HOMES = {**{name: f"{home}.{name}" for name, home in _HOMES.items()}, **_MODULES}
_pages: dict[str, str] = {}  # public name -> the page that documents it


class Notebook(File):
    """A notebook, whose page is made of its cells and outputs."""

    def is_documentation_page(self) -> bool:
        """Return True: it has a page."""
        return True


def formula(source: str, *_: Any, **__: Any) -> str:
    """Return a formula in LaTeX, of a code block `math`, as MathML, which browsers show without a script."""
    return latex2mathml.converter.convert(source.strip(), display="block")


def on_config(config: MkDocsConfig) -> None:
    """Add code blocks with formulas to Markdown, and a link to the repository to the footer."""
    if repository := config.extra["repository"]:
        link = {"icon": "material/source-repository", "link": repository, "name": "Repository"}
        config.extra["social"] = [link]
    fence = {"name": "math", "class": "math", "format": formula}
    config.mdx_configs.setdefault("pymdownx.superfences", {})["custom_fences"] = [fence]


def on_files(files: Files, config: MkDocsConfig) -> Files:
    """Name the files of `docs/` by their paths in the repository, and add those outside."""
    places = {}
    for file in list(files):
        if file.src_dir == config.docs_dir:
            files.remove(file)
            if file.src_uri.endswith(".ipynb"):
                add_notebook(files, config, file)
            elif file.inclusion.is_included():
                places[f"docs/{file.src_uri}"] = file.dest_uri
    for pattern in OUTSIDE:
        places |= {str(path.relative_to(ROOT)): None for path in ROOT.glob(pattern)}
    for source, destination in places.items():
        files.append(File(source, str(ROOT), config.site_dir, False, dest_uri=destination))
    return files


def add_notebook(files: Files, config: MkDocsConfig, file: File) -> None:
    """Add the page of a notebook, and its file to download."""
    path = f"docs/{file.src_uri}"
    repository = config.extra["repository"]
    runnable = notebook_pages.for_colab(file.content_string, repository)
    files.append(File.generated(config, file.src_uri, content=runnable))
    page = Notebook(path, None, config.site_dir, False, dest_uri=file.src_uri.replace(".ipynb", ".html"))
    download = get_relative_url(file.src_uri, path)
    page.content_string = notebook_pages.page(file.content_string, path, download, repository)
    files.append(page)


def on_page_markdown(markdown: str, page: Page, **_: Any) -> str:
    """Write out the lines `::: name` of the API reference, where `name` is a name of `gap_jax`."""

    def directive(match: re.Match[str]) -> str:
        name = match[1]
        _pages[name] = page.file.dest_uri
        heading = f"heading: gap_jax.{name}\n      toc_label: {name}"
        return f'<a id="gap_jax.{name}"></a>\n\n::: {HOMES[name]}\n    options:\n      {heading}'

    return re.sub(r"^::: (\w+)$", directive, markdown, flags=re.MULTILINE)


def on_page_content(html: str, **_: Any) -> str:
    """Keep lines from breaking within numbers with their errors or units, options and short code."""
    parts = re.split(r"(<pre.*?</pre>)", html, flags=re.DOTALL)
    return "".join(part if i % 2 else _keep_together(part) for i, part in enumerate(parts))


def _keep_together(html: str) -> str:
    html = re.sub(r"(?<=\d) ± (?=\d)", "\N{NO-BREAK SPACE}±\N{NO-BREAK SPACE}", html)
    html = re.sub(r"(?<=\d) (?=(%|ms|s|min|[kMG]B|[GT]FLOP)(</td>|[ .,;:)]))", "\N{NO-BREAK SPACE}", html)
    short = r"<code>([^<\s]{1,20}|[^<\s/]{1,32}|--[^<]{1,30})</code>"
    html = re.sub(short, r'<code class="whole">\1</code>', html)
    return re.sub(r"<code>[^<]+</code>", _mark_breaks, html)


def _mark_breaks(code: re.Match[str]) -> str:
    """Return longer code that may break after a slash, and does not break within an option."""
    text = re.sub(r"--[a-z][\w.-]{0,40}", r'<span class="whole">\g<0></span>', code[0])
    return re.sub(r"(?<!<)/", "/<wbr>", text)


def on_env(env: Any, config: MkDocsConfig, files: Files) -> Any:
    """Link the public names in code on all pages to the API reference."""
    pattern = re.compile(r"(?<!<a>)<code\b[^>]*>(gap_jax\.)?(\w+)(\(…\))?</code>(?!</a>)")
    for file in files.documentation_pages():
        page = file.page
        if page is None or page.content is None or file.src_uri.startswith("docs/api"):
            continue

        def link(match: re.Match[str], here: str = file.dest_uri) -> str:
            name = match[2]
            if name not in _pages or (not match[1] and name.islower() and "_" not in name):
                return match[0]  # a plain word in code, such as `plan`, need not be the function
            target = f"{get_relative_url(_pages[name], here)}#gap_jax.{name}"
            return f'<a href="{target}">{match[0]}</a>'

        parts = re.split(r"(<a\b.*?</a>|<h\d.*?</h\d>|<pre.*?</pre>)", page.content, flags=re.DOTALL)
        page.content = "".join(part if i % 2 else pattern.sub(link, part) for i, part in enumerate(parts))
    return env
