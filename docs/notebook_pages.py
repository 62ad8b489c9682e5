"""Notebooks as pages of the site: their text, code and outputs in Markdown, and links to run them."""

import html
import json
import re
from typing import Any

COLAB = "https://colab.research.google.com/"


def page(source: str, path: str, download: str, repository: str | None) -> str:
    """Return a notebook, given as the text of its file, as Markdown.

    - `path`: the notebook's path in the repository; `download`: a link to its file, for the page.
    - `repository`: the address of the repository on GitHub, from which Colab opens notebooks; None: there is
      none, and the page says how to upload the notebook.
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


def _ways_to_run(path: str, download: str, repository: str | None) -> str:
    if repository is None:
        return (
            f"[Download the notebook]({download}) to run it. In [Colab]({COLAB}), upload it and the wheel "
            "that `make wheel` builds, and install the wheel first: `%pip install gap_jax-*.whl`."
        )
    name = repository.removeprefix("https://github.com/").strip("/")
    return (
        f"[Open in Colab]({COLAB}github/{name}/blob/main/{path}) or [download the notebook]({download}). In "
        f"Colab, install gap_jax first: `%pip install git+{repository}`."
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
