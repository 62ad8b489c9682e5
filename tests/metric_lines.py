"""The lines of a run's `metrics.jsonl`, for tests."""

import json
from pathlib import Path
from typing import Any


def read_metrics(folder: Path) -> list[dict[str, Any]]:
    """Return the complete lines of `folder/metrics.jsonl`."""
    *lines, _ = (folder / "metrics.jsonl").read_text().split("\n")
    return [json.loads(line) for line in lines]
