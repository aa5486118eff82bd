"""Imports go one way: ops_cuda <- sg3 <- guidance <- nada <- recipes <- app_tabs <- app."""

from __future__ import annotations

import ast
from collections.abc import Iterator
from pathlib import Path

import pytest

ORDER = ("ops_cuda", "sg3", "guidance", "nada", "recipes", "app_tabs", "app")
# Nothing that is installed may lean on what stands beside it.
OUTSIDE = ("benchmarks", "tests", "conftest")
IMPORT_CALLS = ("import_module", "__import__", "find_spec")


def imported_modules(source: str) -> Iterator[tuple[int, str]]:
    """(line, absolute module name) of every import in ``source``, inside functions too.

    Relative imports stay inside their own top-level package and are left out.
    """
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Import):
            for alias in node.names:
                yield node.lineno, alias.name
        elif isinstance(node, ast.ImportFrom) and node.level == 0:
            yield node.lineno, node.module or ""
        elif isinstance(node, ast.Call) and node.args:
            name = getattr(node.func, "attr", getattr(node.func, "id", ""))
            first = node.args[0]
            if name in IMPORT_CALLS and isinstance(first, ast.Constant):
                yield node.lineno, str(first.value)


def violations(source: str, package: str) -> list[str]:
    """Imports in ``source``, a file of the top-level ``package``, that point upward."""
    higher = ORDER[ORDER.index(package) + 1 :] + OUTSIDE
    return [
        f"line {line}: {package} imports {module}"
        for line, module in imported_modules(source)
        if module.split(".")[0] in higher
    ]


def source_files(root: Path) -> list[tuple[str, Path]]:
    files = [(name, path) for name in ORDER[:-1] for path in sorted((root / name).rglob("*.py"))]
    return [*files, ("app", root / "app.py")]


def test_no_file_imports_upward(root):
    files = source_files(root)
    assert {name for name, _ in files} == set(ORDER), "a package of the order has no files"
    found = [
        f"{path.relative_to(root)} {line}"
        for name, path in files
        for line in violations(path.read_text(encoding="utf-8"), name)
    ]
    assert not found, "\n".join(found)


@pytest.mark.parametrize(
    ("package", "source"),
    [
        ("ops_cuda", "import sg3"),
        ("sg3", "from guidance.encoders import base"),
        ("sg3", "def late():\n    from guidance import steer\n    return steer"),
        ("guidance", "if True:\n    import numpy, nada.adapt as a"),
        ("nada", "import importlib\nm = importlib.import_module('recipes.minifaces')"),
        ("nada", "m = __import__('app')"),
        ("recipes", "from app import build"),
        ("sg3", "import tests.helpers"),
    ],
)
def test_an_upward_import_is_detected(package, source):
    assert len(violations(source, package)) == 1


@pytest.mark.parametrize(
    ("package", "source"),
    [
        ("app", "import guidance, sg3, recipes.minifaces"),
        ("guidance", "from sg3.networks import build_network\nfrom . import recipes"),
        ("sg3", "TABLE = {'steer': 'guidance.commands.steer:steer'}\nimport guidance_of_others"),
    ],
)
def test_downward_and_unrelated_imports_pass(package, source):
    assert violations(source, package) == []
