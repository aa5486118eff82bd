"""Where benchmarks write their results."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

FOLDER = Path("out/bench")


def write_results(name: str, results: dict[str, Any]) -> Path:
    """Write `results` as JSON to out/bench/NAME.json; returns the path."""
    path = FOLDER / f"{name}.json"
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(results, indent=2) + "\n", encoding="utf-8")
    return path
