"""Notebooks as pages of the site: their text, code and outputs in Markdown, and the ways to run them."""

import html
import json
import re
from typing import Any

GITHUB, COLAB = "https://github.com/", "https://colab.research.google.com/github/"
SITE_BRANCH = "gh-pages"  # where the workflow publishes the site, and with it the notebooks that Colab opens


def page(source: str, path: str, download: str, repository: str | None) -> str:
    """Return a notebook, given as the text of its file, as Markdown.

    - `path`: the notebook's path in the repository; `download`: a link to its file, for the page.
    - `repository`: the repository's address on GitHub, or None if it is not known. Only with an address, the
      page has a button that opens the notebook in Colab.
    """
    title, *cells = json.loads(source)["cells"]
    heading, _, rest = _text(title["source"]).partition("\n")
    parts, caption = [heading, _ways_to_run(path, download, repository), rest], ""
    for cell in cells:
        text = _text(cell["source"])
        if cell["cell_type"] == "markdown":
            parts.append(text)
            caption = text
        else:
            parts.append(f"```python\n{text}\n```")
            parts += [_output(output, caption) for output in cell["outputs"]]
    return "\n\n".join(part.strip("\n") for part in parts) + "\n"


def for_colab(source: str, repository: str | None) -> str:
    """Return the text of a notebook's file with a first code cell that installs gap_jax if it runs in Colab.

    Without the repository's address, the text is returned as it is.
    """
    if not repository:
        return source
    notebook = json.loads(source)
    code = (
        "import sys\n\n"
        'if "google.colab" in sys.modules:  # anywhere else, gap_jax is installed already\n'
        f"    %pip install --quiet git+{repository}"
    )
    cell = {"cell_type": "code", "execution_count": None, "id": "install", "metadata": {}, "outputs": []}
    notebook["cells"].insert(1, cell | {"source": code})
    return json.dumps(notebook, indent=1, ensure_ascii=False) + "\n"


def _ways_to_run(path: str, download: str, repository: str | None) -> str:
    name = path.removeprefix("docs/")
    button = ""
    if repository and repository.startswith(GITHUB):
        place = f"{repository.removeprefix(GITHUB).strip('/')}/blob/{SITE_BRANCH}/{name}"
        button = f"[Open in Colab]({COLAB}{place}){{ .md-button }}\n\n"
    return (
        f"{button}To run this notebook on your own machine, open it from a checkout:\n\n"
        "```sh\n"
        ".venv/bin/pip install jupyterlab\n"
        f".venv/bin/jupyter lab {path}\n"
        "```\n\n"
        f"You can also [download the notebook]({download})."
    )


def _output(output: dict[str, Any], caption: str) -> str:
    """Return an output of a code cell: a picture, Markdown or text. The caption describes a picture."""
    if output["output_type"] == "error":
        raise ValueError(f"a cell of the notebook failed with {output['ename']}: {output['evalue']}")
    data = output.get("data", {"text/plain": output.get("text", "")})
    if "image/png" in data:
        described = html.escape(re.sub(r"[`*]|\]\([^)]*\)|\[", "", caption))
        return f'<img alt="{described}" src="data:image/png;base64,{_text(data["image/png"]).strip()}">'
    if "text/markdown" in data:
        return _text(data["text/markdown"])
    without_colours = re.sub(r"\x1b\[[\d;]*m", "", _text(data["text/plain"]))
    return f"```text\n{without_colours.rstrip()}\n```"


def _text(lines: str | list[str]) -> str:
    """Return a text that a notebook's file has as one string or as lines."""
    return lines if isinstance(lines, str) else "".join(lines)
