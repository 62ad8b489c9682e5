"""Executes the notebooks of the site and keeps their outputs: `make notebooks`.

Run it as `python docs/run_notebooks.py [notebook …]`; without names, it executes all in `docs/notebooks/`.
"""

import sys
import tempfile
import time
from pathlib import Path

import nbformat
from nbclient import NotebookClient

FOLDER = Path(__file__).parent / "notebooks"
LONGEST = 300  # seconds a notebook may take, on two cores


def execute(path: Path, work: Path) -> nbformat.NotebookNode:
    """Return a notebook with its outputs, after it was executed in the folder `work`.

    What it writes to the standard error, such as progress bars, is left out. Raises the error of its first
    cell that fails, and TimeoutError for a cell that takes too long.
    """
    notebook = nbformat.read(path, nbformat.NO_CONVERT)
    place = {"metadata": {"path": str(work)}}
    NotebookClient(
        notebook, timeout=LONGEST, record_timing=False, coalesce_streams=True, resources=place
    ).execute()
    for cell in notebook.cells:
        if cell.cell_type == "code":
            cell.outputs = [output for output in cell.outputs if output.get("name") != "stderr"]
    notebook.metadata.language_info = {"name": "python"}  # the rest differs from machine to machine
    return notebook


def main() -> None:
    """Execute the notebooks that are named, or all."""
    for path in map(Path, sys.argv[1:] or sorted(FOLDER.glob("*.ipynb"))):
        start = time.perf_counter()
        with tempfile.TemporaryDirectory() as work:
            nbformat.write(execute(path, Path(work)), path)
        print(f"{path}: {time.perf_counter() - start:.0f} s", flush=True)


if __name__ == "__main__":
    main()
