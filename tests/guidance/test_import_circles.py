"""Modules of `guidance` do not import each other in circles, not even for types."""

from __future__ import annotations

import ast
import graphlib
from pathlib import Path


def imported(path: Path, known: set[str]) -> set[str]:
    """Modules of `known` that a file imports anywhere; those of its own package by name."""
    found = set()
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and node.module:
            found |= {node.module, *(f"{node.module}.{alias.name}" for alias in node.names)}
    return found & known


def test_there_are_no_circles(root):
    files = {
        ".".join(path.relative_to(root).with_suffix("").parts).removesuffix(".__init__"): path
        for path in (root / "guidance").rglob("*.py")
    }
    assert len(files) > 40
    graph = {name: imported(path, set(files)) for name, path in files.items()}
    graphlib.TopologicalSorter(graph).prepare()  # raises CycleError, which names the circle
