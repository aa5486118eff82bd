"""No module imports itself through others, not even inside functions or for type checking."""

from __future__ import annotations

import ast
from collections.abc import Mapping
from pathlib import Path

import pytest

PACKAGES = ("ops_cuda", "sg3", "guidance", "nada", "recipes", "app_tabs", "benchmarks")


def imports_of(source: str, module: str, modules: set[str]) -> set[str]:
    """Modules of this repository that ``source`` imports anywhere."""
    found: set[str] = set()
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and node.level == 0 and node.module:
            names = {f"{node.module}.{alias.name}" for alias in node.names}
            # `from package import name` runs the package, unless `name` is a module of it.
            found |= names & modules if names <= modules else {node.module, *(names & modules)}
    return (found & modules) - {module}


def circles(graph: Mapping[str, set[str]]) -> list[list[str]]:
    """One circle through each module that reaches itself, without repeats."""
    found = {}
    for start in graph:
        paths, seen = [[start]], {start}
        while paths:
            path = paths.pop(0)
            if start in graph[path[-1]]:
                found.setdefault(frozenset(path), path)
                break
            for following in sorted(graph[path[-1]] - seen):
                seen.add(following)
                paths.append([*path, following])
    return list(found.values())


def module_name(path: Path) -> str:
    return ".".join(path.with_suffix("").parts).removesuffix(".__init__")


@pytest.mark.slow
def test_there_are_no_import_circles(root):
    files = {
        module_name(path.relative_to(root)): path
        for package in PACKAGES
        for path in (root / package).rglob("*.py")
    }
    assert len(files) > 200
    graph = {
        module: imports_of(path.read_text(encoding="utf-8"), module, set(files))
        for module, path in files.items()
    }
    assert circles(graph) == []


def test_a_circle_is_found():
    modules = {"a", "a.b", "a.c"}
    sources = {
        "a": "",
        "a.b": "def late():\n    from a import c\n",
        "a.c": "from typing import TYPE_CHECKING\nif TYPE_CHECKING:\n    from a.b import late",
    }
    graph = {name: imports_of(source, name, modules) for name, source in sources.items()}
    assert circles(graph) == [["a.b", "a.c"]]
